"""A tiny engine behind sglang's HTTP paths, inside the test's own event loop: slots, steps, a cache, ways to fail.

One token is one blank-separated word. The chat template adds `overhead` tokens.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


def count_words(text: str) -> int:
    return len(re.findall(r"\S+", text))


@dataclass
class LoopbackEngine:
    """`fault(number)` names what is wrong with the n-th generation request: a status, `reset`, `error_event`..."""

    slots: int = 8
    token_s: float = 0.002
    prefill_s: float = 0.002
    overhead: int = 7
    reported_slots: int | None = 8
    tokenizes: bool = True
    flushes: bool = True
    caches: bool = True
    reports_cached: bool = True
    miscounts: int = 0
    api_key: str = ""
    fault: Callable[[int], str] = lambda number: ""
    requests: int = 0
    dead: bool = False
    answers: dict[str, Any] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    async def __aenter__(self):
        self._gate = asyncio.Semaphore(self.slots)
        self._connections: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.die()
        await self._server.wait_closed()
        await asyncio.sleep(0.01)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def die(self) -> None:
        """Like SIGKILL: no listener, every connection torn."""
        self.dead = True
        self._server.close()
        for writer in list(self._connections):
            writer.transport.abort()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while not self.dead:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1])) if length else b""
                if self.api_key and path != "/health" and f"Authorization: Bearer {self.api_key}" not in head:
                    self._plain(writer, 401, b'{"error":"Unauthorized"}')
                    continue
                await self._answer(method, path, body, writer)
        except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):  # uvloop: writing to a torn connection
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        document = json.loads(body) if body else {}
        if path in ("/v1/chat/completions", "/v1/completions"):
            await self._generate(path, document, writer)
            return
        answers: dict[str, Any] = {
            "/health": {},
            "/server_info": {
                "version": "0.5.23", "dp_size": 1, "served_model_name": "tiny", "api_key": "hidden",
                "max_running_requests": self.reported_slots,
            },
            "/v1/models": {"data": [{"id": "tiny"}]},
            "/flush_cache": {},
            "/v1/tokenize": self._tokenize(document) if self.tokenizes and path == "/v1/tokenize" else None,
        }  # fmt: skip
        if path == "/flush_cache" and self.flushes:
            self.seen.clear()
        if path == "/flush_cache" and not self.flushes and path not in self.answers:
            self._plain(writer, 400, b"Flush cache failed.")
            return
        if path == "/metrics":
            self._plain(writer, 200, b'sglang:num_retracted_reqs{tp_rank="0"} 2.0\nsglang:fwd_occupancy NaN\n')
            return
        answer = {**answers, **self.answers}.get(path)
        self._plain(writer, 404 if answer is None else 200, json.dumps(answer).encode())

    def _tokenize(self, document: dict[str, Any]) -> dict[str, Any]:
        prompt = document["prompt"]
        counts = [count_words(t) for t in prompt] if isinstance(prompt, list) else count_words(prompt)
        return {"count": counts}

    def _plain(self, writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))

    async def _generate(self, path: str, document: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.requests += 1
        self.bodies.append(document)
        fault = self.fault(self.requests)
        if fault.isdigit():
            self._plain(writer, int(fault), b'{"object":"error","message":"no"}')
            return
        if fault == "reset":
            writer.transport.abort()
            return
        chat = path.endswith("chat/completions")
        text = document["messages"][0]["content"] if chat else document["prompt"]
        words = text.split()
        cached = self._cached(words)
        async with self._gate:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n")
            if fault == "error_event":
                self._event(writer, {"error": {"message": "broken", "code": 500}})
            else:
                await self._tokens(writer, document["max_tokens"], chat=chat)
        usage = {
            "prompt_tokens": len(words) + (self.overhead if chat else 0) + self.miscounts,
            "completion_tokens": 0 if fault else document["max_tokens"],
            "prompt_tokens_details": {"cached_tokens": cached} if self.reports_cached else None,
        }
        self._event(writer, {"choices": [], "usage": usage})
        self._chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    async def _tokens(self, writer: asyncio.StreamWriter, tokens: int, *, chat: bool) -> None:
        await asyncio.sleep(self.prefill_s)
        if chat:
            self._event(writer, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for number in range(tokens):
            if number:
                await asyncio.sleep(self.token_s)
            delta = {"delta": {"content": "word "}} if chat else {"text": "word "}
            self._event(writer, {"choices": [delta], "usage": None})
            await writer.drain()
        self._event(writer, {"choices": [{"delta": {}, "finish_reason": "length"}], "usage": None})

    def _cached(self, words: list[str]) -> int:
        """Longest head seen before, in pages of ten words."""
        heads = [" ".join(words[:end]) for end in range(10, len(words), 10)]
        known = [n for n, head in enumerate(heads, 1) if head in self.seen]
        if self.caches:
            self.seen.update(heads)
        return max(known, default=0) * 10

    def _event(self, writer: asyncio.StreamWriter, document: dict[str, Any]) -> None:
        self._chunk(writer, b"data: " + json.dumps(document).encode() + b"\n\n")

    def _chunk(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
