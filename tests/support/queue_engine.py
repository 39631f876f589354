"""A small queueing model of an LLM engine, and a driver that runs a search against it in virtual time.

One scheduler, fixed slots; `prefill_first` stops decoding while anything can be prefilled, otherwise each step mixes up
to `chunk_tokens` of prefill into the decode batch. Deterministic given the traffic.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tuner.probe.arrivals import due_times
from tuner.probe.events import (
    ClosedLoop,
    Command,
    EngineDied,
    Event,
    Finished,
    FirstToken,
    Hold,
    OpenLoop,
    RequestRecord,
    Sent,
    Stop,
    Tick,
)
from tuner.probe.outcome import Outcome, Search
from tuner.probe.plan import RequestStream

FAILS_AFTER_S = 0.25


@dataclass(frozen=True)
class QueueEngine:
    """Seconds: prefill of one new token, a decode step's fixed part, and its part per running request."""

    slots: int = 256
    prefill_s_per_token: float = 11.6e-6
    step_s: float = 0.012
    step_s_per_request: float = 7e-5
    prefill_first: bool = True
    chunk_tokens: int = 2048
    fail: Callable[[int, float], str | None] = lambda index, now_s: None


@dataclass
class Job:
    index: int
    level: int
    scheduled_s: float
    sent_s: float
    new_tokens: int
    input_tokens: int
    output_tokens: int
    first_token_s: float | None = None


class Running:
    """The engine's state: queue, one prefill in progress, decode batch ordered by the step it finishes at."""

    def __init__(self, engine: QueueEngine) -> None:
        self.engine = engine
        self.queue: deque[Job] = deque()
        self.prefilled = 0
        self.batch: list[tuple[int, int, Job]] = []
        self.steps = 0
        self._ids = itertools.count()

    @property
    def busy(self) -> bool:
        return bool(self.queue or self.batch)

    def step(self, now_s: float, until_s: float) -> tuple[float, list[tuple[str, Job]]]:
        """One prefill, or decode steps up to the next change; the time after it and what happened then."""
        engine = self.engine
        admits = bool(self.queue) and len(self.batch) < engine.slots
        if admits and engine.prefill_first:
            job = self.queue.popleft()
            return now_s + job.new_tokens * engine.prefill_s_per_token, self._begin(job)
        step_s = (engine.step_s + engine.step_s_per_request * len(self.batch)) if self.batch else 0.0
        if admits:
            return self._mixed(now_s, step_s)
        to_finish = self.batch[0][0] - self.steps
        until = max(1, int((until_s - now_s) / step_s) + 1)
        count = min(to_finish, until)
        self.steps += count
        return now_s + count * step_s, self._ended()

    def _mixed(self, now_s: float, step_s: float) -> tuple[float, list[tuple[str, Job]]]:
        left, done = self.engine.chunk_tokens, []
        while left > 0 and self.queue and len(self.batch) + len(done) < self.engine.slots:
            job = self.queue[0]
            part = min(left, job.new_tokens - self.prefilled)
            left, self.prefilled = left - part, self.prefilled + part
            if self.prefilled >= job.new_tokens:
                done.append(self.queue.popleft())
                self.prefilled = 0
        used = self.engine.chunk_tokens - left
        self.steps += 1
        happened = self._ended()
        for job in done:
            happened += self._begin(job)
        return now_s + max(step_s, 1e-4) + used * self.engine.prefill_s_per_token, happened

    def _begin(self, job: Job) -> list[tuple[str, Job]]:
        if job.output_tokens <= 1:
            return [("first", job), ("done", job)]
        heapq.heappush(self.batch, (self.steps + job.output_tokens - 1, next(self._ids), job))
        return [("first", job)]

    def _ended(self) -> list[tuple[str, Job]]:
        happened = []
        while self.batch and self.batch[0][0] <= self.steps:
            happened.append(("done", heapq.heappop(self.batch)[2]))
        return happened


