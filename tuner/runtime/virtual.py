"""Drives a load search against the simulated engine in virtual time: the same search object, no sockets, no waiting.

Knows no configuration and no trial; time is a number that jumps to the next thing that happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
from tuner.probe.outcome import Search
from tuner.probe.plan import PlannedRequest, RequestStream
from tuner.simulator import events as sim
from tuner.simulator.engine import Engine

TICK_S = 1.0


@dataclass(slots=True)
class _Flight:
    planned: PlannedRequest
    level: int
    scheduled_s: float
    sent_s: float
    first_token_s: float | None = None


class VirtualLoad:
    """A client with perfect timing: every request leaves exactly when it is due."""

    def __init__(self, engine: Engine, stream: RequestStream, *, first_token_s: float) -> None:
        self.engine = engine
        self.stream = stream
        self.first_token_s = first_token_s
        self.now_s = 0.0
        self._flights: dict[str, _Flight] = {}
        self._next_index = 0
        self._level = 0
        self._due: Iterator[float] | None = None
        self._next_due_s: float | None = None
        self._concurrency = 0
        self._stagger_left = 0
        self._next_look_s = 0.0

    def prime(self, copies: int = 1) -> None:
        """Send each group's prefix, one after the other, so that measured requests find it cached.

        The engine deals requests out in turn: as many `copies` as it has schedulers reach every one of them.
        """
        workload = self.stream.workload
        prefix_tokens = self.stream.longest_prefix_tokens
        if prefix_tokens < 1:
            return
        for group in range(workload.prefix_groups):
            for copy in range(copies):
                request_id = f"prime-{group}-{copy}"
                self.engine.submit(sim.SimRequest(request_id, prefix_tokens + 1, 1, group, prefix_tokens), self.now_s)
                self._drain(request_id)

    def _drain(self, request_id: str) -> None:
        while (at := self.engine.next_time_s()) is not None and at < self.now_s + self.first_token_s:
            self.now_s = max(self.now_s, at)
            for event in self.engine.advance(self.now_s):
                if isinstance(event, sim.Died) or (
                    getattr(event, "request_id", None) == request_id and not isinstance(event, sim.FirstToken)
                ):
                    return

    def run(self, search: Search) -> None:
        """Feed the search until it has an outcome."""
        self._obey(search, search.start(self.now_s))
        while search.outcome is None:
            self.now_s = self._next_time(search)
            if self.engine.dead:
                self._tell(search, EngineDied(self.now_s))
                break
            for event in self.engine.advance(self.now_s):
                self._tell(search, self._translated(event))
            if self.now_s >= self._next_look_s:
                self._next_look_s = self.now_s + TICK_S
                self._time_out(search)
            self._send_due(search)
            self._fill(search)
            self._tell(search, Tick(self.now_s))

    def _next_time(self, search: Search) -> float:
        times = [self.now_s + TICK_S, self.engine.next_time_s(), self._next_due_s, search.wake_at_s]
        return max(self.now_s, min(t for t in times if t is not None))

    def _tell(self, search: Search, event: Event | None) -> None:
        if event is not None and search.outcome is None:
            self._obey(search, search.handle(event))

    def _obey(self, search: Search, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Stop):
                self._due, self._next_due_s, self._concurrency = None, None, 0
                return
            self._level = command.level
            self._due, self._next_due_s, self._concurrency, self._stagger_left = None, None, 0, 0
            if isinstance(command, OpenLoop):
                self._due = self.stream.due_times(command.level, command.rate_req_per_s, self.now_s, self._next_index)
                self._next_due_s = next(self._due)
            elif isinstance(command, ClosedLoop):
                self._concurrency = command.concurrency
                self._stagger_left = max(0, command.concurrency - len(self._flights)) if command.stagger else 0
                self._fill(search)
            else:
                assert isinstance(command, Hold)

    def _send_due(self, search: Search) -> None:
        while self._due is not None and self._next_due_s is not None and self._next_due_s <= self.now_s:
            due_s, level = self._next_due_s, self._level
            self._next_due_s = next(self._due)
            self._send(search, self.stream.request(self._next_index), level, due_s)

    def _fill(self, search: Search) -> None:
        while len(self._flights) < self._concurrency and search.outcome is None:
            staggered = self._stagger_left > 0
            self._stagger_left -= staggered
            make = self.stream.staggered if staggered else self.stream.request
            self._send(search, make(self._next_index), self._level, self.now_s)

    def _send(self, search: Search, planned: PlannedRequest, level: int, scheduled_s: float) -> None:
        self._next_index += 1
        request_id = str(planned.index)
        self._flights[request_id] = _Flight(planned, level, scheduled_s, self.now_s)
        self.engine.submit(self._prompt(request_id, planned), self.now_s)
        self._tell(search, Sent(planned.index, level, scheduled_s, self.now_s))

    def _prompt(self, request_id: str, planned: PlannedRequest) -> sim.SimRequest:
        """As the engine takes it; a trace's blocks are cut into the engine's, each named after all before it."""
        asked, answer = planned.input_tokens, planned.output_tokens
        traffic = self.stream.traffic
        if traffic is None:
            return sim.SimRequest(request_id, asked, answer, planned.prefix_group, planned.prefix_tokens)
        size, own = traffic.block_tokens, sim.BLOCK_TOKENS
        count = min(len(planned.blocks) * size, asked) // own
        blocks = tuple((planned.turn, planned.blocks[(own * i + own - 1) // size], i) for i in range(count))
        return sim.SimRequest(request_id, asked, answer, blocks=blocks)

    def _translated(self, event: sim.EngineEvent) -> Event | None:
        if isinstance(event, sim.Died):
            return EngineDied(event.at_s)
        flight = self._flights.get(event.request_id)
        if flight is None:
            return None
        if isinstance(event, sim.FirstToken):
            flight.first_token_s = event.at_s
            return FirstToken(flight.planned.index, event.at_s)
        del self._flights[event.request_id]
        if isinstance(event, sim.Rejected):
            return Finished(_record(flight, event.at_s, error="error_event"))
        return Finished(_record(flight, event.at_s, event.output_tokens, event.cached_tokens))

    def _time_out(self, search: Search) -> None:
        """A request without a token for too long is ended, as the real client does."""
        late = [k for k, f in self._flights.items() if f.first_token_s is None and self._is_late(f)]
        for request_id in late:
            flight = self._flights.pop(request_id)
            self.engine.abort(request_id, self.now_s)
            self._tell(search, Finished(_record(flight, self.now_s, error="timeout")))

    def _is_late(self, flight: _Flight) -> bool:
        return self.now_s - flight.sent_s > self.first_token_s


def _record(
    flight: _Flight, done_s: float, output_tokens: int = 0, cached_tokens: int = 0, error: str | None = None
) -> RequestRecord:
    planned = flight.planned
    return RequestRecord(
        index=planned.index,
        level=flight.level,
        scheduled_s=flight.scheduled_s,
        sent_s=flight.sent_s,
        first_token_s=flight.first_token_s,
        done_s=done_s,
        input_tokens=planned.input_tokens,
        output_tokens=output_tokens,
        cached_tokens=cached_tokens,
        chunks=output_tokens,
        error=error,
    )
