"""Runs a sans-IO search against a real server: its commands become requests, what happens becomes its events.

Also watches itself: a client that sends late or whose loop lags would measure its own queue. Decides nothing.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from tuner.probe.client import CONNECTION_ERRORS, Order, StreamClient
from tuner.probe.events import (
    ClientStalled,
    ClosedLoop,
    Command,
    EngineDied,
    Event,
    Finished,
    FirstToken,
    OpenLoop,
    Sent,
    Stop,
    Tick,
)
from tuner.probe.outcome import Outcome, Search
from tuner.probe.plan import PlannedRequest, RequestStream
from tuner.probe.statistics import quantile
from tuner.probe.throttling import Throttled, throttled
from tuner.probe.timer import Alarm

TICK_S = 0.25
"""Events promise a tick at least every second; four times as often notices a dead engine soon."""

RESEND_PAUSE_S = 0.25
"""A closed loop must not spin on a server that fails at once."""

SUSPICION_S = 15.0
"""How long broken connections are kept back while it is found out whether the engine is gone: a dead scheduler takes
its server down within about 7 s."""

LENGTH_TOLERANCE = 0.005
"""A prompt may differ by so much from its planned length."""

SPARE_CONNECTIONS = 16

LOOK_S = 0.02
"""How often the event loop is timed."""

STALL_S = 0.2
"""A loop that stood still for so long has spoilt the level under way: several requests carry the client's delay."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the driver asks the outside world. `healthy` is a quick check whether the engine answers at all."""

    engine_alive: Callable[[], bool]
    stop_requested: Callable[[], bool]
    healthy: Callable[[], Awaitable[bool]]
    on_command: Callable[[Command], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class DriveReport:
    """How a run ended, and the client's own health: delays in seconds, CPU as a share of one core."""

    outcome: Outcome | None
    interrupted: bool
    requests: int
    planned_input_tokens: int
    planned_prefix_tokens: int
    send_lag_p99_s: float
    loop_lag_p99_s: float
    cpu_share: float
    token_mismatches: int
    duration_s: float
    chunks: int = 0
    cpu_s: float = 0.0
    bodies_late: int = 0
    throttled: Throttled | None = None
    longest_stall_s: float = 0.0
    input_tokens_ratio: float = 1.0
    """Tokens the engine counted in prompts / tokens planned; 1 where lengths are not ours to plan."""

    def as_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "send_lag_p99_ms": round(self.send_lag_p99_s * 1e3, 3),
            "loop_lag_p99_ms": round(self.loop_lag_p99_s * 1e3, 3),
            "cpu_share": round(self.cpu_share, 4),
            "token_mismatches": self.token_mismatches,
            "duration_s": round(self.duration_s, 3),
            "chunks_per_s": round(self.chunks / max(self.duration_s, 1e-9), 1),
            "cpu_ms_per_1k_chunks": round(self.cpu_s * 1e6 / self.chunks, 3) if self.chunks else None,
            "bodies_late": self.bodies_late,
            "longest_stall_ms": round(self.longest_stall_s * 1e3, 1),
            "throttled_periods": self.throttled.periods if self.throttled else 0,
            "throttled_s": round(self.throttled.seconds, 3) if self.throttled else 0.0,
        }


@dataclass(slots=True)
class Counts:
    """What a driver notes about its own work."""

    requests: int = 0
    planned_input_tokens: int = 0
    planned_prefix_tokens: int = 0
    token_mismatches: int = 0
    counted_tokens: int = 0
    counted_planned_tokens: int = 0
    chunks: int = 0
    longest_stall_s: float = 0.0
    send_lags_s: list[float] = field(default_factory=list)
    loop_lags_s: list[float] = field(default_factory=list)


