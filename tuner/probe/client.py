"""A streaming HTTP client for load: keeps connections, asks again where that is safe, gives up where nothing comes.

A request ends in a `RequestRecord` whatever happens; a failed one carries its error word and is never fast. Knows no
schedule and no limits.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from tuner.probe.connection import Connection, Exchange
from tuner.probe.events import RequestRecord
from tuner.probe.gathering import Gathering
from tuner.probe.sse import StreamedAnswer

CONNECT_S = 10.0

STALE_S = 1.0
"""A kept connection that ends after less idle time did not end for being idle."""

FORGIVEN = 3
"""So often a request on such a connection is asked again; from then on connections are not kept, so that a server that
tears every third connection cannot pass for one that closes idle ones."""

CONNECTION_ERRORS = frozenset({"refused", "reset", "truncated", "timeout"})
"""Errors that may mean that the engine itself is gone."""

_OURS = CONNECTION_ERRORS | {"token_count", "bad_event"}
"""Errors whose sentence is the client's own."""


def _ignore(_: float) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Order:
    """One request to send. `expected_tokens` None: any answer length is right (end of sequence is not ignored)."""

    index: int
    level: int
    scheduled_s: float
    body: bytes
    expected_tokens: int | None = None


@dataclass(slots=True)
class _Watch:
    """The timer that looks after one request; renewed as long as tokens come."""

    timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class StreamClient:
    """Sends requests to one path of one server and keeps its connections.

    `first_token_s` is how long the first token, and later any next one, may take; `request_s` the whole answer.
    `api_key` goes with every request and is kept nowhere else.
    `messages` keeps one sentence of the server per error word; without `quote` none of those it wrote into an answer.
    """

    def __init__(
        self,
        base_url: str,
        path: str,
        *,
        first_token_s: float = 600.0,
        request_s: float = 3600.0,
        quote: bool = True,
        api_key: str = "",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        url = urlsplit(base_url)
        if url.scheme != "http" or url.hostname is None:
            raise ValueError(f"{base_url}: the load client speaks plain http to an explicit host")
        self._host, self._port = url.hostname, url.port or 80
        allowed = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n{allowed}"
            "Accept: text/event-stream\r\nContent-Length: "
        ).encode()
        self._first_token_s, self._request_s = first_token_s, request_s
        self._clock, self._quote = clock, quote
        self.spares = 0
        """Connections kept open beyond those in use: opening one takes time that a due request does not have."""
        self._opening: asyncio.Task[None] | None = None
        self._idle: list[Connection] = []
        self.gathering = Gathering()
        self._forgiven = 0
        self.resent = 0
        """Requests asked once more, on a new connection: a kept one had been closed, and not a byte had come."""
        self.cached_told = False
        """Whether any answer said how much of its prompt was in the cache."""
        self.messages: dict[str, str] = {}
        self.gaps: dict[int, Counter[int]] = {}
        """Counted gaps between chunks by level (`tuner.probe.gaps`)."""

    async def send(
        self,
        order: Order,
        on_sent: Callable[[float], None] = _ignore,
        on_first_token: Callable[[float], None] = _ignore,
    ) -> RequestRecord:
        """Send one request and read its answer to the end. Cancelling closes the connection: the server aborts."""
        payload = b"%s%d\r\n\r\n%s" % (self._head, len(order.body), order.body)
        gaps = self.gaps.setdefault(order.level, Counter())
        kept = self._take_idle()
        self._replenish()
        if kept is not None:
            exchange, sent_s, done_s = await self._ask(kept, payload, gaps, on_sent, on_first_token)
            stale = sent_s - kept.idle_since_s >= STALE_S or self._forgive(exchange)
            if exchange.received or exchange.answer.error == "timeout" or not stale:
                return self._record(order, exchange.answer, sent_s, done_s)
            # The server had closed a connection it had offered to keep: not a byte came, so asking again is safe.
            self.resent += 1
            on_sent = _ignore
        try:
            fresh = await self._connect()
        except (OSError, asyncio.TimeoutError) as error:
            return self._refused(order, on_sent, error)
        exchange, sent_s, done_s = await self._ask(fresh, payload, gaps, on_sent, on_first_token)
        return self._record(order, exchange.answer, sent_s, done_s)

    def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        while self._idle:
            self._idle.pop().abort()

    async def open_spares(self) -> None:
        """Open connections until `spares` are idle; a server that refuses will refuse the requests too."""
        with suppress(OSError, asyncio.TimeoutError):
            while len(self._idle) < self.spares:
                connection = await self._connect()
                connection.idle_since_s = self._clock()
                self._idle.insert(0, connection)

    def _replenish(self) -> None:
        if len(self._idle) < self.spares and (self._opening is None or self._opening.done()):
            self._opening = asyncio.get_running_loop().create_task(self.open_spares())

    def _forgive(self, exchange: Exchange) -> bool:
        if exchange.received or not exchange.closed_in_order:
            return False
        self._forgiven += 1
        return self._forgiven <= FORGIVEN

    def _take_idle(self) -> Connection | None:
        if self._forgiven >= FORGIVEN:
            self.spares = 0
            self.close()
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and connection.transport is not None and not connection.transport.is_closing():
                return connection
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        opening = loop.create_connection(lambda: Connection(self._clock, self.gathering), self._host, self._port)
        _, connection = await asyncio.wait_for(opening, CONNECT_S)
        return connection

    async def _ask(
        self,
        connection: Connection,
        payload: bytes,
        gaps: Counter[int],
        on_sent: Callable[[float], None],
        on_first_token: Callable[[float], None],
    ) -> tuple[Exchange, float, float]:
        """One request on one connection: the exchange, when it left, when it ended."""
        exchange = Exchange(on_first_token, gaps)
        sent_s = connection.start(exchange, payload)
        on_sent(sent_s)
        watch = _Watch()
        self._look(connection, exchange, sent_s, watch)
        try:
            done_s = await exchange.done
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            watch.cancel()
            exchange.answer.times.fold()
        if not connection.closed:
            connection.idle_since_s = done_s
            self._idle.append(connection)
        return exchange, sent_s, done_s

    def _look(self, connection: Connection, exchange: Exchange, sent_s: float, watch: _Watch) -> None:
        """End a request whose first token, or whose next one, has not come in time, or that goes on for ever."""
        if exchange.done.done():
            return
        now_s = self._clock()
        since_s = sent_s if exchange.answer.first_token_s is None else exchange.last_s
        left_s = min(since_s + self._first_token_s, sent_s + self._request_s) - now_s
        if left_s > 0:
            loop = asyncio.get_running_loop()
            watch.timer = loop.call_later(left_s, lambda: self._look(connection, exchange, sent_s, watch))
            return
        connection.abort()
        exchange.broken(
            "timeout", f"silent for {now_s - since_s:.1f} s, {now_s - sent_s:.1f} s after it was sent", now_s
        )

    def _refused(self, order: Order, on_sent: Callable[[float], None], error: Exception) -> RequestRecord:
        now_s = self._clock()
        on_sent(now_s)
        answer = StreamedAnswer()
        answer.error, answer.message = "refused", str(error) or type(error).__name__
        return self._record(order, answer, now_s, now_s)

    def _record(self, order: Order, answer: StreamedAnswer, sent_s: float, done_s: float) -> RequestRecord:
        error = answer.error
        if error is None and not _as_asked(answer, order.expected_tokens):
            error = "token_count"
            answer.message = f"{answer.output_tokens} tokens were counted, {order.expected_tokens} were asked for"
            if answer.output_tokens <= 0 or answer.input_tokens <= 0:
                answer.message = "the answer has no usage, or none but zeros: its tokens cannot be counted"
        self.cached_told = self.cached_told or answer.cached_told
        if error is not None:
            told = answer.message if self._quote or error in _OURS else "(not shown: it may repeat a prompt)"
            self.messages.setdefault(error, told)
        first_token_s = answer.first_token_s
        if first_token_s is None and error is None:
            # The tokens made no text (held-back bytes, special tokens): the end of the answer shows them.
            first_token_s = answer.finish_s if answer.finish_s is not None else done_s
        if error is None and first_token_s is not None:
            self.gathering.answered(answer.chunks, done_s - first_token_s)
        return RequestRecord(
            index=order.index,
            level=order.level,
            scheduled_s=order.scheduled_s,
            sent_s=sent_s,
            first_token_s=first_token_s,
            done_s=done_s,
            input_tokens=answer.input_tokens,
            output_tokens=answer.output_tokens,
            cached_tokens=answer.cached_tokens,
            chunks=answer.chunks,
            first_tokens=answer.first_tokens,
            max_chunk_gap_s=answer.times.max_gap_s,
            error=error,
        )


def _as_asked(answer: StreamedAnswer, expected_tokens: int | None) -> bool:
    """Whether the server's own count is a count at all, and the one asked for."""
    if answer.output_tokens <= 0 or answer.input_tokens <= 0:
        return False
    return expected_tokens is None or answer.output_tokens == expected_tokens
