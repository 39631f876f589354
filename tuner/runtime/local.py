"""Trials on this machine: each a child `python -m tuner.trial`, which ends when this controller does.

Knows no Optuna and no search. Nothing outlives the controller, so after a restart every trial is `gone` and runs again.
"""

from __future__ import annotations

import os
import selectors
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tuner.errors import RuntimeUnusable
from tuner.probe.measurement import Level
from tuner.runtime.deadlines import longest_s
from tuner.runtime.gpus import GpuLocks, choose, present_gpus, visible_variable
from tuner.runtime.protocol import Ended, Fate, Notice, Stage
from tuner.runtime.runner_process import (
    STOP_AT_MOST_S,
    Line,
    RunnerProcess,
    await_end,
    end_remains,
    lives,
    remove,
)
from tuner.runtime.stages import level_text
from tuner.trial.result import Failure, TrialResult
from tuner.trial.spec import TrialSpec

_OWNER_NAME = "study-uid"


@dataclass(slots=True)
class _Run:
    """One trial this controller knows: waiting (no process yet), running, or ended."""

    spec: TrialSpec
    folder: Path
    process: RunnerProcess | None = None
    gpus: tuple[str, ...] = ()
    started_s: float = 0.0
    levels: list[Level] = field(default_factory=list)
    result: TrialResult | None = None
    ended: bool = False


