"""For programs that run controllers until they kill themselves: a process of its own, and the hook that kills it."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Numbered:
    """Numbers all it is told of, `before ...` and `after ...`, logs both sides, and SIGKILLs this process at one.

    `kill_at` is (`before` or `after`, number); None: never.
    """

    def __init__(self, log: Path, kill_at: Sequence[Any] | None) -> None:
        self._kill_at = tuple(kill_at or ())
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._number = 0

    def __call__(self, said: str) -> None:
        when, _, name = said.partition(" ")
        self._number += when == "before"
        os.write(self._log, f"{when} {self._number} {name}\n".encode())
        if (when, self._number) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def in_a_process_of_its_own(work, *args) -> int:
    """Fork, run, and return the exit code: 0, 1 for an exception, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(*args)
            code = 0
        except BaseException:  # noqa: BLE001 - nothing may run on into the parent's code
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
