"""One replica: the schedulers of its attention-DP ranks in lock step, and the time their steps take.

A step lasts as long as that of its busiest rank. Steps between which nothing can change (no arrival, no request
complete, KV enough) are taken in one jump; results do not depend on how finely the caller advances.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass

from tuner.model.protocol import StepTimes
from tuner.model.settings import EngineSettings
from tuner.simulator.events import Died, EngineEvent, Finished, FirstToken, Rejected, Trap
from tuner.simulator.job import Job, PrefillPlan
from tuner.simulator.scheduler import Scheduler

NOISE_BLOCK_STEPS = 16
"""Decode steps that share one draw of the noise and one context length: 16 steps move a 20k context by 0.3 %."""

TIME_EPSILON = 1e-9


@dataclass(slots=True)
class _Prefill:
    plans: list[PrefillPlan | None]
    end_s: float


@dataclass(slots=True)
class _Decode:
    """A run of decode steps from `anchor_s`, `taken` of `limit` booked."""

    anchor_s: float
    step_s: float
    limit: int
    taken: int = 0


class Replica:
    """Schedulers in lock step on the same GPUs."""

    def __init__(
        self, ranks: list[Scheduler], settings: EngineSettings, steps: StepTimes, seed: str, noise_sd: float
    ) -> None:
        self.ranks = ranks
        self.trap: Trap | None = None
        self.watchdog_s = math.inf
        self.hung = False
        self.died: Died | None = None
        self._settings = settings
        self._steps = steps
        self._random = random.Random(seed)  # noqa: S311 - simulated noise
        self._noise_sd = noise_sd
        self._noise = 1.0
        self._noise_left = 0
        self._arrivals: deque[tuple[Job, Scheduler]] = deque()
        self._rejected: list[Rejected] = []
        self._step: _Prefill | _Decode | None = None
        self._now_s = 0.0

    # --- the caller's side

    @property
    def busy(self) -> bool:
        return bool(self._step or self._arrivals) or any(rank.busy for rank in self.ranks)

    @property
    def arriving(self) -> int:
        return len(self._arrivals)

    def submit(self, job: Job, rank: Scheduler) -> None:
        self._arrivals.append((job, rank))

    def abort(self, job: Job, rank: Scheduler, now_s: float) -> None:
        """End a request; the step in flight at `now_s` still takes its time."""
        entry = (job, rank)
        if entry in self._arrivals:
            self._arrivals.remove(entry)
            rank.totals.aborted += 1
            return
        rank.abort(job)
        if isinstance(self._step, _Decode):
            self._step.limit = min(self._step.limit, self._steps_by(self._step, now_s) + 1)

    def next_time_s(self) -> float | None:
        """When the next step ends that may change something; None when nothing will ever happen by itself."""
        if self.died:
            return None
        if self.hung:
            return self._now_s + self.watchdog_s if math.isfinite(self.watchdog_s) else None
        if self._step is None and (self._due() or any(rank.busy for rank in self.ranks)):
            self._plan()
        if self._rejected:
            return self._rejected[0].at_s
        if isinstance(self._step, _Prefill):
            return self._step.end_s
        if isinstance(self._step, _Decode):
            return self._step.anchor_s + self._run_length(self._step) * self._step.step_s
        return self._arrivals[0][0].visible_s if self._arrivals else None

    def unbooked_steps(self, now_s: float) -> int:
        """Decode steps that are over at `now_s` but not booked yet."""
        run = self._step
        if not isinstance(run, _Decode):
            return 0
        return max(0, self._steps_by(run, now_s) - run.taken)

    def advance(self, now_s: float, events: list[EngineEvent]) -> None:
        """Take every step that ends by `now_s`."""
        while not (self.hung or self.died) and (self._step is not None or self._start(now_s)):
            if isinstance(self._step, _Prefill):
                if self._step.end_s > now_s + TIME_EPSILON:
                    break
                self._end_prefill(self._step, events)
            elif isinstance(self._step, _Decode) and not self._run_decode(self._step, now_s, events):
                break
        events.extend(self._rejected)
        self._rejected.clear()
        if self.hung and not self.died and now_s >= self._now_s + self.watchdog_s - TIME_EPSILON:
            self.died = Died(self._now_s + self.watchdog_s, "hang")
            events.append(self.died)

    # --- deciding

    def _start(self, now_s: float) -> bool:
        """Plan the next step, unless it would begin only now: the caller may still have requests for this instant.

        An idle replica first waits for the next arrival.
        """
        if self._now_s >= now_s - TIME_EPSILON:
            return False
        if not any(rank.busy for rank in self.ranks):
            if not self._arrivals or self._arrivals[0][0].visible_s > now_s + TIME_EPSILON:
                return False
            self._now_s = max(self._now_s, self._arrivals[0][0].visible_s)
            for rank in self.ranks:
                rank.reset_ratio()
        self._plan()
        if self._step is None and not self.hung:
            assert not any(rank.busy for rank in self.ranks), "requests wait beside an empty pool"
        return self._step is not None or bool(self._arrivals)

    def _plan(self) -> None:
        self._deliver()
        plans = [rank.plan_prefill() for rank in self.ranks]
        if any(plans):
            self._plan_prefill(plans)
        elif any(rank.running for rank in self.ranks):
            self._plan_decode()

    def _due(self) -> bool:
        return bool(self._arrivals) and self._arrivals[0][0].visible_s <= self._now_s + TIME_EPSILON

    def _deliver(self) -> None:
        while self._due():
            job, rank = self._arrivals.popleft()
            if not rank.enqueue(job):
                self._rejected.append(Rejected(job.request.request_id, self._now_s))

    def _plan_prefill(self, plans: list[PrefillPlan | None]) -> None:
        duration_s = 0.0
        most = max(plan.new_tokens for plan in plans if plan)
        total = sum(plan.new_tokens for plan in plans if plan)
        for plan, rank in zip(plans, self.ranks, strict=True):
            if plan is None:
                rank.steps_that_fit()
                duration_s = max(duration_s, self._decode_s(rank))
                continue
            beside = len(rank.running) if self._settings.mixed_chunk else 0
            if beside:
                rank.steps_that_fit()
                duration_s = max(duration_s, self._decode_s(rank))
            context = plan.weighted_context / plan.new_tokens
            prefill_s = self._steps.prefill_s(plan.new_tokens + beside, context, total + beside)
            duration_s = max(duration_s, prefill_s)
        if self.trap and most >= self.trap.prefill_tokens and self.trap.kind == "hang":
            self.hung = True
            return
        self._step = _Prefill(plans, self._now_s + duration_s * self._draw())

    def _plan_decode(self) -> None:
        fitting = min(rank.steps_that_fit() for rank in self.ranks)
        ending = min(rank.steps_to_finish() for rank in self.ranks)
        if self._noise_left == 0:
            self._noise, self._noise_left = self._draw(), NOISE_BLOCK_STEPS
        step_s = max(self._decode_s(rank) for rank in self.ranks) * self._noise
        self._step = _Decode(self._now_s, step_s, min(fitting, ending, self._noise_left))

    def _decode_s(self, rank: Scheduler) -> float:
        return self._steps.decode_s(len(rank.running), rank.mean_context_tokens) if rank.running else 0.0

    def _draw(self) -> float:
        return max(0.5, self._random.gauss(1.0, self._noise_sd)) if self._noise_sd else 1.0

    # --- booking

    def _run_length(self, run: _Decode) -> int:
        """Steps of a run: an arrival ends it at the next step boundary, where it may be admitted."""
        if not self._arrivals:
            return run.limit
        until = (self._arrivals[0][0].visible_s - run.anchor_s) / run.step_s
        return min(run.limit, max(run.taken, 1, math.ceil(until - TIME_EPSILON)))

    def _steps_by(self, run: _Decode, now_s: float) -> int:
        return min(self._run_length(run), int((now_s - run.anchor_s) / run.step_s + TIME_EPSILON))

    def _run_decode(self, run: _Decode, now_s: float, events: list[EngineEvent]) -> bool:
        """Book the steps of a run that are over; False when it goes on beyond `now_s`."""
        length = self._run_length(run)
        until = self._steps_by(run, now_s)
        count = until - run.taken
        if count > 0:
            run.taken = until
            self._noise_left -= count
            self._now_s = run.anchor_s + until * run.step_s
            for rank in self.ranks:
                self._finish(rank.decode(count), events)
        if run.taken < length:
            return False
        self._step = None
        return True

    def _end_prefill(self, step: _Prefill, events: list[EngineEvent]) -> None:
        self._step = None
        self._now_s = step.end_s
        if self.trap and max(plan.new_tokens for plan in step.plans if plan) >= self.trap.prefill_tokens:
            self.died = Died(step.end_s, self.trap.kind)
            events.append(self.died)
            return
        for plan, rank in zip(step.plans, self.ranks, strict=True):
            if plan is None:
                self._finish(rank.decode(1), events)
                continue
            if self._settings.mixed_chunk:
                self._finish(rank.decode(1, gain=1.0), events)
            first, done = rank.finish_prefill(plan)
            events.extend(FirstToken(job.request.request_id, self._now_s) for job in first)
            self._finish(done, events)

    def _finish(self, done: list[Job], events: list[EngineEvent]) -> None:
        events.extend(
            Finished(job.request.request_id, self._now_s, job.cached_tokens, job.output_tokens) for job in done
        )