class LocalRuntime:
    """Runs trials as processes of this machine. `workdir` belongs to one study and holds its trials' folders.

    `gpus` names the machine's GPUs; None: look. Where there are none, trials are bounded by the pools' slots alone.
    `files` is the folder of the files a workload names (prompts, traces).
    `on_process_start` is called right before and right after a runner is started.
    """

    name = "local"
    simulated = False  # a result says itself whether a simulated engine answered

    def __init__(
        self,
        slots_by_pool: Mapping[str, int],
        *,
        workdir: Path,
        gpus: Sequence[str] | None = None,
        gpu_locks: Path | None = None,
        files: Path | None = None,
        python: str = sys.executable,
        on_process_start: Callable[[str], None] | None = None,
    ) -> None:
        self._slots = dict(slots_by_pool)
        self._workdir = workdir.resolve()
        self._gpus = present_gpus() if gpus is None else tuple(gpus)
        self._locks = GpuLocks(gpu_locks or Path(tempfile.gettempdir()) / f"tuner-gpus-{os.getuid()}")
        self._python = python
        self._files = files
        self._on_process_start = on_process_start or (lambda _: None)
        self._runs: dict[str, _Run] = {}
        self._waiting: deque[_Run] = deque()
        self._notices: list[Notice] = []
        self._selector = selectors.DefaultSelector()

    # --- the Protocol

    def slots(self, pool: str) -> int:
        return max(1, self._slots.get(pool, 1))

    def start(self, spec: TrialSpec) -> None:
        known = self._runs.get(spec.id)
        if known is not None and known.spec.attempt == spec.attempt:
            return
        if self._gpus and spec.gpus > len(self._gpus):
            raise RuntimeUnusable(
                f"trial {spec.id} needs {spec.gpus} GPUs and this machine has {len(self._gpus)}; "
                f"lower the layout's gpus in the space file, or search on a cluster"
            )
        self.release(spec.id)
        run = _Run(spec, self._workdir / f"{spec.id}-{spec.attempt}")
        self._runs[spec.id] = run
        self._waiting.append(run)
        self._start_waiting()
        if run in self._waiting:
            self._notices.append(Stage(spec.id, f"waiting for {spec.gpus} free GPUs of this machine"))

    def poll(self, timeout_s: float) -> Sequence[Notice]:
        self._start_waiting()
        give_up_s = time.monotonic() + timeout_s
        while not self._notices:
            left_s = give_up_s - time.monotonic()
            self._read(max(0.0, left_s))
            self._end_overdue()
            if left_s <= 0:
                break
        notices, self._notices = self._notices, []
        return notices

    def reconcile(self, study_uid: str, expected: Mapping[str, int]) -> dict[str, Fate]:
        self._claim(study_uid)
        for trial_id in [i for i, run in self._runs.items() if expected.get(i) != run.spec.attempt]:
            self.release(trial_id)
        self._remove_foreign_folders()
        return {trial_id: self._fate(trial_id) for trial_id in expected}

    def release(self, trial_id: str) -> None:
        run = self._runs.pop(trial_id, None)
        if run is None:
            return
        if run in self._waiting:
            self._waiting.remove(run)
        if run.process is not None:
            self._end([run])
        self._notices = [notice for notice in self._notices if notice.trial_id != trial_id]
        remove(run.folder)

    def now_s(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        self._waiting.clear()
        self._end([run for run in self._runs.values() if run.process is not None])
        self._runs.clear()
        self._notices.clear()
        self._selector.close()
        self._selector = selectors.DefaultSelector()

    # --- starting

    def _start_waiting(self) -> None:
        for run in list(self._waiting):
            if (locks := self._take_gpus(run)) is None:
                continue
            self._waiting.remove(run)
            try:
                self._launch(run, locks)
            finally:
                for lock in locks:
                    os.close(lock)

    def _take_gpus(self, run: _Run) -> list[int] | None:
        """Descriptors that hold the GPUs of this trial; None while they are not free."""
        if not self._gpus:
            return []
        used = {gpu for other in self._runs.values() if other.process is not None for gpu in other.gpus}
        free = [gpu for gpu in self._gpus if gpu not in used]
        held: dict[str, int] = {}
        while wanted := choose(free, self._gpus, run.spec.gpus):
            for gpu in wanted:
                if gpu not in held and (lock := self._locks.take(gpu)) is not None:
                    held[gpu] = lock
            refused = [gpu for gpu in wanted if gpu not in held]
            if not refused:
                break
            free = [gpu for gpu in free if gpu not in refused]
        for gpu in [gpu for gpu in held if gpu not in wanted]:
            os.close(held.pop(gpu))
        run.gpus = wanted
        return list(held.values()) if wanted else None

    def _launch(self, run: _Run, locks: Sequence[int]) -> None:
        self._on_process_start(f"before {run.spec.id}")
        run.started_s = time.monotonic()
        try:
            run.process = RunnerProcess(
                run.spec, run.folder, env=self._gpu_env(run), python=self._python, inherit=locks, files=self._files
            )
        except OSError as error:
            raise RuntimeUnusable(
                f"no runner can be started in {run.folder}: {error}; check the folder and the limits of this machine"
            ) from error
        self._on_process_start(f"after {run.spec.id}")
        self._selector.register(run.process.stdout, selectors.EVENT_READ, run)
        self._notices.append(Stage(run.spec.id, "starting"))

    def _gpu_env(self, run: _Run) -> dict[str, str]:
        if not self._gpus or len(run.gpus) == len(self._gpus):
            return {}
        return {visible_variable(run.spec.context.get("accelerator", "")): ",".join(run.gpus)}

    # --- reading

    def _read(self, timeout_s: float) -> None:
        if not self._selector.get_map():
            time.sleep(timeout_s)
            return
        for key, _ in self._selector.select(timeout_s):
            run: _Run = key.data
            assert run.process is not None
            lines = run.process.read()
            if lines is None:
                self._conclude(run)
            else:
                for line in lines:
                    self._take(run, line)

    def _take(self, run: _Run, line: Line) -> None:
        if line.kind == "stage":
            self._notices.append(Stage(run.spec.id, str(line.value)))
        elif line.kind == "level":
            level = Level(**line.value)
            run.levels.append(level)
            self._notices.append(Stage(run.spec.id, level_text(level), level.capacity_at_most_req_per_s))
        elif line.kind == "result":
            with suppress(ValueError, TypeError, KeyError):  # a torn line: the same as no result
                run.result = TrialResult.from_json(line.value)

    def _conclude(self, run: _Run, reason: str = "") -> None:
        assert run.process is not None
        self._selector.unregister(run.process.stdout)
        code = run.process.end()
        words = run.process.last_words()
        run.process = None
        run.ended = True
        if run.result is None:
            why = reason or f"it ended with exit code {code}{f': {words}' if words else ''}"
            run.result = self._died(run, why)
        self._notices.append(Ended(run.spec.id, run.spec.attempt, run.result))

    def _died(self, run: _Run, why: str) -> TrialResult:
        message = f"the runner left no result - {run.spec.id}: {why} - the trial is repeated"
        return TrialResult(
            run.spec.id,
            "failed",
            failure=Failure("infrastructure", "runner_died", message),
            levels=tuple(run.levels),
            gpu_seconds=run.spec.gpus * (time.monotonic() - run.started_s),
            simulated=run.spec.simulated,
        )

    # --- ending

    def _end_overdue(self) -> None:
        for run in list(self._runs.values()):
            if run.process is not None and time.monotonic() - run.started_s > longest_s(run.spec):
                run.process.tell_to_stop()
                self._conclude(run, "it hung far beyond all its deadlines and was ended")

    def _end(self, runs: Sequence[_Run]) -> None:
        """End them side by side: each takes seconds to stop its engine."""
        going = [run for run in runs if run.process is not None]
        for run in going:
            assert run.process is not None
            self._selector.unregister(run.process.stdout)
            run.process.tell_to_stop()
        give_up_s = time.monotonic() + STOP_AT_MOST_S
        for run in going:
            assert run.process is not None
            run.process.end(max(0.0, give_up_s - time.monotonic()))
            run.process = None

    def _claim(self, study_uid: str) -> None:
        """Two studies in one folder would remove each other's trials."""
        path = self._workdir / _OWNER_NAME
        try:
            self._workdir.mkdir(parents=True, exist_ok=True)
            owner = path.read_text(encoding="utf-8").strip() if path.exists() else ""
            if not owner:
                path.write_text(study_uid, encoding="utf-8")
        except OSError as error:
            raise RuntimeUnusable(
                f"the working directory {self._workdir} is not usable: {error}; choose another"
            ) from error
        if owner not in ("", study_uid):
            raise RuntimeUnusable(
                f"the working directory {self._workdir} belongs to another study ({owner}); choose another one"
            )

    def _remove_foreign_folders(self) -> None:
        """Runners of an earlier controller end when it did; make sure, so that nothing runs twice."""
        ours = {run.folder for run in self._runs.values()}
        foreign = [path for path in self._workdir.iterdir() if path.is_dir() and path not in ours]
        await_end(foreign, STOP_AT_MOST_S)
        for folder in foreign:
            end_remains(folder)
        await_end(foreign, STOP_AT_MOST_S)
        if stuck := [folder.name for folder in foreign if lives(folder)]:
            raise RuntimeUnusable(f"trials of an earlier run cannot be ended: {', '.join(stuck)}; end their processes")
        for folder in foreign:
            remove(folder)

    def _fate(self, trial_id: str) -> Fate:
        run = self._runs.get(trial_id)
        if run is None:
            return "gone"
        return "finished" if run.ended else "running"
