"""`python -m tuner.runtime.supervise --control-fd N -- command...`: run a command that cannot outlive its starter.

When the other end of the descriptor closes, the command and all it started get SIGTERM, then SIGKILL. Standard input,
output and the exit code are the command's own. Knows nothing of trials.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
from collections.abc import Sequence
from typing import Any

from tuner.trial.family import ProcessFamily

EXIT_ENDED = 75
EXIT_NOT_STARTED = 127
_LOOK_EVERY_MS = 100


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command to its end, or end it."""
    options = _parse(argv)
    try:
        family = ProcessFamily(options.command, {}, mark=f"supervised.{os.getpid()}")
    except OSError as error:
        sys.stderr.write(f"{options.command[0]}: {error.strerror}\n")
        return EXIT_NOT_STARTED
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: _end(family, options.stop_s))
    closed = select.poll()
    closed.register(options.control_fd, select.POLLIN | select.POLLHUP)
    while (code := family.exit_code()) is None:
        if closed.poll(_LOOK_EVERY_MS):
            _end(family, options.stop_s)
    family.kill()
    return code if code >= 0 else 128 - code


def _end(family: ProcessFamily, stop_s: float) -> None:
    family.stop(stop_s)
    os._exit(EXIT_ENDED)


def _parse(argv: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(prog="python -m tuner.runtime.supervise", description="Run a command to its end.")
    parser.add_argument("--control-fd", type=int, required=True, help="end the command when this closes")
    parser.add_argument("--stop-s", type=float, default=10.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("command", nargs="+")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
