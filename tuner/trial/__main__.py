"""`python -m tuner.trial`: one TrialSpec in, progress and one TrialResult out, as JSON lines on stdout.

Lines are `{"stage": text}`, `{"level": {...}}` and at the end `{"result": {...}}`. Exit 0: it ended by itself, also
with a failed engine. 75: it was told to stop (SIGTERM, SIGINT, SIGHUP, or the control pipe closed) and what it had
measured is in its result. 2: the specification cannot be read. 1: a fault of the runner itself.
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

# ruff: noqa: E402
import argparse
import json
import math
import queue
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from tuner.probe.measurement import Level
from tuner.trial import failures
from tuner.trial.engine_process import EngineProcess
from tuner.trial.hooks import Hooks
from tuner.trial.result import TrialResult
from tuner.trial.runner import run_trial
from tuner.trial.spec import TrialSpec

# After a request to stop: winding up the load, the engine's drain, ten seconds of SIGKILL. Then the hard way.
_STOP_AT_MOST_S = 25.0
_LOOK_EVERY_S = 0.2
# Once told to stop, a reader gets this long to take the last line.
_FLUSH_S = 5.0


class Lines:
    """Writes JSON lines from a thread of its own: a reader that pauses must not stop the clock of a load."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="lines", daemon=True)
        self._writer.start()

    def put(self, kind: str, value: Any) -> None:
        self._waiting.put(json.dumps({kind: _finite(value)}, allow_nan=False))

    def close(self, stopping: Stopping) -> None:
        """Wait until all is written; not for ever once we were told to stop."""
        self._waiting.put(None)
        while self._writer.is_alive() and not stopping.reason():
            self._writer.join(_LOOK_EVERY_S)
        self._writer.join(_FLUSH_S)

    def _write(self) -> None:
        with suppress(OSError):  # nobody reads any more; the control pipe says what to do about it
            while (line := self._waiting.get()) is not None:
                self._stream.write(line + "\n")
                self._stream.flush()


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
        sys.stderr.write(f"tuner.trial: the specification cannot be read - {options.spec or 'stdin'}: {error}\n")
        return EXIT_BAD_SPEC
    stopping = Stopping()
    stopping.watch(options.control_fd)
    lines = Lines(sys.stdout)
    result, code = _run(spec, options.workdir or Path(f"trial-{spec.id}"), lines, stopping)
    lines.put("result", result.as_json())
    lines.close(stopping)
    return EXIT_STOPPED if stopping.reason() and code == EXIT_OK else code


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tuner.trial", description="Run one trial and print its result.")
    parser.add_argument("--spec", type=Path, help="file with the TrialSpec as JSON (default: stdin)")
    parser.add_argument("--workdir", type=Path, help="where the engine's log goes (default: trial-ID here)")
    parser.add_argument("--control-fd", type=int, help="stop when this descriptor's other end is closed")
    return parser.parse_args(argv)


def _run(spec: TrialSpec, workdir: Path, lines: Lines, stopping: Stopping) -> tuple[TrialResult, int]:
    def on_level(level: Level) -> None:
        lines.put("level", asdict(level))

    def on_engine(engine: EngineProcess) -> None:
        stopping.engine = engine

    hooks = Hooks(
        progress=lambda text: lines.put("stage", text),
        on_level=on_level,
        stop_reason=stopping.reason,
        on_engine=on_engine,
    )
    try:
        return run_trial(spec, workdir=workdir, hooks=hooks), EXIT_OK
    except Exception as error:  # noqa: BLE001 - the result says it: whatever went wrong here was not the engine's doing
        return TrialResult(spec.id, "failed", failure=failures.runner_fault(error)), EXIT_FAULT


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    sys.exit(main())
