"""The engine's side channels: health, settings, counters, cache, tokenizer. Not the load itself.

Every call has a timeout and ignores proxy settings: the engine is on loopback. A call that cannot be answered raises
`EngineUnreachable`; what that means is the caller's to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

TIMEOUT_S = 20.0
HEALTH_S = 5.0
TOKENIZE_S = 120.0
"""A first batch of thousands of strings is slow on a busy host."""

_METRIC = re.compile(r"^(sglang:[A-Za-z0-9_]+)(?:\{[^}]*\})? (\S+)")

EFFECTIVE_KEYS = (
    "version", "model_path", "served_model_name", "tp_size", "dp_size", "attn_dp_size", "ep_size", "dtype",
    "quantization", "kv_cache_dtype", "mem_fraction_static", "max_running_requests", "max_queued_requests",
    "max_total_num_tokens", "context_length", "max_req_input_len", "chunked_prefill_size", "max_prefill_tokens",
    "schedule_policy", "schedule_conservativeness", "page_size", "disable_radix_cache", "disable_cuda_graph",
    "enable_mixed_chunk", "enable_dp_attention", "attention_backend", "prefill_attention_backend",
    "decode_attention_backend", "speculative_algorithm", "speculative_num_steps", "speculative_eagle_topk",
    "speculative_num_draft_tokens", "enable_cache_report", "reasoning_parser", "stream_interval",
)  # fmt: skip
"""What is kept of /server_info: settings that change a measurement; never keys or tokens."""


class EngineUnreachable(Exception):  # noqa: N818 - says what is the case
    """A side channel did not answer, or answered nonsense."""


@contextmanager
def _foreign_errors(what: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise EngineUnreachable(f"{what}: answered with {error.response.status_code}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EngineUnreachable(f"{what}: {type(error).__name__} {error}".rstrip()) from error
    except (ValueError, LookupError, TypeError) as error:
        raise EngineUnreachable(f"{what}: not the expected answer ({error})") from error


class EngineControl:
    """One engine's side channels; use as an async context manager."""

    def __init__(self, base_url: str, timeout_s: float = TIMEOUT_S, api_key: str = "") -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout_s, trust_env=False, headers=headers)

    async def __aenter__(self) -> EngineControl:  # noqa: PYI034 - Self came with Python 3.11
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def healthy(self, timeout_s: float = HEALTH_S) -> bool:
        """Whether it answers; an engine that has no such path does so too."""
        return await self._answers("/health", timeout_s, (200, 404))

    async def generates(self, timeout_s: float = TIMEOUT_S) -> bool:
        """Whether the engine produces a token: stricter than `healthy`."""
        return await self._answers("/health_generate", timeout_s, (200,))

    async def _answers(self, path: str, timeout_s: float, well: tuple[int, ...]) -> bool:
        try:
            return (await self._http.get(path, timeout=timeout_s)).status_code in well
        except httpx.HTTPError:
            return False

    async def server_info(self) -> dict[str, Any]:
        with _foreign_errors("/server_info"):
            answer = await self._http.get("/server_info")
            if answer.status_code == 404:  # the name before sglang 0.5.10
                answer = await self._http.get("/get_server_info")
            return dict(answer.raise_for_status().json())

    async def model_name(self) -> str:
        with _foreign_errors("/v1/models"):
            return str((await self._http.get("/v1/models")).raise_for_status().json()["data"][0]["id"])

    async def metrics(self) -> dict[str, float]:
        with _foreign_errors("/metrics"):
            return parse_metrics((await self._http.get("/metrics")).raise_for_status().text)

    async def flush_cache(self) -> bool:
        """Empty the prefix cache. False: refused (requests are running)."""
        with _foreign_errors("/flush_cache"):
            answer = await self._http.post("/flush_cache")
            if answer.status_code == 404:
                answer.raise_for_status()
            return answer.status_code == 200

    async def count_tokens(self, texts: Sequence[str], model: str = "default") -> list[int]:
        """Tokens of each text, without the tokenizer's special ones."""
        body = {"model": model, "prompt": list(texts), "add_special_tokens": False}
        with _foreign_errors("/v1/tokenize"):
            answer = await self._http.post("/v1/tokenize", json=body, timeout=TOKENIZE_S)
            counts = answer.raise_for_status().json()["count"]
            counts = [int(n) for n in (counts if isinstance(counts, list) else [counts])]
            if len(counts) != len(texts):
                raise ValueError(f"{len(counts)} counts for {len(texts)} texts")
            return counts


def parse_metrics(text: str) -> dict[str, float]:
    """Prometheus text -> sum over all ranks of every `sglang:` series. Not-a-number samples are left out."""
    totals: dict[str, float] = {}
    for line in text.splitlines():
        if (match := _METRIC.match(line)) and (value := float(match[2])) == value:
            totals[match[1]] = totals.get(match[1], 0.0) + value
    return totals


def effective_settings(info: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of /server_info worth keeping with a result."""
    return {key: info[key] for key in EFFECTIVE_KEYS if info.get(key) is not None}


def total_max_running(info: Mapping[str, Any]) -> int | None:
    """Requests the engine runs at once, over all its schedulers; None: it does not say."""
    states = [s for s in info.get("internal_states") or () if isinstance(s, dict)]
    caps = [
        s["effective_max_running_requests_per_dp"] for s in states if s.get("effective_max_running_requests_per_dp")
    ]
    if caps:
        # One state per scheduler; an engine that shows only one speaks for all.
        return int(sum(caps)) if len(caps) >= schedulers(info) else int(caps[0]) * schedulers(info)
    cap = info.get("max_running_requests")
    # The configured value is per full replica: attention DP divides it again.
    return int(cap) * _at_least_one(info, "dp_size") if cap else None


def schedulers(info: Mapping[str, Any]) -> int:
    """Independent schedulers, each with a queue and a prefix cache of its own (one of the two factors is 1)."""
    return _at_least_one(info, "dp_size") * _at_least_one(info, "attn_dp_size")


def _at_least_one(info: Mapping[str, Any], key: str) -> int:
    return max(1, int(info.get(key) or 1))
