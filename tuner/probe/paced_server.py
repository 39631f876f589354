"""A fake engine of known schedule, as a process of its own: what a load client is measured against.

    python -m tuner.probe.paced_server [--ttft-s 0.2] [--interval-s 0.01] [--tokens-per-chunk 1]

Answers chat completions as a stream: the first chunk `ttft-s` after the request came, the next ones `interval-s` apart,
`max_tokens` tokens in all. One blank-separated word counts as one token. Prints its port; `GET /truth` gives the times
it really wrote at, since the last time it was asked, by the clock `time.perf_counter` shares between processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httptools

from tuner.probe.gaps import ChunkTimes, gap_quantile_s
from tuner.probe.statistics import quantile
from tuner.probe.timer import PreciseTimer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_MAX_TOKENS = re.compile(rb'"max_tokens": ?(\d+)')


def _framed(event: bytes) -> bytes:
    data = b"data: " + event + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def _content(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish, "matched_stop": None}
    document = {
        "id": "0123456789abcdef0123456789abcdef", "object": "chat.completion.chunk", "created": 1700000000,
        "model": "paced", "choices": [choice], "usage": None,
    }  # fmt: skip
    return _framed(json.dumps(document).encode())


CONTENT = _content("word ")
ROLE = _framed(b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":null}')


class _Stream:
    """One answer under way."""

    __slots__ = ("chunks_left", "connection", "due_s", "first_s", "received_s", "times", "tokens", "words")

    def __init__(
        self, connection: _Connection, times: ChunkTimes, received_s: float, due_s: float, words: int, tokens: int
    ) -> None:
        self.connection, self.times, self.received_s, self.due_s = connection, times, received_s, due_s
        self.words, self.tokens, self.chunks_left = words, tokens, 0
        self.first_s = 0.0


class Schedule:
    """Writes what is due. Two lines are enough for order: all first chunks wait equally long, and all next ones.

    Whatever is due first is written first: a chunk out of turn would hold up its line for the rest of its answer.
    """

    def __init__(self, ttft_s: float, interval_s: float, tokens_per_chunk: int) -> None:
        self.ttft_s, self.interval_s, self.tokens_per_chunk = ttft_s, interval_s, tokens_per_chunk
        self._first: deque[_Stream] = deque()
        self._next: deque[_Stream] = deque()
        self._running = False
        self._timer: PreciseTimer | None = None
        self.reset()

    def reset(self) -> None:
        self._gaps: Counter[int] = Counter()
        self._lateness_s: list[float] = []
        self._ttfts_s: list[float] = []
        self._tpots_s: list[float] = []

    def truth(self) -> dict[str, Any]:
        """What was written since the last reset."""
        return {
            "requests": len(self._ttfts_s),
            "chunks": len(self._lateness_s),
            "lateness_p99_s": quantile(self._lateness_s, 0.99),
            "ttft_p50_s": quantile(self._ttfts_s, 0.5),
            "ttft_p95_s": quantile(self._ttfts_s, 0.95),
            "chunk_gap_p95_s": gap_quantile_s(self._gaps, 0.95),
            "tpot_p50_s": quantile(self._tpots_s, 0.5),
        }

    def begin(self, connection: _Connection, body: bytes, received_s: float) -> None:
        asked = _MAX_TOKENS.search(body)
        due_s = received_s + self.ttft_s
        tokens = int(asked[1]) if asked else 16
        stream = _Stream(connection, ChunkTimes(self._gaps), received_s, due_s, _words(body), tokens)
        # As with drafts: the prefill gives one token, every step after it several.
        stream.chunks_left = 1 + -(-(stream.tokens - 1) // self.tokens_per_chunk)
        connection.write(HEAD + ROLE)
        self._first.append(stream)
        if not self._running:
            self._running = True
            self._write_due()

    def _write_due(self) -> None:
        first, following = self._first, self._next
        now_s = time.perf_counter()
        while first or following:
            line = first if first and not (following and following[0].due_s < first[0].due_s) else following
            if line[0].due_s > now_s:
                now_s = time.perf_counter()
                if line[0].due_s > now_s:
                    self._sleep_until(line[0].due_s)
                    return
            self._write(line.popleft())
        self._running = False

    def _sleep_until(self, due_s: float) -> None:
        if self._timer is None:
            self._timer = PreciseTimer(self._write_due)
        self._timer.at(due_s)

    def _write(self, stream: _Stream) -> None:
        if stream.connection.closed:
            return
        now_s = time.perf_counter()
        self._lateness_s.append(now_s - stream.due_s)
        stream.connection.write(CONTENT)
        if stream.first_s == 0.0:
            stream.first_s = now_s
            self._ttfts_s.append(now_s - stream.received_s)
        stream.times.waiting.append(now_s)
        stream.chunks_left -= 1
        if stream.chunks_left > 0:
            stream.due_s += self.interval_s
            self._next.append(stream)
        else:
            self._finish(stream)

    def _finish(self, stream: _Stream) -> None:
        if stream.tokens > 1 and stream.times.last_s is not None:
            self._tpots_s.append((stream.times.last_s - stream.first_s) / (stream.tokens - 1))
        stream.times.fold()
        usage = {
            "prompt_tokens": stream.words, "completion_tokens": stream.tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
        }  # fmt: skip
        ending = _framed(b'{"choices":[{"index":0,"delta":{},"finish_reason":"length"}],"usage":null}')
        told = _framed(json.dumps({"choices": [], "usage": usage}).encode())
        stream.connection.write(ending + told + _framed(b"[DONE]") + b"0\r\n\r\n")


def _words(body: bytes) -> int:
    """Words of the prompt: each has one blank before it."""
    begin = body.find(b'"content":"')
    return max(1, body.count(b" ", begin, body.find(b'"}],', begin))) if begin >= 0 else 1


class _Connection(asyncio.Protocol):
    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.closed = False
        self._fresh()

    def _fresh(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._parts: list[bytes] = []
        self._received_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write_later: Callable[[bytes], None] = transport.write  # type: ignore[attr-defined]  # uvloop's own
        self._close = transport.close
        self._fd = transport.get_extra_info("socket").fileno()
        self._at_once = True

    def write(self, data: bytes) -> None:
        """At once, past the transport: uvloop's own collects what is written and sends it when all is done."""
        if self._at_once:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                pass
            except OSError:
                self.closed = True
                return
            self._at_once = not data
        if data:
            self._write_later(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's form
        self.closed = True

    def data_received(self, data: bytes) -> None:
        self._received_s = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._close()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        url, body, received_s = self._url, b"".join(self._parts), self._received_s
        self._fresh()
        if url == b"/v1/chat/completions":
            self._schedule.begin(self, body, received_s)
        else:
            self._side_channel(url.decode("ascii", "replace"), body)

    def _side_channel(self, url: str, body: bytes) -> None:
        answer: Any = {
            "/health": {},
            "/server_info": {"version": "paced", "model_path": "paced", "max_running_requests": 4096},
            "/v1/models": {"data": [{"id": "paced"}]},
            "/flush_cache": {},
        }.get(url)
        if url == "/v1/tokenize":
            answer = {"count": [text.count(" ") for text in json.loads(body)["prompt"]]}
        elif url == "/truth":
            answer = self._schedule.truth()
            self._schedule.reset()
        status = b"404 Not Found" if answer is None else b"200 OK"
        data = json.dumps(answer or {}).encode()
        self.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(data), data))


