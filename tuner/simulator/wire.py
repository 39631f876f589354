"""sglang's protocol as pure functions: what a request asks for, why it is refused, what its answer looks like.

Shapes and messages are those of sglang 0.5.23, from captures. Knows no sockets, no clock and no engine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Endpoint = Literal["completions", "chat"]
DEFAULT_COMPLETION_TOKENS = 16
NATURAL_ANSWER_TOKENS = 512
"""A chat without `max_tokens` ends by itself after so many: the simulator has no end-of-sequence token."""

_SOURCE = "/usr/local/lib/python3.11/site-packages/sglang/srt/entrypoints/http_server.py"
_HANDLERS = {
    "/v1/completions": ("openai_v1_completions", 1860),
    "/v1/chat/completions": ("openai_v1_chat_completions", 1874),
}
QUEUE_FULL = "The request queue is full."


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind

    @property
    def body(self) -> dict[str, Any]:
        return {"object": "error", "message": self.message, "type": self.kind, "param": None, "code": self.status}


@dataclass(frozen=True, slots=True)
class Asked:
    """A generation request as read from its body. `prompts` are texts, id lists, or one list of messages (chat)."""

    model: str
    prompts: tuple[Any, ...]
    max_tokens: int | None
    min_tokens: int
    count: int
    stream: bool
    include_usage: bool
    continuous_usage: bool


def invalid(path: str, error: Mapping[str, Any]) -> Refusal:
    """A validation error as FastAPI's handler in sglang words it."""
    text = "{" + ", ".join(f"'{k}': {v}" if k == "ctx" else f"{k!r}: {v!r}" for k, v in error.items()) + "}"
    name, line = _HANDLERS.get(path, ("generate_request", 940))
    where = f'File "{_SOURCE}", line {line}, in {name}\n    POST {path} [{text}]'
    return Refusal(400, f"1 validation error:\n  {text}\n\n  {where}", "Bad Request")


def read_json(path: str, content_type: str, body: bytes) -> dict[str, Any]:
    """The body as a JSON object."""
    if not content_type.lower().startswith("application/json"):
        problem = {
            "loc": ["header", "content-type"],
            "msg": "Unsupported Media Type: Only 'application/json' is allowed",
            "type": "value_error",
        }
        raise Refusal(400, f"1 validation error:\n  {problem} [{problem}]", "Bad Request")
    try:
        doc = json.loads(body)
    except ValueError as exc:
        place = getattr(exc, "pos", 0)
        reason = f"{{'error': {getattr(exc, 'msg', str(exc))!r}}}"
        error: dict[str, Any] = {
            "type": "json_invalid",
            "loc": ("body", place),
            "msg": "JSON decode error",
            "input": {},
            "ctx": reason,
        }
        raise invalid(path, error) from exc
    if not isinstance(doc, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise invalid(path, {"type": "model_attributes_type", "loc": ("body",), "msg": message, "input": doc})
    return doc


def read_request(path: str, doc: Mapping[str, Any], endpoint: Endpoint) -> Asked:
    """What a completion or chat request asks for.

    Raises:
        Refusal: the body is not a valid request.
    """
    field = "messages" if endpoint == "chat" else "prompt"
    if field not in doc:
        raise invalid(path, {"type": "missing", "loc": ("body", field), "msg": "Field required", "input": dict(doc)})
    prompts = _messages(doc["messages"]) if endpoint == "chat" else _prompts(path, doc["prompt"])
    name = "max_completion_tokens" if doc.get("max_completion_tokens") is not None else "max_tokens"
    max_tokens = _integer(path, doc, name)
    if max_tokens is not None and max_tokens <= 0:
        message = f"{name} must be positive"
        raise invalid(
            path,
            {
                "type": "value_error",
                "loc": ("body", name),
                "msg": f"Value error, {message}",
                "input": max_tokens,
                "ctx": f"{{'error': ValueError({message!r})}}",
            },
        )
    _check_sampling(doc)
    options = doc.get("stream_options") or {}
    asked = Asked(
        model=str(doc.get("model") or "default"),
        prompts=prompts,
        max_tokens=DEFAULT_COMPLETION_TOKENS if max_tokens is None and endpoint == "completions" else max_tokens,
        min_tokens=_integer(path, doc, "min_tokens") or 0,
        count=max(1, _integer(path, doc, "n") or 1),
        stream=bool(doc.get("stream")),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("continuous_usage_stats")),
    )
    most = asked.max_tokens
    if most is not None and not 0 <= asked.min_tokens <= most:
        raise Refusal(400, f"min_new_tokens must be in [0, max_new_tokens({most})], got {asked.min_tokens}.")
    return asked


def _messages(messages: Any) -> tuple[Any, ...]:
    if not messages or not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise Refusal(400, "Messages cannot be empty.")
    return (messages,)