class VirtualRun:
    """Feeds a search with what the engine does; a day of load takes seconds."""

    def __init__(
        self,
        search: Search,
        engine: QueueEngine,
        stream: RequestStream,
        *,
        dies_at_s: float | None = None,
        sleeps: tuple[tuple[float, float], ...] = (),
        start_s: float = 1000.0,
    ) -> None:
        self.search, self.stream, self.engine = search, stream, Running(engine)
        self.now_s = self.start_s = start_s
        self.dies_at_s = None if dies_at_s is None else start_s + dies_at_s
        self.sleeps = [(start_s + at, for_s) for at, for_s in sleeps]
        self.offset_s = 0.0
        self.index = 0
        self.in_flight = 0
        self.closed: ClosedLoop | None = None
        self.open: tuple[int, Iterator[float]] | None = None
        self.due_s = float("inf")
        self.wave = 0
        self.failing: deque[tuple[float, Job, str]] = deque()
        self.commands: list[Command] = []

    def run(self, limit_s: float = 1e5) -> Outcome:
        self.obey(self.search.start(self.now_s))
        next_tick = self.now_s + 1.0
        engine_free_s = self.now_s
        happened: list[tuple[str, Job]] = []
        while self.search.outcome is None:
            assert self.now_s < self.start_s + limit_s, "the search does not end"
            wake = self.search.wake_at_s
            horizon = min(next_tick, self.due_s, wake if wake is not None and wake > self.now_s else float("inf"))
            horizon = min(horizon, self.failing[0][0] if self.failing else float("inf"))
            if not happened and self.engine.busy and self.now_s >= engine_free_s:
                engine_free_s, happened = self.engine.step(self.now_s, horizon)
            event_s = engine_free_s if (happened or self.engine.busy) else float("inf")
            self.now_s = max(self.now_s, min(horizon, event_s))
            if self.dies_at_s is not None and self.now_s >= self.dies_at_s:
                self.tell(EngineDied(self.now_s))
                continue
            while self.sleeps and self.now_s >= self.sleeps[0][0]:
                self.offset_s += self.sleeps.pop(0)[1]
            if self.now_s >= engine_free_s and happened:
                for what, job in happened:
                    self.engine_event(what, job)
                happened = []
            while self.due_s <= self.now_s and self.open is not None:
                level, times = self.open
                due = self.due_s
                self.due_s = next(times)
                self.send(level, due)
            while self.failing and self.failing[0][0] <= self.now_s:
                _, job, error = self.failing.popleft()
                self.finish(job, error)
            if self.now_s >= next_tick or (wake is not None and self.now_s >= wake):
                self.tell(Tick(self.now_s + self.offset_s))
                next_tick = self.now_s + 1.0
        return self.search.outcome

    def engine_event(self, what: str, job: Job) -> None:
        if what == "first":
            job.first_token_s = self.now_s + self.offset_s
            self.tell(FirstToken(job.index, job.first_token_s))
            return
        self.finish(job, None)

    def finish(self, job: Job, error: str | None) -> None:
        now_s = self.now_s + self.offset_s
        tokens = job.output_tokens if error is None else 0
        self.in_flight -= 1
        record = RequestRecord(
            job.index, job.level, job.scheduled_s, job.sent_s, job.first_token_s, now_s,
            job.input_tokens, tokens, job.input_tokens - job.new_tokens, tokens, error=error,
        )  # fmt: skip
        self.tell(Finished(record))
        self.top_up()

    def tell(self, event: Event) -> None:
        if self.search.outcome is None:
            self.obey(self.search.handle(event))

    def obey(self, commands: list[Command]) -> None:
        for command in commands:
            self.commands.append(command)
            self.closed, self.open, self.due_s = None, None, float("inf")
            if isinstance(command, ClosedLoop):
                self.closed = command
                self.wave = command.concurrency - self.in_flight if command.stagger else 0
                self.top_up()
            elif isinstance(command, OpenLoop):
                times = due_times("poisson", self.stream.seed, command.level, command.rate_req_per_s, self.now_s)
                self.open, self.due_s = (command.level, times), next(times)
            else:
                assert isinstance(command, (Hold, Stop))

    def top_up(self) -> None:
        while self.closed is not None and self.in_flight < self.closed.concurrency and self.search.outcome is None:
            self.send(self.closed.level, self.now_s)

    def send(self, level: int, due_s: float) -> None:
        planned = self.stream.staggered(self.index) if self.wave > 0 else self.stream.request(self.index)
        self.wave -= 1
        self.index += 1
        self.in_flight += 1
        job = Job(
            planned.index, level, due_s + self.offset_s, self.now_s + self.offset_s,
            planned.input_tokens - planned.prefix_tokens, planned.input_tokens, planned.output_tokens,
        )  # fmt: skip
        self.tell(Sent(job.index, level, job.scheduled_s, job.sent_s))
        error = self.engine.engine.fail(job.index, self.now_s - self.start_s)
        if error is not None:
            self.failing.append((self.now_s + FAILS_AFTER_S, job, error))
        else:
            self.engine.queue.append(job)
