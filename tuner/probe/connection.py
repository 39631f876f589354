"""One TCP connection of the load client, and one request on it: `asyncio.Protocol` and httptools, plain HTTP/1.1.

Each received block is time-stamped once, before anything is parsed. Knows no schedule and no retries.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

import httptools

from tuner.probe.gaps import FOLDED_AT_ONCE
from tuner.probe.gathering import Gathering
from tuner.probe.sse import StreamedAnswer

BODY_SHOWN_BYTES = 300


@lru_cache(4096)
def _size_line(read_bytes: int) -> bytes:
    """The first line of a read of this length that is one whole HTTP chunk, as nearly everybody frames it."""
    digits = next((n for n in range(1, 9) if len(b"%x" % max(0, read_bytes - n - 4)) == n), 8)
    return b"%x\r\n" % max(0, read_bytes - digits - 4)


class Connection(asyncio.Protocol):
    """One TCP connection; at most one request on it at a time.

    Most reads are one whole chunk that differs from an earlier one in its text alone. While the parser stands between
    two chunks it need not know of those: they are known by `_head` and `_tail`, which are empty at any other time.
    """

    __slots__ = (
        "_between_chunks", "_clock", "_gathering", "_head", "_now_s", "_parser", "_tail", "_times", "closed",
        "exchange", "idle_since_s", "transport",
    )  # fmt: skip

    def __init__(self, clock: Callable[[], float], gathering: Gathering) -> None:
        self._clock, self._gathering = clock, gathering
        self.transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self.closed = False
        self.idle_since_s = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._now_s = 0.0
        self._between_chunks = False
        self._head = self._tail = b""
        self._times: list[float] = []

    def start(self, exchange: Exchange, payload: bytes) -> float:
        """Write the request; the time it left."""
        assert self.transport is not None
        self.exchange = exchange
        self._times = exchange.answer.times.waiting
        self._parser = httptools.HttpResponseParser(self)
        self._between_chunks = False
        self._head = self._tail = b""
        sent_s = self._clock()
        self.transport.write(payload)
        return sent_s

    def abort(self) -> None:
        self.exchange = None
        self._tail = b""
        self.closed = True
        if self.transport is not None:
            self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports do not inherit from asyncio's

    def data_received(self, data: bytes) -> None:
        now_s = self._clock()
        if not self._gathering.noticed:
            self._gathering.received()
        tail, head = self._tail, self._head
        if tail and data.endswith(tail):
            read_bytes = len(data)
            line = _size_line(read_bytes)
            event = len(line)
            text = event + len(head)
            # A text without a quotation mark: the first one is its end.
            if (
                data.startswith(line)
                and data.startswith(head, event)
                and text < data.find(b'"', text) == read_bytes - len(tail)
            ):
                times = self._times
                times.append(now_s)
                if len(times) > FOLDED_AT_ONCE and self.exchange is not None:
                    self.exchange.answer.times.fold()
                return
        self._now_s = now_s
        self._read(data)

    def _read(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            # Nothing was asked: a stray answer; the connection is of no use any more.
            self.abort()
            return
        exchange.received = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end("protocol", str(error))
        self._tail = b""
        answer = exchange.answer
        # Bytes after the last chunk's end are the beginning of the next one's size.
        going_on = self._between_chunks and self.exchange is not None and data.endswith(b"\r\n")
        if going_on and answer.tail and answer.between_events:
            self._head, self._tail = answer.head, answer.tail + b"\r\n"

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._now_s = self._clock()
        if self.exchange is not None:
            self.exchange.closed_in_order = exc is None
        reset = exc is not None or not self._received
        self._end("reset" if reset else "truncated", str(exc or "the connection was closed before the answer's end"))

    @property
    def _received(self) -> bool:
        return self.exchange is not None and self.exchange.received

    # httptools

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        self._between_chunks = True

    def on_body(self, body: bytes) -> None:
        if self.exchange is not None:
            self.exchange.body(self._parser.get_status_code(), body, self._now_s)

    def on_message_complete(self) -> None:
        reusable = self._parser.should_keep_alive()
        exchange, self.exchange = self.exchange, None
        self._between_chunks = False
        if exchange is not None:
            exchange.end(self._parser.get_status_code(), self._now_s)
        if not reusable:
            self.closed = True
            if self.transport is not None:
                self.transport.close()

    def _end(self, error: str, message: str) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.broken(error, message, self._now_s)
        self.abort()


class Exchange:
    """One request on one connection, until its future holds the time it ended."""

    def __init__(self, on_first_token: Callable[[float], None], gaps: Counter[int] | None = None) -> None:
        self.answer = StreamedAnswer(gaps)
        self.received = self.closed_in_order = False
        self.done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._on_first_token = on_first_token
        self._plain = b""
        self._last_s = 0.0

    @property
    def last_s(self) -> float:
        """When the answer last went on."""
        return max(self._last_s, self.answer.times.last_s or 0.0)

    def body(self, status: int, data: bytes, now_s: float) -> None:
        self._last_s = now_s
        if status != 200:
            self._plain += data[: BODY_SHOWN_BYTES - len(self._plain)]
        elif self.answer.feed(data, now_s):
            self._on_first_token(now_s)

    def end(self, status: int, now_s: float) -> None:
        answer = self.answer
        if status != 200:
            answer.error, answer.message = f"http_{status}", self._plain.decode("utf-8", "replace")
        else:
            answer.end()
        self._resolve(self.last_s if answer.done else now_s)

    def broken(self, error: str, message: str, now_s: float) -> None:
        if self.answer.error is None and not self.answer.done:
            self.answer.error, self.answer.message = error, message
        self._resolve(now_s)

    def _resolve(self, now_s: float) -> None:
        if not self.done.done():
            self.done.set_result(now_s)
