"""Trials on the simulated engine in virtual time: the probe's own load search, no process, no socket, no waiting.

Knows no study. Everything is computed from the spec, so a trial lost with its controller is run again and gives the
same result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from tuner import __version__
from tuner.probe.capacity import CapacitySearch
from tuner.probe.confirm import ConfirmSettings, RateConfirmation
from tuner.probe.outcome import Outcome, ProbeSettings, Search
from tuner.probe.plan import requests_that_fit, stream_of
from tuner.probe.summary import measurement
from tuner.runtime.protocol import Ended, Fate, Notice, Stage
from tuner.runtime.stages import level_text
from tuner.runtime.virtual import VirtualLoad
from tuner.simulator import startup_log
from tuner.simulator.assemble import EXIT_KILLED, SimulatedEngine, StartUpFailure, simulated_engine
from tuner.space.traffic import Traffic
from tuner.trial.classify import Ending, classify
from tuner.trial.conclude import NO_VERDICT, figures_of
from tuner.trial.result import Failure, TrialResult
from tuner.trial.spec import TrialSpec

STOP_S = 30.0


@dataclass(slots=True)
class _Run:
    spec: TrialSpec
    started_s: float
    result: TrialResult | None = None
    ends_s: float = 0.0
    stages: deque[tuple[float, Stage]] = field(default_factory=deque)

    @property
    def next_s(self) -> float:
        """When it has something to tell."""
        return self.stages[0][0] if self.stages else self.ends_s


@dataclass(slots=True)
class SimulatedRuntime:
    """As many trials at once as the pools have nodes, on one virtual clock. `world` distorts the hardware.

    `traffic` is the content of the workload's file, where it has one.
    """

    nodes: Mapping[str, int]
    world: int = 0
    traffic: Traffic | None = None
    name: str = "simulated"
    simulated: bool = True
    _now_s: float = 0.0
    _runs: dict[str, _Run] = field(default_factory=dict)
    _waiting: deque[str] = field(default_factory=deque)

    def slots(self, pool: str) -> int:
        return max(1, self.nodes.get(pool, 1))

    def start(self, spec: TrialSpec) -> None:
        known = self._runs.get(spec.id)
        if known and known.spec.attempt == spec.attempt:
            return
        self._runs[spec.id] = _Run(spec, self._now_s)
        self._waiting.append(spec.id)

    def poll(self, timeout_s: float) -> Sequence[Notice]:
        """Compute one started trial, or let the earliest computed one tell of a level or end.

        However late that is, if there is time to wait. With none, the virtual time passes.
        """
        while self._waiting:
            run = self._runs.get(self._waiting.popleft())
            if run is not None and run.result is None:
                run.result, lasted_s = simulate(run.spec, self.world, self.traffic)
                run.ends_s = run.started_s + lasted_s
                run.stages.extend((run.started_s + at_s, stage) for at_s, stage in _stages(run.result, lasted_s))
                return [Stage(run.spec.id, f"{lasted_s / 60:.0f} min virtual")]
        running = [run for run in self._runs.values() if run.result is not None and run.ends_s >= 0]
        if not running:
            self._now_s += timeout_s
            return []
        first = min(running, key=lambda run: (run.next_s, run.spec.id))
        if timeout_s <= 0 and first.next_s > self._now_s:
            return []
        self._now_s = max(self._now_s, first.next_s)
        if first.stages:
            return [first.stages.popleft()[1]]
        first.ends_s = -1.0
        assert first.result is not None
        return [Ended(first.spec.id, first.spec.attempt, first.result)]

    def reconcile(self, study_uid: str, expected: Mapping[str, int]) -> dict[str, Fate]:  # noqa: ARG002
        """Nothing outlives its process: after a restart every trial is gone; within one, those still known run on."""
        fates: dict[str, Fate] = {}
        for trial_id, attempt in expected.items():
            run = self._runs.get(trial_id)
            fates[trial_id] = "running" if run and run.spec.attempt == attempt else "gone"
        for trial_id in [i for i in self._runs if fates.get(i) != "running"]:
            self.release(trial_id)
        return fates

    def release(self, trial_id: str) -> None:
        self._runs.pop(trial_id, None)

    def now_s(self) -> float:
        return self._now_s

    def close(self) -> None:
        self._runs.clear()
        self._waiting.clear()


def _stages(result: TrialResult, lasted_s: float) -> list[tuple[float, Stage]]:
    """What a trial of so many virtual seconds tells of its levels, and how long after its start. Pure."""
    if not result.levels:
        return []
    loaded_s = max(level.start_s + level.duration_s for level in result.levels)
    began_s = lasted_s - STOP_S - loaded_s
    found = []
    for level in result.levels:
        at_s = began_s + level.start_s + level.duration_s
        text = f"{level_text(level)}; {at_s / 60:.0f} of {lasted_s / 60:.0f} min virtual"
        found.append((at_s, Stage(result.id, text, level.capacity_at_most_req_per_s)))
    return found


def simulate(spec: TrialSpec, world: int, traffic: Traffic | None = None) -> tuple[TrialResult, float]:
    """One whole trial in virtual time: (its result, how long it took in virtual seconds)."""
    made = simulated_engine(
        spec.argv,
        env=spec.env,
        accelerator=spec.context["accelerator"],
        architecture=spec.context["architecture"],
        precision=str(spec.context.get("precision") or "") or None,
        engine_version=spec.engine_version or None,
        world=world,
        seed=spec.seed,
        max_context_tokens=spec.workload.max_context_tokens,
        start=spec.id,
    )
    if isinstance(made, StartUpFailure):
        return _failed(spec, made), made.after_s
    stream = stream_of(spec.workload, spec.seed, traffic)
    load = VirtualLoad(made.engine, stream, first_token_s=spec.deadlines.first_token_s)
    load.prime()
    search = _search(spec, made)
    load.run(search)
    outcome = search.outcome
    lasted_s = made.seconds_to_ready + load.now_s + STOP_S
    if outcome is not None and outcome.kind in NO_VERDICT:
        invalid = Failure("measurement", outcome.kind, outcome.reason)
        return _without_figures(spec, invalid, lasted_s, made.seconds_to_ready, state="invalid"), lasted_s
    if outcome is None or outcome.state == "failed":
        return _died(spec, made, outcome, lasted_s), lasted_s
    figures = measurement(outcome, spec.workload.cached_fraction)
    result = TrialResult(
        id=spec.id,
        state=outcome.state,
        levels=outcome.levels,
        start_up_s=made.seconds_to_ready,
        gpu_seconds=spec.gpus * lasted_s,
        simulated=True,
        versions=_versions(spec),
        effective={k: v for k, v in asdict(made.settings).items() if v is not None},
        **figures_of(outcome, figures),
    )
    return result, lasted_s


def _search(spec: TrialSpec, made: SimulatedEngine) -> Search:
    if spec.confirm is not None:
        settings = ConfirmSettings(
            spec.limits, spec.confirm.rate_req_per_s, spec.confirm.duration_s, max_running=_max_running(spec, made)
        )
        return RateConfirmation(settings)
    return CapacitySearch(
        ProbeSettings(
            limits=spec.limits,
            mean_output_tokens=spec.workload.output_tokens.mean_tokens,
            max_running=_max_running(spec, made),
            incumbent_req_per_s=spec.incumbent_req_per_s,
            max_duration_s=spec.deadlines.probe_s,
            poisson=spec.workload.arrivals == "poisson",
        )
    )


def _max_running(spec: TrialSpec, made: SimulatedEngine) -> int:
    """Requests the engine can really run at once: its cap, or what its KV pools hold."""
    engine, workload = made.engine, spec.workload
    fits = requests_that_fit(engine.kv_capacity_tokens, workload)
    return min(engine.max_running, fits) * made.settings.schedulers


def _failed(spec: TrialSpec, failure: StartUpFailure) -> TrialResult:
    """What the runner would say of an engine that ended so: the same classification, from the same log lines."""
    ending = Ending(failure.exit_code, "start", failure.after_s)
    log = "\n".join(text for _, text in failure.lines)
    return _without_figures(spec, classify(ending, log), failure.after_s)


def _died(spec: TrialSpec, made: SimulatedEngine, outcome: Outcome | None, lasted_s: float) -> TrialResult:
    """An engine that crashed or fell silent under load, or a load that could not be decided."""
    dead = made.engine.dead
    log = [text for _, text in made.lines]
    if dead:
        log += startup_log.died_serving(made.fate or "crash", made.facts)
    failure = classify(Ending(EXIT_KILLED if dead else None, "load", lasted_s), "\n".join(log))
    if outcome is not None and not dead and not made.engine.hung:
        failure = replace(failure, kind=outcome.kind or failure.kind, message=outcome.reason)
    return _without_figures(spec, failure, lasted_s, start_up_s=made.seconds_to_ready)


def _without_figures(
    spec: TrialSpec,
    failure: Failure,
    lasted_s: float,
    start_up_s: float | None = None,
    state: Literal["failed", "invalid"] = "failed",
) -> TrialResult:
    return TrialResult(
        id=spec.id,
        state=state,
        failure=failure,
        start_up_s=start_up_s,
        gpu_seconds=spec.gpus * lasted_s,
        simulated=True,
        versions=_versions(spec),
    )


def _versions(spec: TrialSpec) -> dict[str, str]:
    return {"tuner": __version__, "engine": f"{spec.engine_version} (simulated)"}
