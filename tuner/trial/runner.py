"""One trial from start to end: start the engine, wait until it generates, load it, stop it, say what happened.

Knows no study and no cluster. Whatever happens, the engine and all it started are gone when `run_trial` returns.
"""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from tuner.probe.control import EngineControl, EngineUnreachable
from tuner.probe.measurement import Level
from tuner.probe.probe import Invalid, ProbeReport, Watch
from tuner.probe.probe import probe as real_probe
from tuner.probe.probe import run as run_loop
from tuner.space.secrets import masked, secret_values
from tuner.space.traffic import Traffic, TrafficError, traffic_for
from tuner.trial import failures
from tuner.trial.accelerators import memory_in_use
from tuner.trial.before_start import ReadMemory, Surroundings, before_start
from tuner.trial.classify import Ending, classify
from tuner.trial.conclude import NO_VERDICT, figures_of
from tuner.trial.engine_log import LogFollower, read_end
from tuner.trial.engine_process import EngineProcess
from tuner.trial.hooks import Hooks
from tuner.trial.host_memory import OomCounts, read_counts
from tuner.trial.known import Known
from tuner.trial.plumbing import HOST, free_port, plumbing
from tuner.trial.result import Failure, State, TrialResult
from tuner.trial.spec import TrialSpec

_T = TypeVar("_T")

LOG_NAME = "engine.log"
RECORD_NAME = "engine.json"

_WATCH_EVERY_S = 0.2
_READ_LOG_EVERY_S = 1.0
_ASK_EVERY_S = 1.0
# sglang answers after a generation of one token, at least 1 s and at most 20 s (SGLANG_HEALTH_CHECK_TIMEOUT) later.
_GENERATE_S = 30.0
# A client sees the failure before the process is gone: sglang's main process outlived its scheduler by 6-7 s on a real
# 0.5.23, and waits 60 s more for core dumps when warm-up had begun.
_DYING_S = 90.0
_DYING_WORDS = ("sigquit", "Scheduler hit an exception", "crashed with exit code")
_SETTLE_S = 10.0
# The load's words for failures that a hang may be behind; it may also look like an engine that is too slow.
_MAYBE_HUNG = ("all_failed", "first_requests", "undecided")
# After a load that failed requests: time to answer or abort what was running, and for one token.
_RECOVER_S = 60.0
# How long the load may take to wind up once it is told to.
_WIND_UP_S = 5.0
# Who asks a trial to stop (a drain, an eviction) may grant only seconds: a kubelet eviction was seen to grant 2.
_HURRY_S = 1.0
# Beyond its own deadline the load gets this much for warm-up, priming and the last requests.
_OVERRUN_S = 900.0


# `tuner.probe.probe.probe`, or what stands in for it.
Probe = Callable[..., Coroutine[Any, Any, ProbeReport]]


def run_trial(
    spec: TrialSpec,
    *,
    workdir: Path,
    hooks: Hooks | None = None,
    probe: Probe = real_probe,
    now_s: Callable[[], float] = time.monotonic,
    oom_counts: Callable[[], OomCounts] = read_counts,
    read_memory: ReadMemory = memory_in_use,
    files: Path = Path(),
) -> TrialResult:
    """Run the trial; never raises for what the engine or the load does.

    Raises:
        OSError: `workdir` cannot be written, or there is no free port.
    """
    trial = _Trial(spec, workdir, hooks or Hooks(), probe, now_s, oom_counts, read_memory, files)
    return trial.run()


