"""The serving engine as a child process: started in a session of its own, with its output in a file.

Knows no protocol and no failure kinds.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuner.trial.family import ProcessFamily


class EngineProcess(ProcessFamily):
    """A running engine. Its output goes to a file, never to a pipe that could fill and block it."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log_path: Path, *, mark: str) -> None:
        self.log_path = log_path
        with log_path.open("ab") as log:
            super().__init__(argv, env, mark=mark, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
