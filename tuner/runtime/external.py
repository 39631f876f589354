"""Trials by a command of the user's: TrialSpec JSON on its stdin, TrialResult JSON on its stdout, progress on stderr.

Knows nothing of what the command does. It blocks while the trial runs, is idempotent by the spec's id, and does not
outlive this controller; after a restart every trial is `gone` and the command is run again.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from tempfile import TemporaryFile
from typing import IO

from tuner.errors import RuntimeUnusable
from tuner.runtime.protocol import Ended, Fate, Notice, Stage
from tuner.trial.result import Failure, TrialResult
from tuner.trial.spec import TrialSpec

# sysexits.h EX_TEMPFAIL: "not the configuration's fault, run it again".
EXIT_TRY_AGAIN = 75

# Between SIGTERM and SIGKILL: time to take down what the command has deployed.
_STOP_S = 10.0
_WORDS_CHARS = 300
_RESULT_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class _Run:
    spec: TrialSpec
    ended: bool = False
    stopped: bool = False
    control: int = -1
    thread: threading.Thread | None = None
    last_words: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def stop(self) -> None:
        """Close the control pipe: the supervisor ends the command with all it started."""
        with self.lock:
            self.stopped = True
            self._close()

    def hold(self, control: int) -> None:
        """The control pipe of the command just started; closed at once if the trial was stopped meanwhile."""
        with self.lock:
            self.control = control
            if self.stopped:
                self._close()

    def _close(self) -> None:
        if self.control >= 0:
            os.close(self.control)
        self.control = -1


class ExternalRuntime:
    """Runs `command` once per trial, up to `parallel` at a time in every pool, for at most `timeout_s` each."""

    name = "external"
    simulated = False  # a result says itself whether it was

    def __init__(self, command: Sequence[str], *, timeout_s: float, parallel: int = 1, stop_s: float = _STOP_S) -> None:
        if not command:
            raise RuntimeUnusable("the external runtime has no command; give one with --command")
        self._command = tuple(command)
        self._timeout_s = timeout_s
        self._parallel = max(1, parallel)
        self._stop_s = stop_s
        self._runs: dict[str, _Run] = {}
        self._notices: queue.Queue[tuple[_Run, Notice]] = queue.Queue()

    # --- the Protocol

    def slots(self, pool: str) -> int:  # noqa: ARG002 - the command decides what a pool is
        return self._parallel

    def start(self, spec: TrialSpec) -> None:
        known = self._runs.get(spec.id)
        if known is not None and known.spec.attempt == spec.attempt:
            return
        self.release(spec.id)
        run = _Run(spec)
        self._runs[spec.id] = run
        run.thread = threading.Thread(target=self._run, args=(run,), name=f"external {spec.id}", daemon=True)
        run.thread.start()

    def poll(self, timeout_s: float) -> Sequence[Notice]:
        notices: list[Notice] = []
        with suppress(queue.Empty):
            self._collect(notices, self._notices.get(timeout=max(0.0, timeout_s)))
            while True:
                self._collect(notices, self._notices.get_nowait())
        return notices

    def reconcile(self, study_uid: str, expected: Mapping[str, int]) -> dict[str, Fate]:  # noqa: ARG002 - nothing survives
        for trial_id in [i for i, run in self._runs.items() if expected.get(i) != run.spec.attempt]:
            self.release(trial_id)
        return {trial_id: self._fate(trial_id) for trial_id in expected}

    def release(self, trial_id: str) -> None:
        run = self._runs.pop(trial_id, None)
        if run is not None:
            self._end([run])

    def now_s(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        self._end(list(self._runs.values()))
        self._runs.clear()

    # --- one trial

    def _collect(self, notices: list[Notice], item: tuple[_Run, Notice]) -> None:
        """What a trial said that was released meanwhile is of no interest."""
        run, notice = item
        if self._runs.get(run.spec.id) is run:
            run.ended = run.ended or isinstance(notice, Ended)
            notices.append(notice)

    def _run(self, run: _Run) -> None:
        started_s = time.monotonic()
        try:
            result = self._answer(run)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            result = _no_result(run.spec, "no_result", f"{self._command[0]}: {error}", time.monotonic() - started_s)
        self._notices.put((run, Ended(run.spec.id, run.spec.attempt, result)))

    def _answer(self, run: _Run) -> TrialResult:
        """The command's result, or a failure that says why there is none."""
        started_s = time.monotonic()
        with TemporaryFile() as given, TemporaryFile() as answered:
            given.write(json.dumps(run.spec.as_json()).encode())
            given.seek(0)
            code, timed_out = self._execute(run, given, answered)
            after_s = time.monotonic() - started_s
            if timed_out:
                limit = f"the command took longer than {self._timeout_s:.0f} s and was ended"
                why = f"{limit}; raise the timeout if it was at work"
                return _no_result(run.spec, "timeout", why, after_s)
            if code != 0:
                kind = "try_again" if code == EXIT_TRY_AGAIN else "command_failed"
                words = f": {run.last_words[:_WORDS_CHARS]}" if run.last_words else ""
                return _no_result(run.spec, kind, f"{self._command[0]} ended with exit code {code}{words}", after_s)
            answered.seek(0)
            document = json.loads(answered.read(_RESULT_BYTES))
        result = TrialResult.from_json(document)
        if result.id != run.spec.id:
            raise ValueError(f"its result is for trial {result.id!r}, not for {run.spec.id!r}")
        # Budgets of GPU-hours and USD are sums of it: what the command does not say is the time it took.
        return result if "gpu_seconds" in document else replace(result, gpu_seconds=run.spec.gpus * after_s)

    def _execute(self, run: _Run, given: IO[bytes], answered: IO[bytes]) -> tuple[int, bool]:
        """Exit code, and whether the time ran out."""
        theirs, control = os.pipe()
        command = [sys.executable, "-m", "tuner.runtime.supervise", "--control-fd", str(theirs)]
        command += ["--stop-s", str(self._stop_s), "--", *self._command]
        try:
            child = subprocess.Popen(
                command,
                stdin=given,
                stdout=answered,
                stderr=subprocess.PIPE,
                pass_fds=(theirs,),
                start_new_session=True,
            )
        except OSError:
            os.close(control)
            raise
        finally:
            os.close(theirs)
        run.hold(control)
        assert child.stderr is not None
        reader = threading.Thread(target=self._pass_on, args=(run, child.stderr), daemon=True)
        reader.start()
        timed_out = False
        try:
            code = child.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            run.stop()
            code = child.wait()
        run.stop()
        reader.join(self._stop_s)
        return code, timed_out

    def _pass_on(self, run: _Run, stderr: IO[bytes]) -> None:
        with stderr:
            for raw in stderr:
                if line := raw.decode(errors="replace").strip():
                    run.last_words = line
                    self._notices.put((run, Stage(run.spec.id, line[:_WORDS_CHARS])))

    def _end(self, runs: Sequence[_Run]) -> None:
        for run in runs:
            run.stop()
        for run in runs:
            if run.thread is not None:
                run.thread.join()

    def _fate(self, trial_id: str) -> Fate:
        run = self._runs.get(trial_id)
        if run is None:
            return "gone"
        return "finished" if run.ended else "running"


def _no_result(spec: TrialSpec, kind: str, why: str, after_s: float) -> TrialResult:
    message = f"the external command left no result - trial {spec.id}: {why} - the trial is repeated"
    failure = Failure("infrastructure", kind, message)
    return TrialResult(spec.id, "failed", failure=failure, gpu_seconds=spec.gpus * after_s, simulated=spec.simulated)
