"""One scheduler of the simulated engine: its queue, its running requests, its KV pool and its prefix cache.

Decides what the next step holds and books what a step did. Knows no time: `replica` asks the model how long it took.
Every running request gains `pace` x the mean number of tokens per decode step, so one cumulative counter (`_gained`)
stands for all of them and a request's end is a threshold on it: a decode step costs O(1) whatever the batch.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

from tuner.model.settings import EngineSettings
from tuner.simulator.cache import PrefixCache
from tuner.simulator.job import Job, PrefillPlan, Totals

# sglang's admission estimate (schedule_policy.py, environ.py): a running request is expected to still generate
# ratio x its remaining tokens; the ratio starts at 0.7 x conservativeness and decays to 14 % of that in 600 steps.
INITIAL_NEW_TOKEN_RATIO = 0.7
MIN_NEW_TOKEN_FACTOR = 0.14
NEW_TOKEN_DECAY_STEPS = 600
RESERVE_CLIP_TOKENS = 4096
LONGEST_SORTED_QUEUE = 128
"""Beyond this many waiting requests sglang serves `lpm` first come first served: matching costs too much."""
RETRACT_EXTRA_STEPS = 20
EPSILON = 1e-6


class Scheduler:
    """A waiting queue, a running batch and a KV pool of `capacity_tokens`."""

    def __init__(self, settings: EngineSettings, capacity_tokens: int, max_running: int, gain: float) -> None:
        self.capacity_tokens = capacity_tokens
        self.max_running = max_running
        self.cache = PrefixCache()
        self.waiting: deque[Job] = deque()
        self.running: dict[str, Job] = {}
        self.chunked: Job | None = None
        self.totals = Totals()
        self._settings = settings
        self._gain = gain
        self._gained = 0.0
        self._ends: list[tuple[float, int, Job]] = []
        self._sequence = 0
        self._private = 0
        self._prefilling_reserve = 0
        self._pace_sum = 0.0
        self._base_sum = 0.0
        self._context_sum = 0
        self._future_sum = 0.0
        self._max_ratio = min(1.0, INITIAL_NEW_TOKEN_RATIO * settings.schedule_conservativeness)
        self._ratio = self._max_ratio

    # --- state

    @property
    def busy(self) -> bool:
        return bool(self.running or self.waiting or self.chunked)

    @property
    def kv_tokens(self) -> float:
        """Tokens that cannot be evicted: pinned prefixes, private prompts, generated tokens."""
        return self.cache.pinned_tokens + self._private + self._grown

    @property
    def _grown(self) -> float:
        """Tokens the running requests have gained by decoding."""
        return self._pace_sum * self._gained - self._base_sum

    @property
    def generated_total(self) -> int:
        """Tokens generated since the start, running requests included."""
        return self.totals.generated_tokens + int(self._grown + EPSILON)

    @property
    def mean_context_tokens(self) -> float:
        count = len(self.running)
        if not count:
            return 0.0
        return (self._context_sum + self._grown) / count

    def generated(self, job: Job, extra_steps: int = 0) -> int:
        """Tokens a request has by now; `extra_steps` decode steps are over that were not booked yet."""
        if job.request.request_id not in self.running:
            return job.generated
        grown = (self._gained + extra_steps * self._gain - job.base) * job.pace
        return min(job.output_tokens, job.generated + int(grown + EPSILON))

    # --- arrivals

    def enqueue(self, job: Job) -> bool:
        """Take a request into the queue; False when the queue is full."""
        limit = self._settings.max_queued_requests
        if limit is not None and len(self.waiting) >= limit:
            self.totals.rejected += 1
            return False
        self.waiting.append(job)
        return True

    # --- prefill

    def plan_prefill(self) -> PrefillPlan | None:
        """Pack waiting requests, in the order of the policy, into one step; None when nothing fits or nobody waits."""
        plan = PrefillPlan()
        self._sort_waiting()
        room = self._step_room()
        if self.chunked is not None:
            room -= self._continue_chunked(plan, room)
        while self.waiting and self.chunked is None and room >= 1 and self._seats(plan):
            job = self.waiting[0]
            if (plan.new_tokens and plan.new_tokens >= self._batch_limit()) or not self._admit(job, room):
                break
            self.waiting.popleft()
            room -= self._take(plan, job, room)
        return plan if plan.parts else None

    def _sort_waiting(self) -> None:
        """Order the queue by the schedule policy; policies that need priorities or routing keys are `fcfs` here."""
        if len(self.waiting) < 2:
            return
        match self._settings.schedule_policy:
            case "lpm" if len(self.waiting) <= LONGEST_SORTED_QUEUE:
                ordered = sorted(self.waiting, key=lambda job: -self.cache.match(job.path))
            case "lof":
                ordered = sorted(self.waiting, key=lambda job: -job.remaining)
            case "shortest-prefill-first":
                ordered = sorted(self.waiting, key=lambda job: job.prompt_tokens - self._cached(job))
            case _:
                return
        self.waiting = deque(ordered)

    def _step_room(self) -> float:
        chunk = self._settings.chunked_prefill_tokens
        if chunk <= 0:
            return math.inf
        return chunk - (len(self.running) if self._settings.mixed_chunk else 0)

    def _batch_limit(self) -> float:
        """Raised to the context length, as sglang does; None is the model's own context, which never binds."""
        context = self._settings.context_length
        return math.inf if context is None else max(self._settings.max_prefill_tokens, context)

    def _seats(self, plan: PrefillPlan) -> bool:
        return len(self.running) + len(plan.parts) < self.max_running

    def _continue_chunked(self, plan: PrefillPlan, room: float) -> int:
        job = self.chunked
        assert job is not None
        self.chunked = None
        return self._take(plan, job, max(room, 1))

    def _take(self, plan: PrefillPlan, job: Job, room: float) -> int:
        """Give a request its tokens of this step; one that needs more goes on in the next (page aligned)."""
        take = job.prefill_left
        if take > room:
            page = self._settings.page_size
            take = max(int(room) // page * page, min(int(room), page))
            self.chunked = job
        plan.add(job, take)
        return take

    def _admit(self, job: Job, room: float) -> bool:
        """Reserve KV for a request and pin its cached prefix, if there is room for it and its expected output."""
        cached = self._cached(job)
        private = job.prompt_tokens - cached
        if room < min(private, self._settings.page_size) and self._prefilling_reserve:
            return False  # not even a page of it fits into this step
        pinned = self.cache.pin(job.path)
        needed = private + min(job.remaining, RESERVE_CLIP_TOKENS)
        if needed > self.capacity_tokens - self.kv_tokens - self._expected_growth() + EPSILON:
            self.cache.release(job.path, pinned)
            return False
        job.pinned, job.private, job.prefill_left = pinned, private, private
        self._private += private
        self._prefilling_reserve += min(job.remaining, RESERVE_CLIP_TOKENS)
        self._make_room()
        if job.cached_tokens < 0:
            job.cached_tokens = cached
            self.totals.prompt_tokens += job.prompt_tokens
            self.totals.cached_tokens += cached
        return True

    def _cached(self, job: Job) -> int:
        """Usable hit: whole pages, and never the last token, whose logits are needed."""
        hit = min(self.cache.match(job.path), job.prompt_tokens - 1)
        page = self._settings.page_size
        return hit // page * page

    def _expected_growth(self) -> float:
        future = max(0.0, self._future_sum - self._pace_sum * self._gained)
        return future * self._ratio + self._prefilling_reserve

    def _make_room(self) -> None:
        missing = self.kv_tokens + self.cache.evictable_tokens - self.capacity_tokens
        if missing > 0:
            self.cache.evict(missing)

    def finish_prefill(self, plan: PrefillPlan) -> tuple[list[Job], list[Job]]:
        """Book a prefill step: (requests with their first token now, requests that are complete)."""
        first: list[Job] = []
        done: list[Job] = []
        for job, take in plan.parts:
            job.prefill_left -= take
            if job.gone:
                self._drop_prefilling(job)
            elif job.prefill_left == 0:
                self._join(job, first, done)
        return first, done

    def _drop_prefilling(self, job: Job) -> None:
        if self.chunked is job:
            self.chunked = None
        self._prefilling_reserve -= min(job.remaining, RESERVE_CLIP_TOKENS)
        self._free(job)

    def _join(self, job: Job, first: list[Job], done: list[Job]) -> None:
        """A prefill is complete: share its prefix, count its token, and let it decode."""
        self._prefilling_reserve -= min(job.remaining, RESERVE_CLIP_TOKENS)
        self.cache.insert_pinned(job.path, job.pinned)
        job.pinned = len(job.path)
        unshared = job.prompt_tokens - job.path_tokens
        self._private += unshared - job.private
        job.private = unshared
        job.generated += 1
        self.totals.generated_tokens += 1
        if not job.started:
            job.started = True
            first.append(job)
        if job.remaining <= 0:
            self._leave_cache(job, 0)
            done.append(job)
            return
        job.base = self._gained
        job.threshold = self._gained + job.remaining / job.pace
        self._sequence += 1
        heapq.heappush(self._ends, (job.threshold, self._sequence, job))
        self.running[job.request.request_id] = job
        self._pace_sum += job.pace
        self._base_sum += job.pace * job.base
        self._context_sum += job.prompt_tokens + 1
        self._future_sum += job.pace * job.base + min(job.remaining, RESERVE_CLIP_TOKENS)

    # --- decode

    def steps_to_finish(self) -> int:
        """Decode steps until the next request is complete."""
        while self._ends and self._stale(self._ends[0]):
            heapq.heappop(self._ends)
        if not self._ends:
            return 1 << 30
        return max(1, math.ceil((self._ends[0][0] - self._gained) / self._gain - EPSILON))

    def _stale(self, entry: tuple[float, int, Job]) -> bool:
        threshold, _, job = entry
        return self.running.get(job.request.request_id) is not job or job.threshold != threshold

    def steps_that_fit(self) -> int:
        """Decode steps the KV pool has room for; retracts the newest requests until it is at least one."""
        while True:
            count = len(self.running)
            if not count:
                return 1 << 30
            steps = int((self.capacity_tokens - self.kv_tokens + EPSILON) / (self._pace_sum * self._gain))
            if steps >= 1 or count == 1:  # a lone request fits: its output was clipped to the pool
                return max(1, steps)
            self._retract()

    def _retract(self) -> None:
        job = next(reversed(self.running.values()))
        generated = self._remove_running(job)
        job.generated += generated
        job.prompt_tokens = job.request.input_tokens + job.generated
        self._free(job)
        self.waiting.appendleft(job)
        self.totals.retractions += 1
        left = self._future_sum - self._pace_sum * self._gained
        grown = sum(self.generated(other) for other in self.running.values())
        expected = grown + RETRACT_EXTRA_STEPS * len(self.running)
        self._ratio = min(1.0, expected / max(1.0, left + grown))

    def _remove_running(self, job: Job) -> int:
        """Take a request out of the batch; returns the tokens it gained by decoding."""
        complete = job.threshold <= self._gained + EPSILON
        gained = job.remaining if complete else int((self._gained - job.base) * job.pace + EPSILON)
        del self.running[job.request.request_id]
        self._pace_sum -= job.pace
        self._base_sum -= job.pace * job.base
        self._context_sum -= job.prompt_tokens + 1
        self._future_sum -= job.pace * job.base + min(job.remaining, RESERVE_CLIP_TOKENS)
        self.totals.generated_tokens += gained
        if not self.running:  # exact again, and small numbers stay small
            self._gained = self._pace_sum = self._base_sum = self._future_sum = 0.0
            self._ends.clear()
        return gained

    def _free(self, job: Job) -> None:
        self._private -= job.private
        self.cache.release(job.path, job.pinned)
        job.private = job.pinned = 0

    def _leave_cache(self, job: Job, gained: int) -> None:
        """A request is complete: its tokens stay in the cache, evictable, until room is needed."""
        tail = job.private + gained
        self._free(job)
        self.totals.finished += 1
        if self._settings.radix_cache:
            self._sequence += 1
            self.cache.leave(("tail", self._sequence), tail)
            self._make_room()

    def decode(self, steps: int, gain: float | None = None) -> list[Job]:
        """Book `steps` decode steps (no request ends before the last one); returns the requests that are complete."""
        if not self.running:
            return []
        self._gained += steps * (self._gain if gain is None else gain)
        floor = self._max_ratio * MIN_NEW_TOKEN_FACTOR
        decay = (self._max_ratio - floor) / NEW_TOKEN_DECAY_STEPS
        self._ratio = max(min(floor, self._ratio), self._ratio - steps * decay)
        done: list[Job] = []
        while self._ends and (self._stale(self._ends[0]) or self._ends[0][0] <= self._gained + EPSILON):
            entry = heapq.heappop(self._ends)
            if not self._stale(entry):
                job = entry[2]
                gained = self._remove_running(job)
                job.generated += gained
                self._leave_cache(job, gained)
                done.append(job)
        self._make_room()
        return done

    # --- aborts

    def abort(self, job: Job) -> None:
        """End a request wherever it is; one inside a prefill step leaves when that step ends."""
        job.gone = True
        self.totals.aborted += 1
        if job.request.request_id in self.running:
            job.generated += self._remove_running(job)
            self._free(job)
        elif job in self.waiting:
            self.waiting.remove(job)

    def reset_ratio(self) -> None:
        """An idle scheduler forgets its estimate of the outputs to come."""
        self._ratio = self._max_ratio
