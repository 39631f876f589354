"""Answers generation requests: /v1/completions, /v1/chat/completions and /generate over one exchange each.

Turns bodies into engine requests and the engine's progress into sglang's chunks. Knows no routes and no process.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.simulator import wire
from tuner.simulator.driver import Driver, Update
from tuner.simulator.events import SimRequest
from tuner.simulator.http import Exchange, Request
from tuner.simulator.tokenizer import Tokenizer, answer_ids, answer_text, block_hashes
from tuner.simulator.wire import Asked, Endpoint, Identity, Refusal

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"
DEFAULT_GENERATE_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to generate: choice `index` of a request, for its prompt number `prompt`."""

    index: int
    prompt: int
    request: SimRequest
    seed: int
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one answer ended; `refusal` when it never began."""

    generated: int = 0
    cached: int = 0
    reason: str = "length"
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a request: the model's context, the KV pool, and whether cached tokens are reported."""

    context_tokens: int
    pool_tokens: int
    cache_report: bool


class Generation:
    """Handlers of the generation endpoints. `on_bad_token` is called for an id outside the vocabulary."""

    def __init__(self, driver: Driver, tokenizer: Tokenizer, limits: Limits, on_bad_token: Callable[[], None]) -> None:
        self._driver = driver
        self._tokenizer = tokenizer
        self._limits = limits
        self._on_bad_token = on_bad_token

    # --- OpenAI

    async def openai(self, request: Request, exchange: Exchange, endpoint: Endpoint) -> None:
        """One completion or chat request.

        Raises:
            Refusal: the request is not valid; nothing was sent.
        """
        doc = wire.read_json(request.path, request.headers.get("content-type", JSON), request.body)
        asked = wire.read_request(request.path, doc, endpoint)
        jobs = self._jobs(asked, endpoint)
        who = Identity(uuid.uuid4().hex, int(time.time()), asked.model, endpoint)
        if asked.stream:
            await self._stream(who, asked, jobs, exchange)
        else:
            await self._whole(who, jobs, exchange)

    def _jobs(self, asked: Asked, endpoint: Endpoint) -> list[Job]:
        jobs: list[Job] = []
        for number, prompt in enumerate(asked.prompts):
            ids = self._ids(prompt, endpoint)
            wire.check_length(len(ids), asked.max_tokens, self._limits.context_tokens, self._limits.pool_tokens)
            blocks = block_hashes(ids)
            for _ in range(asked.count):
                jobs.append(self._job(len(jobs), number, len(ids), blocks, asked.max_tokens))
        return jobs

    def _ids(self, prompt: Any, endpoint: Endpoint) -> list[int]:
        if endpoint == "chat":
            return self._tokenizer.encode_chat(prompt)
        if isinstance(prompt, str):
            return self._tokenizer.encode(prompt)
        if not all(0 <= token < self._tokenizer.vocab for token in prompt):
            self._on_bad_token()
        return list(prompt)

    def _job(self, index: int, prompt: int, input_tokens: int, blocks: tuple[Any, ...], max_tokens: int | None) -> Job:
        room = min(self._limits.context_tokens, self._limits.pool_tokens) - input_tokens
        wanted = min(wire.NATURAL_ANSWER_TOKENS, room) if max_tokens is None else max_tokens
        name = uuid.uuid4()
        request = SimRequest(name.hex, input_tokens, wanted, blocks=blocks)
        return Job(index, prompt, request, name.int % 997, "stop" if max_tokens is None else "length")

    async def _whole(self, who: Identity, jobs: list[Job], exchange: Exchange) -> None:
        outcomes = await _all([self._finish(job) for job in jobs])
        refused = next((outcome.refusal for outcome in outcomes if outcome.refusal), None)
        if refused:
            raise Refusal(refused.status, refused.message, str(refused.status))
        choices = [
            (answer_text(job.seed, 0, outcome.generated), outcome.reason)
            for job, outcome in zip(jobs, outcomes, strict=True)
        ]
        exchange.send(200, wire.dumps(wire.answer(who, choices, self._usage(jobs, outcomes))), JSON)

    async def _finish(self, job: Job) -> Outcome:
        outcome = Outcome()
        async for update in self._driver.generate(job.request, streaming=False):
            outcome = _outcome(job, update)
        return outcome

    async def _stream(self, who: Identity, asked: Asked, jobs: list[Job], exchange: Exchange) -> None:
        outcomes = await _all([self._stream_one(who, asked, job, exchange) for job in jobs])
        if asked.include_usage:
            counts = self._usage(jobs, outcomes, details=who.endpoint == "chat")
            exchange.write(wire.sse(wire.usage_chunk(who, counts)))
        exchange.write(wire.SSE_DONE)
        exchange.end()

    async def _stream_one(self, who: Identity, asked: Asked, job: Job, exchange: Exchange) -> Outcome:
        sent = 0
        outcome = Outcome()
        async for update in self._driver.generate(job.request, streaming=True):
            outcome = _outcome(job, update)
            if not exchange.status:
                exchange.start(EVENTS)
            if outcome.refusal:
                exchange.write(wire.sse_error(outcome.refusal))
                continue
            if who.endpoint == "chat" and not sent:
                exchange.write(wire.sse(wire.chunk(who, job.index, wire.ROLE_CONTENT, None, None)))
            text = answer_text(job.seed, sent, update.generated - sent)
            sent = update.generated
            counts = self._running_usage(asked, job, update)
            reason = outcome.reason if update.kind != "tokens" else None
            for event in _events(who, job.index, text, reason, counts):
                exchange.write(wire.sse(event))
        return outcome

    def _running_usage(self, asked: Asked, job: Job, update: Update) -> dict[str, Any] | None:
        if not asked.continuous_usage:
            return None
        return wire.usage(job.request.input_tokens, update.generated, None)

    def _usage(self, jobs: list[Job], outcomes: list[Outcome], *, details: bool = True) -> dict[str, Any]:
        """Prompts count once however many answers they get; a refused request counts nothing."""
        served = [(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True) if not outcome.refusal]
        prompts = {job.prompt: job.request.input_tokens for job, _ in served}
        cached = sum(outcome.cached for _, outcome in served) if self._limits.cache_report else None
        return wire.usage(
            sum(prompts.values()), sum(outcome.generated for _, outcome in served), cached, details=details
        )

    # --- sglang's own

    async def native(self, request: Request, exchange: Exchange) -> None:
        """POST /generate, for one prompt."""
        try:
            doc = wire.read_json(request.path, request.headers.get("content-type", JSON), request.body)
            job = self._native_job(doc)
        except Refusal as refusal:
            exchange.send(refusal.status, wire.dumps({"error": {"message": refusal.message}}), JSON)
            return
        begun_s = time.time()
        if not doc.get("stream"):
            outcome = await self._finish(job)
            if outcome.refusal:
                exchange.send(outcome.refusal.status, wire.dumps({"error": {"message": wire.QUEUE_FULL}}), JSON)
                return
            exchange.send(200, wire.dumps(self._native_answer(job, outcome, begun_s, final=True)), JSON)
            return
        async for update in self._driver.generate(job.request, streaming=True):
            if not exchange.status:
                exchange.start(EVENTS)
            outcome = _outcome(job, update)
            if outcome.refusal:
                exchange.write(wire.sse_error(outcome.refusal))
                continue
            exchange.write(wire.sse(self._native_answer(job, outcome, begun_s, final=update.kind != "tokens")))
        exchange.write(wire.SSE_DONE)
        exchange.end()

    def _native_job(self, doc: Mapping[str, Any]) -> Job:
        prompt = doc.get("input_ids") if doc.get("input_ids") is not None else doc.get("text")
        if not prompt or not isinstance(prompt, str | list):
            raise Refusal(400, "Either text, input_ids or input_embeds should be provided.")
        sampling = doc.get("sampling_params") or {}
        ids = self._ids(prompt, "completions")
        wanted = int(sampling.get("max_new_tokens") or DEFAULT_GENERATE_TOKENS)
        wire.check_length(len(ids), wanted, self._limits.context_tokens, self._limits.pool_tokens)
        return self._job(0, 0, len(ids), block_hashes(ids), wanted)

    def _native_answer(self, job: Job, outcome: Outcome, begun_s: float, *, final: bool) -> dict[str, Any]:
        reason = {"type": outcome.reason, "length": outcome.generated} if final else None
        meta: dict[str, Any] = {
            "id": job.request.request_id,
            "finish_reason": reason,
            "prompt_tokens": job.request.input_tokens,
            "weight_version": "default",
            "reasoning_tokens": 0,
            "completion_tokens": outcome.generated,
            "cached_tokens": outcome.cached,
            "cached_tokens_details": {"device": outcome.cached, "host": 0},
            "dp_rank": None,
        }
        if final:
            meta["e2e_latency"] = time.time() - begun_s
        return {
            "text": answer_text(job.seed, 0, outcome.generated),
            "output_ids": answer_ids(job.seed, outcome.generated, self._tokenizer.vocab),
            "meta_info": meta,
        }


async def _all(answers: list[Any]) -> list[Outcome]:
    """Several answers at once, one without the detour over tasks."""
    return [await answers[0]] if len(answers) == 1 else list(await asyncio.gather(*answers))


def _outcome(job: Job, update: Update) -> Outcome:
    if update.kind == "rejected":
        return Outcome(refusal=Refusal(503, wire.QUEUE_FULL, "SERVICE_UNAVAILABLE"))
    return Outcome(update.generated, update.cached, "abort" if update.kind == "aborted" else job.reason)


def _events(
    who: Identity, index: int, text: str, reason: str | None, counts: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """A completions stream ends with its last text, a chat stream with a chunk of its own."""
    if who.endpoint == "completions":
        return [wire.chunk(who, index, wire.text_content(who, text), reason, counts)]
    events = [wire.chunk(who, index, wire.text_content(who, text), None, counts)] if text else []
    return events if reason is None else [*events, wire.chunk(who, index, wire.END_CONTENT, reason, counts)]