def _take_the_cpu(cpu: int | None) -> None:
    """Its schedule is the yardstick: where it is permitted it goes before everything else."""
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    if cpu is not None:
        with suppress(OSError, AttributeError):
            os.sched_setaffinity(0, {cpu})


async def serve(schedule: Schedule, announce: Callable[[int], None]) -> None:
    """Serve on a free loopback port until standard input ends: the parent is gone or wants no more."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(schedule), "127.0.0.1", 0, backlog=4096)
    announce(server.sockets[0].getsockname()[1])
    ended = asyncio.Event()
    control = sys.stdin.fileno()
    loop.add_reader(control, lambda: None if os.read(control, 1) else ended.set())
    await ended.wait()


def main() -> None:
    """Serve until the parent is gone; the only line on stdout is the port."""
    parser = argparse.ArgumentParser(description="A fake engine of known schedule.")
    parser.add_argument("--ttft-s", type=float, default=0.2)
    parser.add_argument("--interval-s", type=float, default=0.01)
    parser.add_argument("--tokens-per-chunk", type=int, default=1)
    parser.add_argument("--cpu", type=int, help="run on this core only")
    options = parser.parse_args()
    _take_the_cpu(options.cpu)
    schedule = Schedule(options.ttft_s, options.interval_s, options.tokens_per_chunk)
    from tuner.probe.probe import run  # noqa: PLC0415 - the loop, wherever this is run

    run(serve(schedule, lambda port: print(port, flush=True)))  # noqa: T201 - told to the parent


if __name__ == "__main__":
    main()
