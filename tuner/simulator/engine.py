"""A discrete-event sglang: requests in, events out, on whatever clock the caller keeps.

Pure: no clock, no I/O, the same seed gives the same run. Replicas (`dp`) run on their own, attention-DP ranks inside a
replica step together; `routing` says who gets a request. The queue knows `fcfs`, `lpm`, `lof` and
`shortest-prefill-first` and serves every other policy first come first served; KV is counted in tokens, not in pages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tuner.model.memory import max_running
from tuner.model.protocol import StepTimes
from tuner.model.settings import EngineSettings
from tuner.simulator.acceptance import pace
from tuner.simulator.events import (
    Died,
    EngineEvent,
    Finished,
    FirstToken,
    Rejected,
    SimRequest,
    Trap,
)
from tuner.simulator.job import Job, path_of
from tuner.simulator.replica import Replica
from tuner.simulator.routing import Router
from tuner.simulator.scheduler import Scheduler

__all__ = ["Counters", "Died", "Engine", "EngineEvent", "Finished", "FirstToken", "Rejected", "SimRequest", "Trap"]


@dataclass(frozen=True, slots=True)
class Counters:
    """The engine's books: gauges of this moment, totals since the start. `kv_tokens` cannot be evicted."""

    running: int
    queued: int
    kv_tokens: int
    cached_kv_tokens: int
    kv_capacity_tokens: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    retractions: int
    finished: int
    aborted: int
    rejected: int