class Driver:
    """One run of one search on the current event loop. Clock: `time.perf_counter`."""

    def __init__(
        self,
        search: Search,
        client: StreamClient,
        stream: RequestStream,
        body: Callable[[PlannedRequest], bytes],
        around: Surroundings,
        *,
        first_index: int = 0,
        check_length: bool = True,
        exact: bool = True,
    ) -> None:
        """`check_length` of every answer; `exact`: of every prompt, not only of all together."""
        self.search = search
        self._client, self._stream, self._body = client, stream, body
        self._around, self._check_length, self._exact = around, check_length, exact
        # The user's own prompts have whatever length they have.
        self._check_input = stream.traffic is None or stream.traffic.kind == "trace"
        self.next_index = first_index
        self._tasks: set[asyncio.Task[None]] = set()
        self._sender: asyncio.Task[None] | None = None
        self._inquiry: asyncio.Task[bool] | None = None
        self._closed: ClosedLoop | None = None
        self._wave = 0
        self._in_flight = 0
        self._over = asyncio.Event()
        self._looking: asyncio.TimerHandle | None = None
        self._look_due_s = 0.0
        self._mistake: BaseException | None = None
        self.interrupted = False
        self.counts = Counts()

    async def run(self) -> None:
        """Until the search has its outcome, the engine is dead or a stop is asked for; then all requests are aborted.

        A mistake of our own anywhere below ends the run too, and is raised here: it must not pass for the engine's.
        """
        self._client.spares = SPARE_CONNECTIONS
        await self._client.open_spares()
        self._obey(self.search.start(time.perf_counter()))
        ticking = self._spawn(self._tick())
        self._time_the_loop()
        try:
            await self._over.wait()
        finally:
            self._stop_timing()
            tasks: list[asyncio.Task[Any]] = [t for t in (ticking, self._inquiry, *self._tasks) if t is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._mistake is not None:
            raise self._mistake

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (mistake := task.exception()) is not None:
            self._give_up(mistake)

    def _give_up(self, mistake: BaseException) -> None:
        self._mistake = self._mistake or mistake
        self._over.set()

    # --- events in

    def _feed(self, event: Event) -> None:
        if self._over.is_set():
            return
        try:
            self._obey(self.search.handle(event))
        except Exception as mistake:  # noqa: BLE001 - called from protocol callbacks, where nobody would see it
            self._give_up(mistake)

    def _time_the_loop(self) -> None:
        """How late a timer comes: what everything else on this loop suffers too. No task, it is made so often."""
        self._look_due_s = time.perf_counter() + LOOK_S
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        lag_s = max(0.0, time.perf_counter() - self._look_due_s)
        self.counts.loop_lags_s.append(lag_s)
        if lag_s >= STALL_S:
            self.counts.longest_stall_s = max(self.counts.longest_stall_s, lag_s)
            self._feed(ClientStalled(self._look_due_s + lag_s, lag_s))
        self._time_the_loop()

    def _stop_timing(self) -> None:
        if self._looking is not None:
            self._looking.cancel()

    async def _tick(self) -> None:
        while True:
            before_s = time.perf_counter()
            wake_s = self.search.wake_at_s
            pause_s = TICK_S if wake_s is None else min(TICK_S, max(0.001, wake_s - before_s))
            await asyncio.sleep(pause_s)
            now_s = time.perf_counter()
            if self._around.stop_requested():
                self.interrupted = True
                self._over.set()
                return
            if not self._around.engine_alive():
                self._feed(EngineDied(now_s))
            self._feed(Tick(now_s))

    # --- commands out

    def _obey(self, commands: list[Command]) -> None:
        """Each command replaces the one before: it alone says what is sent from now on."""
        for command in commands:
            self._around.on_command(command)
            if self._sender is not None:
                self._sender.cancel()
                self._sender = None
            self._closed = None
            if isinstance(command, ClosedLoop):
                self._closed = command
                self._wave = command.concurrency - self._in_flight if command.stagger else 0
                self._top_up()
            elif isinstance(command, OpenLoop):
                self._sender = self._spawn(self._send_on_schedule(command))
            elif isinstance(command, Stop):
                self._over.set()

    def _top_up(self) -> None:
        while self._closed is not None and self._in_flight < self._closed.concurrency:
            self._launch(self._closed.level, time.perf_counter())

    async def _send_on_schedule(self, command: OpenLoop) -> None:
        times = self._stream.due_times(command.level, command.rate_req_per_s, time.perf_counter(), self.next_index)
        alarm = Alarm()
        try:
            for due_s in times:
                self._client.gathering.due_s = due_s
                await alarm.until(due_s)
                self._launch(command.level, due_s, timed=True)
                # A late loop catches up without starving the answers that are coming in.
                await asyncio.sleep(0)
        finally:
            self._client.gathering.due_s = math.inf
            alarm.close()

    def _launch(self, level: int, scheduled_s: float, *, timed: bool = False) -> None:
        planned = self._plan()
        self.counts.planned_input_tokens += planned.input_tokens
        self.counts.planned_prefix_tokens += planned.prefix_tokens
        self.counts.requests += 1
        expected = planned.output_tokens if self._check_length else None
        order = Order(planned.index, level, scheduled_s, self._body(planned), expected)
        self._in_flight += 1
        self._spawn(self._request(order, planned, timed=timed))

    def _plan(self) -> PlannedRequest:
        index = self.next_index
        self.next_index += 1
        if self._wave > 0:
            self._wave -= 1
            return self._stream.staggered(index)
        return self._stream.request(index)

    async def _request(self, order: Order, planned: PlannedRequest, *, timed: bool) -> None:
        def sent(at_s: float) -> None:
            if timed:
                self.counts.send_lags_s.append(at_s - order.scheduled_s)
            self._feed(Sent(order.index, order.level, order.scheduled_s, at_s))

        record = await self._client.send(order, sent, lambda at_s: self._feed(FirstToken(order.index, at_s)))
        self.counts.chunks += record.chunks
        if self._check_input and record.error is None:
            self._check_prompt(record.input_tokens, planned.input_tokens)
        if record.error in CONNECTION_ERRORS and not await self._engine_lives():
            self._feed(EngineDied(time.perf_counter()))
        self._feed(Finished(record))
        if record.error is not None:
            await asyncio.sleep(RESEND_PAUSE_S)
        self._in_flight -= 1
        self._top_up()

    def _check_prompt(self, counted: int, planned: int) -> None:
        self.counts.counted_tokens += counted
        self.counts.counted_planned_tokens += planned
        if self._exact and not _length_right(counted, planned):
            self.counts.token_mismatches += 1

    async def _engine_lives(self) -> bool:
        """Whether broken connections are the requests' own affair; all that break meanwhile wait for one answer."""
        if self._inquiry is None or self._inquiry.done():
            self._inquiry = asyncio.create_task(self._inquire())
        return await asyncio.shield(self._inquiry)

    async def _inquire(self) -> bool:
        until_s = time.perf_counter() + SUSPICION_S
        while time.perf_counter() < until_s:
            if not self._around.engine_alive():
                return False
            if await self._around.healthy():
                return True
            await asyncio.sleep(TICK_S)
        return False


def _length_right(counted: int, planned: int) -> bool:
    """Half a per cent, and two tokens for short prompts."""
    return abs(counted - planned) <= max(2.0, LENGTH_TOLERANCE * planned)


async def drive(driver: Driver) -> DriveReport:
    """Run a driver and report on the client's own health."""
    # Prompts and records only accumulate: what exists now need not be walked by every full collection.
    gc.collect()
    gc.freeze()
    began_s, cpu_s = time.perf_counter(), time.process_time()
    before = throttled()
    try:
        await driver.run()
    finally:
        gc.unfreeze()
    wall_s = max(time.perf_counter() - began_s, 1e-9)
    cpu_s = time.process_time() - cpu_s
    after, counts = throttled(), driver.counts
    return DriveReport(
        outcome=driver.search.outcome,
        interrupted=driver.interrupted,
        requests=counts.requests,
        planned_input_tokens=counts.planned_input_tokens,
        planned_prefix_tokens=counts.planned_prefix_tokens,
        send_lag_p99_s=quantile(counts.send_lags_s, 0.99) or 0.0,
        loop_lag_p99_s=quantile(counts.loop_lags_s, 0.99) or 0.0,
        cpu_share=cpu_s / wall_s,
        token_mismatches=counts.token_mismatches,
        duration_s=wall_s,
        chunks=counts.chunks,
        cpu_s=cpu_s,
        throttled=after.since(before) if before and after else None,
        longest_stall_s=counts.longest_stall_s,
        input_tokens_ratio=counts.counted_tokens / max(1, counts.counted_planned_tokens) or 1.0,
    )
