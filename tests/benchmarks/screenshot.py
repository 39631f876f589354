"""Makes the picture in README: `make demo`'s study, its report, Chromium. `make screenshot` runs it, minutes long."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from support.chromium import render  # noqa: E402

COMMANDS = (
    ("search", "--space", "amd-mi355x.yaml", "--runtime", "simulated", "--trials", "30"),
    ("report", "--space", "amd-mi355x.yaml"),
)


def main() -> None:
    tuner = Path(sys.executable).with_name("tuner")
    with tempfile.TemporaryDirectory() as folder:
        for words in COMMANDS:
            subprocess.run([tuner, *words], cwd=folder, check=True, timeout=1800)
        render(
            Path(folder) / "glm52-mi355x.html", Path(folder), size="1180,860", shot=TESTS.parent / "docs/report.webp"
        )


if __name__ == "__main__":
    main()
