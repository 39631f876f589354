"""A small HTTP/1.1 server on asyncio and httptools: one handler coroutine per request, cancelled with its client.

Knows no routes. Answers look like uvicorn's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import httptools

MAX_BODY_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class Request:
    """One request with its whole body."""

    method: str = ""
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    keep_alive: bool = True
    client: str = "-"


class Exchange:
    """The answer's side of one request. Exactly one of `send` and `start` ... `end` is used."""

    def __init__(self, transport: asyncio.Transport, request: Request) -> None:
        self.status = 0
        self._transport = transport
        self._request = request

    def send(
        self, status: int, body: bytes = b"", content_type: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """A whole answer."""
        self.status = status
        fields = dict(headers or {})
        fields["content-length"] = str(len(body))
        if content_type:
            fields["content-type"] = content_type
        self._transport.write(self._head(status, fields) + body)

    def start(self, content_type: str) -> None:
        """Begin a chunked answer of status 200."""
        self.status = 200
        self._transport.write(self._head(200, {"content-type": content_type, "Transfer-Encoding": "chunked"}))

    def write(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self._transport.write(b"0\r\n\r\n")

    def _head(self, status: int, fields: Mapping[str, str]) -> bytes:
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"date: {formatdate(usegmt=True)}",
            "server: uvicorn",
        ]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        lines.append("vary: Origin")
        if not self._request.keep_alive:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


Handler = Callable[[Request, Exchange], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One client. Requests are answered in order; when the client is gone, so is the handler."""

    def __init__(self, handler: Handler, connections: set[Connection]) -> None:
        self._handler = handler
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._current = Request()
        self._body: list[bytes] = []
        self._url = b""
        self._size = 0
        self._waiting: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._client = "-"

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        peer = transport.get_extra_info("peername")
        self._client = f"{peer[0]}:{peer[1]}" if peer else "-"
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._connections.discard(self)
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(400, b"Invalid HTTP request received.")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # --- httptools

    def on_message_begin(self) -> None:
        self._current, self._body, self._url, self._size = Request(client=self._client), [], b"", 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._current.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._current.headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > MAX_BODY_BYTES:
            self._refuse(413, b"Request body too large.")
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        request = self._current
        request.method = self._parser.get_method().decode()
        request.path = unquote(httptools.parse_url(self._url).path.decode("latin-1"))
        request.body = b"".join(self._body)
        request.keep_alive = self._parser.should_keep_alive()
        self._waiting.append(request)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve())

    # --- serving

    async def _serve(self) -> None:
        try:
            while self._waiting and self._transport is not None:
                request = self._waiting.popleft()
                await self._handler(request, Exchange(self._transport, request))
                if not request.keep_alive:
                    self._transport.close()
                    return
        finally:
            self._task = None

    def _refuse(self, status: int, text: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            Exchange(self._transport, Request(keep_alive=False)).send(status, text, "text/plain; charset=utf-8")
            self._transport.close()


class HttpServer:
    """A listening socket and its connections."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._connections: set[Connection] = set()
        self._server: Any = None

    async def listen(self, host: str, port: int) -> int:
        """Listen and return the port (chosen by the system for 0). Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self._handler, self._connections), host, port)
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close()