def _prompts(path: str, prompt: Any) -> tuple[Any, ...]:
    """One text, one list of ids, a list of texts, or a list of id lists."""
    if prompt in ("", []):
        raise Refusal(400, "Prompt cannot be empty")
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt, list):
        if all(_is_integer(item) for item in prompt):
            return (prompt,)
        if all(isinstance(item, str) and item for item in prompt):
            return tuple(prompt)
        if all(isinstance(item, list) and item and all(map(_is_integer, item)) for item in prompt):
            return tuple(prompt)
    message = "Input should be a valid string"
    raise invalid(path, {"type": "string_type", "loc": ("body", "prompt", "str"), "msg": message, "input": prompt})


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(path: str, doc: Mapping[str, Any], name: str) -> int | None:
    value = doc.get(name)
    if value is None or _is_integer(value):
        return value
    if isinstance(value, str) and value.strip().lstrip("+-").isdigit():
        return int(value)
    message = "Input should be a valid integer"
    kind = "int_type"
    if isinstance(value, str):
        kind, message = "int_parsing", f"{message}, unable to parse string as an integer"
    raise invalid(path, {"type": kind, "loc": ("body", name), "msg": message, "input": value})


def _check_sampling(doc: Mapping[str, Any]) -> None:
    temperature, top_p = doc.get("temperature"), doc.get("top_p")
    if isinstance(temperature, (int, float)) and (temperature < 0 or not math.isfinite(temperature)):
        raise Refusal(400, f"temperature must be a non-negative finite number, got {float(temperature)}.")
    if isinstance(top_p, (int, float)) and not 0 < top_p <= 1:
        raise Refusal(400, f"top_p must be in (0, 1], got {float(top_p)}.")


def check_length(input_tokens: int, max_tokens: int | None, context_tokens: int, pool_tokens: int) -> None:
    """Refuse what the model's context or the engine's KV pool cannot hold."""
    if input_tokens >= context_tokens:
        raise Refusal(
            400,
            f"The input ({input_tokens} tokens) is longer than the model's context length ({context_tokens} tokens).",
        )
    if max_tokens is not None and input_tokens + max_tokens > context_tokens:
        raise Refusal(
            400,
            f"Requested token count exceeds the model's maximum context length of {context_tokens} tokens. "
            f"You requested a total of {input_tokens + max_tokens} tokens: {input_tokens} tokens from the input "
            f"messages and {max_tokens} tokens for the completion. Please reduce the number of tokens in the input "
            "messages or the completion to fit within the limit.",
        )
    if input_tokens >= pool_tokens:
        raise Refusal(
            400, f"Input length ({input_tokens} tokens) exceeds the maximum allowed length ({pool_tokens - 1} tokens)."
        )


# --- answers


def usage(prompt: int, completion: int, cached: int | None, *, details: bool = True) -> dict[str, Any]:
    """Token counts; `cached` None without --enable-cache-report. A completions stream ends without `details`."""
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": None if cached is None else {"cached_tokens": cached},
        "reasoning_tokens": 0,
    }
    if details:
        counts["completion_tokens_details"] = None
    return counts


@dataclass(frozen=True, slots=True)
class Identity:
    """What every chunk of one answer carries."""

    id: str
    created: int
    model: str
    endpoint: Endpoint

    def head(self, *, chunk: bool) -> dict[str, Any]:
        if self.endpoint == "chat":
            name = "chat.completion.chunk" if chunk else "chat.completion"
        else:
            name = "text_completion"
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}


def answer(who: Identity, choices: list[tuple[str, str]], counts: Mapping[str, Any]) -> dict[str, Any]:
    """A whole answer; `choices` are (text, finish reason)."""
    listed = []
    for index, (text, reason) in enumerate(choices):
        content: dict[str, Any] = {"text": text}
        if who.endpoint == "chat":
            content = {"message": {"role": "assistant", "content": text, "reasoning_content": None}}
        listed.append({"index": index, **content, "logprobs": None, "finish_reason": reason, "matched_stop": None})
    version = {"version": "default", "start": 0, "end": counts["completion_tokens"]}
    metadata = {"weight_version": "default", "weight_versions": [version]}
    return {**who.head(chunk=False), "choices": listed, "usage": counts, "metadata": metadata}


def chunk(
    who: Identity, index: int, content: Mapping[str, Any], reason: str | None, counts: Mapping[str, Any] | None
) -> dict[str, Any]:
    """One event of a stream. Completions chunks always have a usage key, chat chunks only when it is asked for."""
    choice = {"index": index, **content, "logprobs": None, "finish_reason": reason, "matched_stop": None}
    event = {**who.head(chunk=True), "choices": [choice]}
    if who.endpoint == "completions" or counts is not None:
        event["usage"] = counts
    return event


def text_content(who: Identity, text: str) -> dict[str, Any]:
    """Generated text as this endpoint carries it."""
    if who.endpoint == "chat":
        return {"delta": {"reasoning_content": None, "content": text}}
    return {"text": text}


ROLE_CONTENT: dict[str, Any] = {"delta": {"reasoning_content": None, "role": "assistant", "content": ""}}
END_CONTENT: dict[str, Any] = {"delta": {"reasoning_content": None}}


def usage_chunk(who: Identity, counts: Mapping[str, Any]) -> dict[str, Any]:
    """The event before [DONE]: no choices, token counts."""
    return {**who.head(chunk=True), "choices": [], "usage": counts}


def sse(doc: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + dumps(doc) + b"\n\n"


SSE_DONE = b"data: [DONE]\n\n"


def sse_error(refusal: Refusal) -> bytes:
    """An error inside a stream whose status is 200 already."""
    return b"data: " + json.dumps({"error": refusal.body}).encode() + b"\n\n"


def dumps(doc: Any) -> bytes:
    """Compact UTF-8 JSON, as sglang sends it."""
    return json.dumps(doc, separators=(",", ":"), ensure_ascii=False).encode()