class _Failed(Exception):  # noqa: N818 - control flow of this module alone
    """The trial is over without figures."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class _EngineEnded(Exception):  # noqa: N818 - control flow of this module alone
    """The engine ended before it generated."""


class _Trial:
    def __init__(
        self,
        spec: TrialSpec,
        workdir: Path,
        hooks: Hooks,
        probe: Probe,
        now_s: Callable[[], float],
        oom_counts: Callable[[], OomCounts],
        read_memory: ReadMemory,
        files: Path,
    ) -> None:
        self.spec = spec
        self.workdir = workdir
        self.hooks = hooks
        self.probe = probe
        self.now_s = now_s
        self.oom_counts = oom_counts
        self.read_memory = read_memory
        self.files = files
        self.traffic: Traffic | None = None
        self.began_s = self.started_s = now_s()
        self.mark = f"{spec.id}.{spec.attempt}.{os.getpid()}"
        self.log = LogFollower(workdir / LOG_NAME)
        self.secrets = secret_values({**os.environ, **spec.env})
        self.known = Known(spec, self.secrets, simulated=spec.simulated)

    # --- the sequence

    def run(self) -> TrialResult:
        self.workdir.mkdir(parents=True, exist_ok=True)
        self._checkpoint("")
        try:
            self.traffic = traffic_for(self.spec.workload, self.files)
        except TrafficError as error:
            return self._failed(failures.unusable_traffic(error))
        if failure := self._before_start():
            return self._failed(failure)
        port = free_port()
        self.oom_before = self.oom_counts()
        self._say("starting the engine")
        self.started_s = self.now_s()
        try:
            self.engine = self._spawn(port)
        except OSError as error:
            return self._failed(failures.bad_command(self.spec.argv, error))
        self._checkpoint("")
        try:
            result = self._outcome(f"http://{HOST}:{port}")
            self.hooks.checkpoint(result)
        finally:
            self._stop()
        return replace(result, gpu_seconds=self._gpu_seconds())

    def _outcome(self, base_url: str) -> TrialResult:
        try:
            return run_loop(self._measure(base_url))
        except _Failed as ended:
            return self._failed(ended.failure)
        except Exception as error:  # noqa: BLE001 - a fault of ours is no fault of the configuration
            traceback.print_exc()
            return self._failed(failures.runner_fault(error))

    def _stop(self) -> None:
        self._say("stopping the engine")
        drain_s = self.spec.deadlines.stop_s
        stuck = self.engine.stop(min(drain_s, _HURRY_S) if self.hooks.stop_reason() else drain_s)
        if stuck:
            self._say(f"processes {stuck} survive SIGKILL and may hold their GPUs; check the driver of this machine")

    def _before_start(self) -> Failure | None:
        around = Surroundings(
            say=self._say, stop_reason=self.hooks.stop_reason, now_s=self.now_s, read_memory=self.read_memory
        )
        env = {**os.environ, **self.spec.env}
        return before_start(self.spec, env, self.workdir, around, mark=self.mark, secrets=self.secrets)

    def _spawn(self, port: int) -> EngineProcess:
        argv = [*self.spec.argv, *plumbing(port)]
        engine = EngineProcess(argv, self.spec.env, self.workdir / LOG_NAME, mark=self.mark, secrets=self.secrets)
        engine.record.write(self.workdir / RECORD_NAME)
        self.hooks.on_engine(engine)
        return engine

    async def _measure(self, base_url: str) -> TrialResult:
        async with EngineControl(base_url) as control:
            await self._await_ready(control)
            await self._introspect(control)
        self._checkpoint("generates; preparing the load")
        self.known.phase = "load"
        report = await self._load(base_url)
        return await self._conclude(report, base_url)

    async def _await_ready(self, control: EngineControl) -> None:
        if not await self._watched_or_ended(self._generates(control), self.spec.deadlines.ready_s):
            raise _Failed(await self._engine_failure())
        self.known.start_up_s = self.now_s() - self.started_s

    async def _generates(self, control: EngineControl) -> bool:
        while not await control.generates(_GENERATE_S):  # noqa: ASYNC110 - the event is in another process
            await asyncio.sleep(_ASK_EVERY_S)
        return True

    async def _introspect(self, control: EngineControl) -> None:
        try:
            info = await control.server_info()
        except EngineUnreachable as error:
            self._say(f"the engine does not tell its settings: {error}")
            return
        known = self.known
        known.learn(info)
        expected = self.spec.engine_version
        if expected and known.engine_version and expected != known.engine_version:
            self._say(f"the engine is version {known.engine_version}, the pool says {expected}; correct the space file")

    async def _load(self, base_url: str) -> ProbeReport:
        spec, deadlines = self.spec, self.spec.deadlines
        confirm = spec.confirm
        confirming: dict[str, Any] = {}
        if confirm is not None:
            confirming = {"confirm_rate_req_per_s": confirm.rate_req_per_s, "confirm_duration_s": confirm.duration_s}
        guess = spec.context.get("guess_req_per_s")
        loading = self.probe(
            base_url,
            workload=spec.workload,
            limits=spec.limits,
            seed=spec.seed,
            incumbent_req_per_s=spec.incumbent_req_per_s,
            guess_req_per_s=guess if isinstance(guess, (int, float)) else None,
            probe_s=deadlines.probe_s,
            first_token_s=deadlines.first_token_s,
            watch=Watch(
                engine_alive=lambda: self.engine.exit_code() is None,
                stop_requested=lambda: bool(self.hooks.stop_reason()),
                on_level=self._on_level,
                on_progress=self._say,
            ),
            **({"traffic": self.traffic} if self.traffic else {}),
            **confirming,
        )
        whole_s = max(deadlines.probe_s, confirm.duration_s if confirm else 0.0) + deadlines.first_token_s + _OVERRUN_S
        try:
            report = await self._watched(loading, whole_s)
        except _EngineEnded:
            raise _Failed(await self._engine_failure()) from None
        if report is None:
            raise _Failed(failures.overrun(whole_s))
        return report

    async def _conclude(self, report: ProbeReport, base_url: str) -> TrialResult:
        outcome = report.outcome
        self.known.levels = list(report.levels) or self.known.levels
        self.known.effective.update(report.effective)
        self._stop_if_asked()
        client = {**report.client, **({"warnings": list(report.warnings)} if report.warnings else {})}
        kind = outcome.kind
        doubt = report.invalid or (Invalid(kind, outcome.reason) if kind in NO_VERDICT else None)
        maybe_hung = outcome.state in ("infeasible", "pruned") or kind in _MAYBE_HUNG
        if maybe_hung and not await self._still_generates(base_url):
            kind = "hang"
        elif doubt is not None:
            failure = Failure("measurement", doubt.kind, doubt.message)
            return self._result("invalid", failure=failure, client=client)
        if outcome.state == "failed" or kind == "hang":
            failure = await self._engine_failure(kind, outcome.reason)
            return replace(self._failed(failure), client=client)
        return self._result(outcome.state, client=client, **figures_of(outcome, report.measurement))

    async def _still_generates(self, base_url: str) -> bool:
        """Whether an engine that failed requests is still one, now that it is left alone."""
        async with EngineControl(base_url) as control:
            return bool(await self._watched_or_ended(self._generates(control), _RECOVER_S))

    async def _watched_or_ended(self, work: Coroutine[Any, Any, _T], timeout_s: float) -> _T | None:
        try:
            return await self._watched(work, timeout_s)
        except _EngineEnded:
            return None

    # --- watching

    async def _watched(self, work: Coroutine[Any, Any, _T], timeout_s: float) -> _T | None:
        """The result of `work`, or None past the time.

        Raises:
            _EngineEnded: the engine ended, and `work` did not end by itself soon after.
            _Failed: stopping was asked for.
        """
        task = asyncio.ensure_future(work)
        give_up_s = self.now_s() + timeout_s
        next_look_s = 0.0
        try:
            while not task.done() and self.now_s() < give_up_s:
                await asyncio.wait({task}, timeout=_WATCH_EVERY_S)
                if self.now_s() >= next_look_s:
                    self._look()
                    next_look_s = self.now_s() + _READ_LOG_EVERY_S
                if not task.done() and (self.hooks.stop_reason() or self.engine.exit_code() is not None):
                    await asyncio.wait({task}, timeout=_WIND_UP_S if self.known.phase == "load" else 0)
                    break
            self._stop_if_asked()
            if task.done():
                return task.result()
            if self.engine.exit_code() is not None:
                raise _EngineEnded
            return None
        finally:
            await _end(task)

    def _look(self) -> None:
        for text in self.log.look():
            self._say(text)
        self.engine.reap_orphans()

    def _stop_if_asked(self) -> None:
        if reason := self.hooks.stop_reason():
            raise _Failed(failures.interrupted(reason))

    async def _engine_failure(self, kind: str = "", reason: str = "") -> Failure:
        """What the engine's end or silence means, once it had time to say why."""
        await self._settle(wait=bool(kind))
        self.engine.flush_log()
        self._look()
        log = read_end(self.engine.log_path)
        if kind and self.engine.exit_code() is None and kind not in ("engine_died", "hang"):
            found = classify(self._ending(), log, secrets=self.secrets)
            return found if found.recognised and found.kind != "hang" else replace(found, kind=kind, message=reason)
        return classify(self._ending(), log, secrets=self.secrets)

    async def _settle(self, *, wait: bool) -> None:
        """Clients see a failure before the engine's process has ended; what it prints while dying tells why."""
        give_up_s = self.now_s() + (_SETTLE_S if wait else 0.0)
        dying_s = self.now_s() + _DYING_S
        while self.engine.exit_code() is None and not self.hooks.stop_reason():
            dying = any(word in read_end(self.engine.log_path) for word in _DYING_WORDS)
            if self.now_s() >= (dying_s if dying else give_up_s):
                return
            await asyncio.sleep(_WATCH_EVERY_S)

    def _ending(self) -> Ending:
        return Ending(
            exit_code=self.engine.exit_code(),
            phase=self.known.phase,
            after_s=self.now_s() - self.started_s,
            milestone=self.log.milestone,
            host_memory=self.oom_counts().since(self.oom_before).cause,
        )

    # --- what is told

    def _say(self, text: str) -> None:
        self.hooks.progress(masked(text, self.secrets))

    def _on_level(self, level: Level) -> None:
        self.known.levels.append(level)
        self.hooks.on_level(level)
        self._checkpoint("")

    def _checkpoint(self, text: str) -> None:
        if text:
            self._say(text)
        self.hooks.checkpoint(self._failed(failures.interrupted("the trial was killed")))

    def _failed(self, failure: Failure) -> TrialResult:
        return self._result("failed", failure=failure)

    def _result(self, state: State, **contents: Any) -> TrialResult:
        self.known.retractions = self.log.retractions
        return self.known.result(state, self._gpu_seconds(), **contents)

    def _gpu_seconds(self) -> float:
        return self.spec.gpus * (self.now_s() - self.began_s)


async def _end(task: asyncio.Future[Any]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_WIND_UP_S)
    if task.done() and not task.cancelled():
        task.exception()  # retrieved: the loop must not report it a second time
