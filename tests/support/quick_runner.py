"""In place of the runner inside a fake cluster's pods: tells what a runner tells, without an engine, in a moment.

The capacity it reports depends on the configuration alone. `QUICK_RUNNER_S` is how long it "measures", and if
`QUICK_RUNNER_UNTIL` names a file it goes on until that is there.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tuner.probe.measurement import Level
from tuner.trial.compact import compact
from tuner.trial.records import lines_of
from tuner.trial.result import Failure, TrialResult

LEVEL = Level(1, "open", 2.1, None, 0.0, 60.0, 126, 0, 0, 0.4, 1.2, 20.0, 25.0, 8.0, "holds")


def main() -> int:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    parser = argparse.ArgumentParser()
    for name in ("spec", "workdir", "termination-message"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--records", action="store_true")
    options = parser.parse_args()
    spec = __import__("json").loads(options.spec.read_text())
    tell("begin", 1, {"id": spec["id"], "attempt": spec["attempt"], "fingerprint": spec["fingerprint"]})
    why = Failure("infrastructure", "interrupted", "the runner did not get to its end")
    message = options.termination_message
    message.write_text(compact(TrialResult(spec["id"], "failed", failure=why)))
    tell("stage", 2, "measuring")
    tell("level", 3, asdict(LEVEL))
    until_s = time.monotonic() + float(os.environ.get("QUICK_RUNNER_S", "0.1"))
    gate = Path(os.environ.get("QUICK_RUNNER_UNTIL", "/"))
    while (time.monotonic() < until_s or not gate.exists()) and not stopped:
        time.sleep(0.02)
    if stopped:
        return 75
    argv = spec["argv"]
    slots = int(argv[argv.index("--max-running-requests") + 1]) if "--max-running-requests" in argv else 4
    result = TrialResult(spec["id"], "measured", 2.0 * slots, 0.5, 8.0 * slots, gpu_seconds=0.1, simulated=True)
    tell("result", 4, result.as_json())
    message.write_text(compact(result))
    return 0


def tell(kind: str, number: int, value: object) -> None:
    for line in lines_of(number, kind, value):
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
