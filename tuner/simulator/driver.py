"""The engine in real time: advances it on the event loop's clock and tells every request how far it is.

Knows no HTTP. Progress is told at most every `TICK_S`, so that a thousand tokens a second cost no thousand wake-ups.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Literal

from tuner.simulator.engine import Died, Engine, EngineEvent, Finished, FirstToken, Rejected, SimRequest

TICK_S = 0.025
"""How often streams are fed; decode steps of the modelled GPUs last 15 to 60 ms."""


@dataclass(frozen=True, slots=True)
class Update:
    """Where a request stands. Every kind but `tokens` is the last one."""

    kind: Literal["tokens", "finished", "rejected", "aborted"]
    generated: int = 0
    cached: int = 0


@dataclass(slots=True)
class _Listener:
    queue: asyncio.Queue[Update]
    streaming: bool
    sent_s: float
    told: int = 0


@dataclass(slots=True)
class Latencies:
    """Sums for /metrics: time to first token and end to end, by upper bound in seconds."""

    bounds: tuple[float, ...] = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0)
    counts: list[int] = field(default_factory=lambda: [0] * 17)
    total_s: float = 0.0
    count: int = 0

    def add(self, seconds: float) -> None:
        self.total_s += seconds
        self.count += 1
        for index, bound in enumerate(self.bounds):
            self.counts[index] += seconds <= bound
        self.counts[-1] += 1


class Driver:
    """Owns the engine's time. `on_death` is called once when the engine crashes, `on_retraction` with how many."""

    def __init__(
        self,
        engine: Engine,
        stream_interval: int,
        on_death: Callable[[str], None],
        on_retraction: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.engine = engine
        self.first_token = Latencies()
        self.end_to_end = Latencies()
        self._interval = max(1, stream_interval)
        self._on_death, self._on_retraction = on_death, on_retraction
        self._retractions = 0
        self._loop = asyncio.get_running_loop()
        self._zero_s = self._loop.time()
        self._listeners: dict[str, _Listener] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        return len(self._listeners)

    def now_s(self) -> float:
        return self._loop.time() - self._zero_s

    async def generate(self, request: SimRequest, *, streaming: bool) -> AsyncIterator[Update]:
        """Run a request; the last update says how it ended. Leaving the loop early aborts it."""
        listener = _Listener(asyncio.Queue(), streaming, self.now_s())
        self._listeners[request.request_id] = listener
        try:
            self._advance()
            self.engine.submit(request, self.now_s())
            self._schedule()
            while True:
                update = await listener.queue.get()
                yield update
                if update.kind != "tokens":
                    return
        finally:
            self.abort(request.request_id, tell=False)

    def abort(self, request_id: str, *, tell: bool = True) -> None:
        """End a request; `tell` its listener. Unknown ids are ignored."""
        listener = self._listeners.pop(request_id, None)
        if listener is None:
            return
        self._advance()
        generated = self.engine.generated_tokens(request_id, self.now_s())
        cached = self.engine.cached_tokens(request_id)
        self.engine.abort(request_id, self.now_s())
        if tell:
            listener.queue.put_nowait(Update("aborted", generated, cached))
        self._schedule()

    def abort_all(self) -> None:
        for request_id in list(self._listeners):
            self.abort(request_id)

    def flush_cache(self) -> bool:
        self._advance()
        return self.engine.flush_cache()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- time

    def _wake(self) -> None:
        self._timer = None
        self._advance()
        self._feed_streams()
        self._schedule()

    def _advance(self) -> None:
        for event in self.engine.advance(self.now_s()):
            self._tell(event)
        retracted = self.engine.retractions - self._retractions
        if retracted:
            self._retractions += retracted
            self._on_retraction(retracted)

    def _tell(self, event: EngineEvent) -> None:
        if isinstance(event, Died):
            self._on_death(event.kind)
            return
        listener = self._listeners.get(event.request_id)
        if listener is None:
            return
        if isinstance(event, FirstToken):
            self.first_token.add(event.at_s - listener.sent_s)
            if listener.streaming:
                listener.told = 1
                listener.queue.put_nowait(Update("tokens", 1, self.engine.cached_tokens(event.request_id)))
        elif isinstance(event, Finished):
            del self._listeners[event.request_id]
            self.end_to_end.add(event.at_s - listener.sent_s)
            listener.queue.put_nowait(Update("finished", event.output_tokens, event.cached_tokens))
        elif isinstance(event, Rejected):
            del self._listeners[event.request_id]
            listener.queue.put_nowait(Update("rejected"))

    def _feed_streams(self) -> None:
        now_s = self.now_s()
        for request_id, listener in self._listeners.items():
            if listener.streaming and listener.told:
                generated = self.engine.generated_tokens(request_id, now_s)
                if generated - listener.told >= self._interval:
                    listener.told = generated
                    listener.queue.put_nowait(Update("tokens", generated, self.engine.cached_tokens(request_id)))

    def _schedule(self) -> None:
        due_s = self.engine.next_time_s()
        if any(listener.told for listener in self._listeners.values()):
            tick_s = self.now_s() + TICK_S
            due_s = tick_s if due_s is None else min(due_s, tick_s)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due_s is not None and not self.engine.dead:
            self._timer = self._loop.call_at(self._zero_s + due_s, self._wake)
