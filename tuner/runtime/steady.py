"""One load held on the simulated engine in virtual time until it is steady, and what its requests saw.

Open loop at a rate or closed loop at a concurrency; no limits, no search, no hidden world: the engine model's own
step times under a real scheduler. The capacity comes from the probe's load search.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tuner.model.architecture import Architecture
from tuner.model.catalogue import Accelerator
from tuner.model.memory import plan_memory
from tuner.model.settings import EngineSettings
from tuner.model.steps import RooflineSteps
from tuner.probe.capacity import CapacitySearch
from tuner.probe.events import ClosedLoop, Command, Event, Finished, OpenLoop, RequestRecord, Sent, Stop
from tuner.probe.measurement import Level
from tuner.probe.outcome import Outcome, ProbeSettings
from tuner.probe.plan import RequestStream, requests_that_fit
from tuner.probe.statistics import quantile
from tuner.runtime.virtual import VirtualLoad
from tuner.simulator.engine import Engine
from tuner.space.workload import Limits, Workload

REQUESTS = 400
"""Judged requests of one run, at least; twice the concurrency of a closed loop where that is more."""
SEEDS = 10
"""Runs of an open loop: its p95 hangs on how arrivals bunch. A closed loop needs one."""
_PATIENCE_S = 1e9  # nobody gives up
_OVERLOADED = 0.93  # served over offered, below which the queue is taken to grow without end
_HOPELESS = 0.7  # one run says enough


@dataclass(frozen=True, slots=True)
class Load:
    """Open loop (`rate_req_per_s`) or closed loop (`concurrency`); exactly one is given."""

    rate_req_per_s: float | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What requests saw, means over `seeds` runs. `overloaded`: times only say how long the run was.

    `served_share` is requests that ended over requests that came, while the judged ones came.
    """

    rate_req_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    tpot_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    cached_fraction: float
    served_share: float
    requests: int
    seeds: int

    @property
    def overloaded(self) -> bool:
        return self.served_share < _OVERLOADED


@dataclass(slots=True)
class SteadyLoad:
    """A search that searches nothing: `warm` requests go by, the next `judged` ones are looked at."""

    load: Load
    warm: int
    judged: int
    outcome: Outcome | None = None
    _sent: int = 0
    _left: set[int] = field(default_factory=set)
    _records: list[RequestRecord] = field(default_factory=list)
    _done: list[RequestRecord] = field(default_factory=list)
    _from_s: float = math.inf
    _until_s: float = math.inf

    @property
    def ended_levels(self) -> tuple[Level, ...]:
        return ()

    @property
    def wake_at_s(self) -> float | None:
        return None

    def start(self, now_s: float) -> list[Command]:  # noqa: ARG002 - the Protocol's
        if self.load.concurrency is not None:
            return [ClosedLoop(0, self.load.concurrency, stagger=True)]
        assert self.load.rate_req_per_s is not None
        return [OpenLoop(0, self.load.rate_req_per_s)]

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, Sent):
            self._note_sent(event)
        elif isinstance(event, Finished):
            self._note_done(event.record)
        if self._sent < self.warm + self.judged or self._left:
            return []
        self.outcome = Outcome(
            "measured",
            "steady",
            records=tuple(self._records),
            window_start_s=self._from_s,
            window_end_s=self._until_s,
            requests=sum(self._from_s < r.done_s <= self._until_s for r in self._done),
        )
        return [Stop()]

    def interrupt(self, why: str) -> None:
        self.outcome = Outcome("failed", why)

    def _note_sent(self, event: Sent) -> None:
        self._sent += 1
        if self._sent == self.warm + 1:
            self._from_s = event.at_s
        if self._sent == self.warm + self.judged:
            self._until_s = event.at_s
        if self.warm < self._sent <= self.warm + self.judged:
            self._left.add(event.index)

    def _note_done(self, record: RequestRecord) -> None:
        self._done.append(record)
        if record.index in self._left:
            self._left.discard(record.index)
            self._records.append(record)


@dataclass(frozen=True)
class Laboratory:
    """One configuration on one kind of GPU under one kind of traffic."""

    arch: Architecture
    acc: Accelerator
    settings: EngineSettings
    workload: Workload

    def hold(self, load: Load, seed: int = 0, runs: int | None = None) -> Seen:
        """The load held until it is steady. The configuration must fit."""
        if runs is None:
            runs = SEEDS if load.concurrency is None else 1
        done: list[Seen] = []
        for i in range(runs):
            done.append(self._run(load, seed + i))
            if done[0].served_share < _HOPELESS:
                break
        return _mean(done)

    def capacity(self, limits: Limits, seed: int = 0, guess_req_per_s: float | None = None) -> float:
        """The highest rate the probe's load search finds to hold the limits; 0 where none does."""
        driver = self._driver(seed)
        engine = driver.engine
        fits = requests_that_fit(engine.kv_capacity_tokens, self.workload)
        search = CapacitySearch(
            ProbeSettings(
                limits=limits,
                mean_output_tokens=self.workload.output_tokens.mean_tokens,
                max_running=min(engine.max_running, fits) * self.settings.schedulers,
                guess_req_per_s=guess_req_per_s,
                poisson=self.workload.arrivals == "poisson",
            )
        )
        driver.run(search)
        outcome = search.outcome
        return (outcome.capacity_low_req_per_s or 0.0) if outcome is not None else 0.0

    def _driver(self, seed: int) -> VirtualLoad:
        plan = plan_memory(self.arch, self.acc, self.settings, self.workload.max_context_tokens)
        steps = RooflineSteps(self.arch, self.acc, self.settings)
        engine = Engine(self.settings, steps, plan.kv_capacity_tokens, seed)
        driver = VirtualLoad(engine, RequestStream(self.workload, seed), first_token_s=_PATIENCE_S)
        driver.prime(self.settings.schedulers)
        return driver

    def _run(self, load: Load, seed: int) -> Seen:
        driver = self._driver(seed)
        at_once = load.concurrency or 0
        judged = max(REQUESTS, 2 * at_once)
        search = SteadyLoad(load, warm=2 * at_once if at_once else judged, judged=judged)
        driver.run(search)
        outcome = search.outcome
        assert outcome is not None
        return _seen(outcome, load)


def _seen(outcome: Outcome, load: Load) -> Seen:
    records = outcome.records
    window_s = outcome.window_end_s - outcome.window_start_s
    rate = outcome.requests / window_s
    asked = statistics.fmean(r.input_tokens for r in records)
    answered = statistics.fmean(r.output_tokens for r in records)
    ttft = [r.ttft_s for r in records if r.ttft_s is not None]
    return Seen(
        rate_req_per_s=rate,
        input_tokens_per_s=rate * asked,
        output_tokens_per_s=rate * answered,
        tpot_s=statistics.fmean([r.tpot_s for r in records if r.tpot_s is not None] or [0.0]),
        ttft_p50_s=quantile(ttft, 0.5) or 0.0,
        ttft_p95_s=quantile(ttft, 0.95) or 0.0,
        cached_fraction=sum(r.cached_tokens for r in records) / sum(r.input_tokens for r in records),
        served_share=1.0 if load.rate_req_per_s is None else outcome.requests / len(records),
        requests=len(records),
        seeds=1,
    )


def _mean(runs: Sequence[Seen]) -> Seen:
    names = [n for n in Seen.__dataclass_fields__ if n not in ("requests", "seeds")]
    return replace(
        runs[0],
        **{name: statistics.fmean(getattr(run, name) for run in runs) for name in names},
        requests=sum(run.requests for run in runs),
        seeds=len(runs),
    )
