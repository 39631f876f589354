"""The simulated engine as a process on the network: routes, health, draining, dying.

Speaks sglang's protocol over one `SimulatedEngine`. Knows no command line; `serve` starts it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from tuner.simulator import introspection, startup_log, wire
from tuner.simulator.assemble import SimulatedEngine
from tuner.simulator.driver import Driver
from tuner.simulator.generation import JSON, Generation, Limits
from tuner.simulator.http import Exchange, HttpServer, Request
from tuner.simulator.tokenizer import Tokenizer

HEALTH_ANSWER_S = 1.0
"""A healthy /health takes about a second: it generates a token and sleeps."""
HEALTH_TIMEOUT_S = 20.0
DRAIN_POLL_S = 0.05
TEXT = "text/plain; version=0.0.4; charset=utf-8"

FLUSH_NOTE = (
    "Please check backend logs for more details. "
    "(When there are running or waiting requests, the operation will not be performed.)\n"
)

Log = Callable[[str], None]
Route = Callable[[Request, Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen and what to say about it."""

    host: str
    port: int
    command: str
    version: str


class Server:
    """One engine behind HTTP. `die` ends the process the way a crashed sglang ends."""

    def __init__(self, sim: SimulatedEngine, address: Address, log: Log, die: Callable[[], None]) -> None:
        self.status: Literal["starting", "ready", "stopping"] = "starting"
        self.port = address.port
        self._sim = sim
        self._address = address
        self._log = log
        self._die = die
        self._served_name = str(sim.flags.get("served-model-name") or sim.flags.get("model-path", "default"))
        self._tokenizer = Tokenizer(sim.plan.arch.vocab)
        self._driver = Driver(
            sim.engine, sim.settings.stream_interval, self._crash, lambda n: self._log(startup_log.retracted(n))
        )
        limits = Limits(sim.context_tokens, sim.engine.kv_capacity_tokens, bool(sim.flags.get("enable-cache-report")))
        self._generation = Generation(self._driver, self._tokenizer, limits, lambda: self._crash("bad_token"))
        self._http = HttpServer(self._handle)
        self._open = 0
        self._stop = asyncio.Event()
        self._created = int(time.time())
        self._rate = (0.0, 0, 0.0)
        self._routes = self._make_routes()

    # --- life cycle

    async def run(self, warm_up_s: float) -> int:
        """Listen, warm up, serve until told to stop, drain; returns the exit code."""
        try:
            self.port = await self._http.listen(self._address.host, self._address.port)
        except OSError as exc:
            self._log(
                f"[{{now}}] ERROR:    [Errno {exc.errno}] error while attempting to bind on address: {exc.strerror}"
            )
            return 1
        shown = f"http://{self._address.host}:{self.port} (Press CTRL+C to quit)"
        self._log(f"[{{now}}] INFO:     Uvicorn running on {shown}")
        await self._warm_up(warm_up_s)
        await self._stop.wait()
        self.status = "stopping"
        await self._drain()
        return 0

    def stop(self) -> None:
        """What SIGTERM does."""
        self._stop.set()

    async def _warm_up(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            self.status = "ready"
            self._log(startup_log.READY)

    async def _drain(self) -> None:
        """As sglang does: health says 503, running requests finish, however long they take."""
        self._log("[{now}] INFO:     Shutting down")
        while self._driver.in_flight or self._open:  # noqa: ASYNC110 - two counters, looked at rarely
            await asyncio.sleep(DRAIN_POLL_S)
        self._driver.close()
        self._http.close()

    def _crash(self, kind: str) -> None:
        for line in startup_log.died_serving(kind, self._sim.facts):
            self._log(line)
        self._die()

    # --- routing

    def _make_routes(self) -> dict[str, dict[str, Route]]:
        get: dict[str, Route] = {
            "/health": self._health,
            "/health_generate": self._health,
            "/ready": self._ready,
            "/ping": self._ping,
            "/v1/models": self._models,
            "/model_info": self._model_info,
            "/get_model_info": self._model_info,
            "/server_info": self._server_info,
            "/get_server_info": self._server_info,
            "/flush_cache": self._flush_cache,
        }
        if self._sim.flags.get("enable-metrics"):
            get["/metrics"] = self._metrics
        post: dict[str, Route] = {
            "/v1/completions": self._completions,
            "/v1/chat/completions": self._chat,
            "/generate": self._generation.native,
            "/abort_request": self._abort,
            "/flush_cache": self._flush_cache,
            "/v1/tokenize": self._tokenize,
            "/tokenize": self._tokenize,
        }
        routes: dict[str, dict[str, Route]] = {path: {"GET": route} for path, route in get.items()}
        for path, route in post.items():
            routes.setdefault(path, {})["POST"] = route
        return routes

    async def _handle(self, request: Request, exchange: Exchange) -> None:
        self._open += 1
        try:
            await self._dispatch(request, exchange)
        finally:
            self._open -= 1
        phrase = HTTPStatus(exchange.status).phrase
        line = f'{request.client} - "{request.method} {request.path} HTTP/1.1" {exchange.status} {phrase}'
        self._log("[{now}] INFO:     " + line.replace("{", "{{").replace("}", "}}"))

    async def _dispatch(self, request: Request, exchange: Exchange) -> None:
        methods = self._routes.get(request.path)
        if methods is None:
            exchange.send(404, b'{"detail":"Not Found"}', JSON)
        elif request.method not in methods:
            exchange.send(405, b'{"detail":"Method Not Allowed"}', JSON, {"allow": ", ".join(methods)})
        else:
            try:
                await methods[request.method](request, exchange)
            except wire.Refusal as refusal:
                exchange.send(refusal.status, wire.dumps(refusal.body), JSON)

    # --- generation

    async def _completions(self, request: Request, exchange: Exchange) -> None:
        await self._generation.openai(request, exchange, "completions")

    async def _chat(self, request: Request, exchange: Exchange) -> None:
        await self._generation.openai(request, exchange, "chat")

    async def _abort(self, request: Request, exchange: Exchange) -> None:
        doc = wire.read_json(request.path, JSON, request.body or b"{}")
        if doc.get("abort_all"):
            self._driver.abort_all()
        else:
            self._driver.abort(str(doc.get("rid", "")))
        exchange.send(200)

    async def _tokenize(self, request: Request, exchange: Exchange) -> None:
        doc = wire.read_json(request.path, request.headers.get("content-type", JSON), request.body)
        prompt, messages = doc.get("prompt"), doc.get("messages")
        if isinstance(prompt, list):
            tokens: object = [self._tokenizer.encode(str(text)) for text in prompt]
            count: object = [len(self._tokenizer.encode(str(text))) for text in prompt]
        else:
            ids = self._tokenizer.encode_chat(messages) if messages else self._tokenizer.encode(str(prompt or ""))
            tokens, count = ids, len(ids)
        answer = {"tokens": tokens, "count": count, "max_model_len": self._sim.context_tokens}
        exchange.send(200, wire.dumps(answer), JSON)

    # --- state

    async def _health(self, _: Request, exchange: Exchange) -> None:
        if self.status == "ready":
            await asyncio.sleep(HEALTH_TIMEOUT_S if self._sim.engine.hung else HEALTH_ANSWER_S)
        healthy = self.status == "ready" and not self._sim.engine.hung
        exchange.send(200 if healthy else 503)

    async def _ready(self, _: Request, exchange: Exchange) -> None:
        exchange.send(200 if self.status == "ready" else 503)

    async def _ping(self, _: Request, exchange: Exchange) -> None:
        exchange.send(200)

    async def _models(self, _: Request, exchange: Exchange) -> None:
        exchange.send(200, wire.dumps(introspection.models(self._sim, self._served_name, self._created)), JSON)

    async def _model_info(self, _: Request, exchange: Exchange) -> None:
        exchange.send(200, wire.dumps(introspection.model_info(self._sim, self._served_name)), JSON)

    async def _server_info(self, _: Request, exchange: Exchange) -> None:
        address = self._address
        info = introspection.server_info(self._sim, address.command, address.version, self._throughput())
        exchange.send(200, wire.dumps(info), JSON)

    async def _metrics(self, _: Request, exchange: Exchange) -> None:
        driver = self._driver
        text = introspection.metrics(
            self._sim, self._served_name, self._throughput(), driver.first_token, driver.end_to_end
        )
        exchange.send(200, text.encode(), TEXT)

    async def _flush_cache(self, _: Request, exchange: Exchange) -> None:
        if self._driver.flush_cache():
            exchange.send(200, f"Cache flushed.\n{FLUSH_NOTE}".encode())
        else:
            exchange.send(400, f"Flush cache failed.\n{FLUSH_NOTE}".encode())

    def _throughput(self) -> float:
        """Tokens generated per second since about the last time it was asked for, at least a second ago."""
        then_s, before, rate = self._rate
        now_s, generated = self._driver.now_s(), self._sim.engine.counters().generated_tokens
        if now_s - then_s >= 1:
            rate = (generated - before) / (now_s - then_s)
            self._rate = (now_s, generated, rate)
        return rate
