"""`python -m tuner.trial`: one TrialSpec in, progress and one TrialResult out, as JSON lines on stdout.

Lines are `{"stage": text}`, `{"level": {...}}` and at the end `{"result": {...}}`; with `--records` each is a numbered
checksummed record of at most 12 KiB a line (`tuner.trial.records`). The working directory's `records.log` gets every
level as it ends, and the file of `--termination-message` what is known at every phase, in 2 KiB.

Exit 0: it ended by itself, also with a failed engine. 75: it was told to stop (SIGTERM, SIGINT, SIGHUP, or the control
pipe closed) and what it had measured is in its result. 2: the specification cannot be read. 1: a fault of the runner.
"""

# Signals first: as PID 1 of a container the default is to ignore them, and the imports below take their time.
from __future__ import annotations

import os
import signal
import sys
import threading
import time

EXIT_OK = 0
EXIT_FAULT = 1
EXIT_BAD_SPEC = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL: run it again

_stop_reasons: list[str] = []


def _on_signal(number: int, _frame: object) -> None:
    _stop_reasons.append(f"received {signal.Signals(number).name}")


if __name__ == "__main__":
    for _number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(_number, _on_signal)
    # The bundle's launcher holds them back until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

# ruff: noqa: E402
import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from tuner.probe.measurement import Level
from tuner.trial import failures
from tuner.trial.compact import MessageFile
from tuner.trial.engine_process import EngineProcess
from tuner.trial.hooks import Hooks
from tuner.trial.result import TrialResult
from tuner.trial.runner import run_trial
from tuner.trial.spec import TrialSpec
from tuner.trial.telling import Files, Lines

# After a request to stop: winding up the load, the engine's drain, ten seconds of SIGKILL. Then the hard way.
_STOP_AT_MOST_S = 25.0
_LOOK_EVERY_S = 0.2


class Stopping:
    """Whether to stop, asked from the trial; and a last resort if the trial does not manage to."""

    def __init__(self) -> None:
        self.engine: EngineProcess | None = None

    def reason(self) -> str:
        return _stop_reasons[0] if _stop_reasons else ""

    def watch(self, control_fd: int | None) -> None:
        if control_fd is not None:
            threading.Thread(target=self._await_closed, args=(control_fd,), name="control", daemon=True).start()
        threading.Thread(target=self._last_resort, name="last-resort", daemon=True).start()

    def _await_closed(self, control_fd: int) -> None:
        while os.read(control_fd, 1):
            pass
        _stop_reasons.append("the controller is gone")

    def _last_resort(self) -> None:
        while not self.reason():
            time.sleep(_LOOK_EVERY_S)
        time.sleep(_STOP_AT_MOST_S)
        if self.engine is not None:
            self.engine.kill()
        os._exit(EXIT_STOPPED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trial that `--spec` or stdin describes."""
    options = _parse(argv)
    try:
        text = options.spec.read_text(encoding="utf-8") if options.spec else sys.stdin.read()
        spec = TrialSpec.from_json(json.loads(text))
    except (OSError, ValueError, TypeError, KeyError) as error:
        return _refuse(f"the specification cannot be read - {options.spec or 'stdin'}: {error}", options)
    stopping = Stopping()
    stopping.watch(options.control_fd)
    workdir = options.workdir or Path(f"trial-{spec.id}")
    lines = Lines(sys.stdout, records=options.records)
    files = Files(workdir, options.termination_message)
    for outlet in (lines, files):
        outlet.put("begin", {"id": spec.id, "attempt": spec.attempt, "fingerprint": spec.fingerprint})
    result, code = _run(spec, workdir, lines, files, stopping)
    for outlet in (files, lines):
        outlet.put("result", result.as_json())
    files.checkpoint(result)
    for outlet in (files, lines):
        outlet.close(stopping.reason)
    return EXIT_STOPPED if stopping.reason() and code == EXIT_OK else code


def _refuse(why: str, options: argparse.Namespace) -> int:
    sys.stderr.write(f"tuner.trial: {why}\n")
    if options.termination_message:
        with suppress(OSError):  # it is on stderr already
            MessageFile(options.termination_message).write(f"tuner.trial: {why}")
    return EXIT_BAD_SPEC


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tuner.trial", description="Run one trial and print its result.")
    parser.add_argument("--spec", type=Path, help="file with the TrialSpec as JSON (default: stdin)")
    parser.add_argument("--workdir", type=Path, help="where the engine's log goes (default: trial-ID here)")
    parser.add_argument("--control-fd", type=int, help="stop when this descriptor's other end is closed")
    parser.add_argument("--records", action="store_true", help="write numbered, checksummed records to stdout")
    parser.add_argument("--termination-message", type=Path, metavar="PATH", help="keep what is known in this file")
    return parser.parse_args(argv)


def _run(spec: TrialSpec, workdir: Path, lines: Lines, files: Files, stopping: Stopping) -> tuple[TrialResult, int]:
    def on_level(level: Level) -> None:
        for outlet in (files, lines):
            outlet.put("level", asdict(level))

    def on_engine(engine: EngineProcess) -> None:
        stopping.engine = engine

    hooks = Hooks(
        progress=lambda text: lines.put("stage", text),
        on_level=on_level,
        checkpoint=files.checkpoint,
        stop_reason=stopping.reason,
        on_engine=on_engine,
    )
    try:
        return run_trial(spec, workdir=workdir, hooks=hooks), EXIT_OK
    except Exception as error:  # noqa: BLE001 - the result says it: whatever went wrong here was not the engine's doing
        return TrialResult(spec.id, "failed", failure=failures.runner_fault(error)), EXIT_FAULT


if __name__ == "__main__":
    sys.exit(main())