def max_running_per_scheduler(settings: EngineSettings, kv_capacity_tokens: int) -> int:
    """The batch cap of one scheduler; sglang never runs more requests than half its pool has tokens."""
    return max(1, min(max_running(settings), kv_capacity_tokens // 2))


class Engine:
    """One engine process tree. Times given to its methods never go backwards."""

    def __init__(
        self,
        settings: EngineSettings,
        steps: StepTimes,
        kv_capacity_tokens: int,
        seed: int,
        noise_sd: float = 0.02,
        trap: Trap | None = None,
        watchdog_s: float = math.inf,
    ) -> None:
        """`noise_sd` of step times; 0 turns all chance off, that of drafts too. `watchdog_s`: how long a hang lasts."""
        if kv_capacity_tokens < 2:
            raise ValueError(f"a scheduler needs room for at least 2 KV tokens, not {kv_capacity_tokens}")
        self.settings = settings
        self.kv_capacity_tokens = kv_capacity_tokens
        self.max_running = max_running_per_scheduler(settings, kv_capacity_tokens)
        self._overhead_s = steps.request_overhead_s
        self.tokens_per_verify = max(1.0, steps.tokens_per_verify)
        self._replicas: list[Replica] = []
        self._targets: list[tuple[Replica, Scheduler]] = []
        for index in range(settings.dp):
            ranks = [
                Scheduler(settings, kv_capacity_tokens, self.max_running, self.tokens_per_verify)
                for _ in range(settings.attn_dp)
            ]
            replica = Replica(ranks, settings, steps, f"{seed}/{index}", noise_sd)
            replica.trap, replica.watchdog_s = trap, watchdog_s
            self._replicas.append(replica)
            self._targets.extend((replica, rank) for rank in ranks)
        self._open = [0] * len(self._targets)
        self._router = Router(settings.routing, len(self._targets), self._open.__getitem__)
        self._luck = f"{seed}/draft/" if settings.speculation_steps and noise_sd else ""
        self._jobs: dict[str, tuple[Job, int]] = {}
        self._pending: list[EngineEvent] = []
        self._rejected = 0

    # --- requests

    def submit(self, request: SimRequest, now_s: float) -> None:
        """Send a request at `now_s`. What cannot fit is refused by the next `advance`; outputs are clipped to the pool.

        Raises:
            ValueError: a request of this id is still running.
        """
        if request.request_id in self._jobs:
            raise ValueError(f"request {request.request_id} is already in the engine")
        room = self.kv_capacity_tokens - request.input_tokens
        if room < 1:
            self._rejected += 1
            self._pending.append(Rejected(request.request_id, now_s, "too_long"))
            return
        path = path_of(request, radix_cache=self.settings.radix_cache)
        job = Job(
            request,
            visible_s=now_s + self._overhead_s,
            output_tokens=min(request.output_tokens, room),
            path=path,
            path_tokens=sum(tokens for _, tokens in path),
            prompt_tokens=request.input_tokens,
            pace=self._pace(request),
        )
        target = self._router.target(request)
        self._jobs[request.request_id] = (job, target)
        self._open[target] += 1
        replica, rank = self._targets[target]
        replica.submit(job, rank)

    def _pace(self, request: SimRequest) -> float:
        if not self._luck:
            return 1.0
        most = self.settings.speculation_steps + 1
        return pace(self._luck + request.request_id, self.tokens_per_verify, most, request.output_tokens)

    def _forget(self, request_id: str) -> tuple[Job, Replica, Scheduler] | None:
        job, target = self._jobs.pop(request_id, (None, 0))
        if job is None:
            return None
        self._open[target] -= 1
        return (job, *self._targets[target])

    def abort(self, request_id: str, now_s: float) -> None:
        """End a request without an event; call `advance(now_s)` before. Unknown ids are ignored."""
        entry = self._forget(request_id)
        if entry is not None:
            job, replica, rank = entry
            replica.abort(job, rank, now_s)

    def generated_tokens(self, request_id: str, now_s: float) -> int:
        """Tokens a request has generated by `now_s`; 0 for an unknown one."""
        entry = self._jobs.get(request_id)
        if entry is None:
            return 0
        job, target = entry
        replica, rank = self._targets[target]
        return rank.generated(job, replica.unbooked_steps(now_s))

    def cached_tokens(self, request_id: str) -> int:
        """Prompt tokens of a request found in the cache; 0 before its admission and for an unknown one."""
        entry = self._jobs.get(request_id)
        return 0 if entry is None else max(0, entry[0].cached_tokens)

    # --- time

    def next_time_s(self) -> float | None:
        """When something may happen next; None when nothing will without a new request."""
        if self._pending:
            return self._pending[0].at_s
        times = [time for replica in self._replicas if (time := replica.next_time_s()) is not None]
        return None if self.dead or not times else min(times)

    def advance(self, now_s: float) -> list[EngineEvent]:
        """Let time pass until `now_s`; returns what happened, in order."""
        events = self._pending
        self._pending = []
        if not self.dead:
            for replica in self._replicas:
                replica.advance(now_s, events)
        events.sort(key=lambda event: event.at_s)
        events = self._until_death(events)
        for event in events:
            if isinstance(event, Finished | Rejected):
                self._forget(event.request_id)
        return events

    def _until_death(self, events: list[EngineEvent]) -> list[EngineEvent]:
        """A crash takes all replicas along: nothing is heard after it."""
        for index, event in enumerate(events):
            if isinstance(event, Died):
                return events[: index + 1]
        return events

    # --- state

    @property
    def dead(self) -> bool:
        return any(replica.died is not None for replica in self._replicas)

    @property
    def hung(self) -> bool:
        return any(replica.hung for replica in self._replicas)

    @property
    def retractions(self) -> int:
        return sum(rank.totals.retractions for _, rank in self._targets)

    @property
    def busy(self) -> bool:
        return any(replica.busy for replica in self._replicas)

    def flush_cache(self) -> bool:
        """Empty the prefix caches; False, and nothing done, while requests run or wait."""
        if self.busy:
            return False
        for _, rank in self._targets:
            rank.cache.clear()
        return True

    def counters(self) -> Counters:
        """Sums over all schedulers."""
        return sum_counters([self.scheduler_counters(index) for index in range(len(self._targets))], self._rejected)

    def scheduler_counters(self, index: int) -> Counters:
        """The books of one scheduler, counted over replicas first and attention-DP ranks second."""
        rank = self._targets[index][1]
        totals = rank.totals
        return Counters(
            running=len(rank.running),
            queued=len(rank.waiting) + (rank.chunked is not None),
            kv_tokens=round(rank.kv_tokens),
            cached_kv_tokens=rank.cache.evictable_tokens,
            kv_capacity_tokens=rank.capacity_tokens,
            prompt_tokens=totals.prompt_tokens,
            cached_tokens=totals.cached_tokens,
            generated_tokens=rank.generated_total,
            retractions=totals.retractions,
            finished=totals.finished,
            aborted=totals.aborted,
            rejected=totals.rejected,
        )


def sum_counters(parts: list[Counters], rejected: int) -> Counters:
    """Add up the books of several schedulers; `rejected` requests never reached one."""
    sums = {name: sum(getattr(part, name) for part in parts) for name in Counters.__dataclass_fields__}
    total = Counters(**sums)
    return replace(total, rejected=total.rejected + rejected)
