"""What the engine says of itself: /server_info, /model_info, /v1/models and /metrics, as pure functions.

Field names are sglang 0.5.23's; only fields the simulator really knows are there. `simulated` marks them all.
"""

from __future__ import annotations

from typing import Any

from tuner.model.catalogue import GIB
from tuner.simulator.assemble import SimulatedEngine
from tuner.simulator.driver import Latencies
from tuner.simulator.engine import Counters

_PASSED_AS_GIVEN = ("attention-backend", "dsa-prefill-backend", "dsa-decode-backend", "quantization", "random-seed")
_KV_DTYPES = {"bf16": "bfloat16", "fp8": "fp8_e4m3"}
REQUEST_MARGIN_TOKENS = 6
"""sglang keeps so many tokens of the context or pool free (8186 of 8192 in the capture)."""


def server_args(sim: SimulatedEngine) -> dict[str, Any]:
    """The resolved settings under sglang's names; what was given and not modelled stands as given."""
    settings = sim.settings
    given = {name.replace("-", "_"): value for name, value in sim.flags.items()}
    chunk = settings.chunked_prefill_tokens
    speculating = settings.speculation_steps > 0
    return {
        **given,
        "context_length": settings.context_length,
        "kv_cache_dtype": _KV_DTYPES[settings.kv_dtype],
        "mem_fraction_static": settings.mem_fraction,
        "max_running_requests": sim.facts.max_running,
        "max_queued_requests": settings.max_queued_requests,
        "max_total_tokens": settings.max_total_tokens,
        "chunked_prefill_size": chunk,
        "max_prefill_tokens": settings.max_prefill_tokens,
        "schedule_policy": settings.schedule_policy,
        "schedule_conservativeness": settings.schedule_conservativeness,
        "page_size": settings.page_size,
        "disable_radix_cache": not settings.radix_cache,
        "enable_mixed_chunk": settings.mixed_chunk,
        "tp_size": settings.tp,
        "dp_size": settings.dp,
        "attn_dp_size": settings.attn_dp,
        "ep_size": settings.ep,
        "stream_interval": settings.stream_interval,
        "speculative_algorithm": given.get("speculative_algorithm"),
        "speculative_num_steps": settings.speculation_steps if speculating else None,
        "speculative_eagle_topk": settings.speculation_topk if speculating else None,
        "speculative_num_draft_tokens": settings.draft_tokens if speculating else None,
        "cuda_graph_max_bs_decode": settings.decode_graph_max_batch,
    }


def server_info(sim: SimulatedEngine, command: str, version: str, throughput: float) -> dict[str, Any]:
    """The document of /server_info."""
    args = server_args(sim)
    pool = sim.plan.kv_capacity_tokens
    state = {**args, **_internal_state(sim, throughput)}
    return {
        **args,
        "launch_command": command,
        "status": "ready",
        "max_total_num_tokens": pool,
        "max_req_input_len": max(1, min(sim.context_tokens, pool) - REQUEST_MARGIN_TOKENS),
        "startup_time": {"scheduler_e2e": sim.seconds_to_ready},
        "internal_states": [state for _ in range(sim.settings.schedulers)],
        "version": version,
        "simulated": True,
    }


def _internal_state(sim: SimulatedEngine, throughput: float) -> dict[str, Any]:
    plan = sim.plan
    state: dict[str, Any] = {
        "world_size": sim.settings.tp,
        "effective_max_running_requests_per_dp": sim.engine.max_running,
        "last_gen_throughput": throughput,
        "memory_usage": {
            "weight": round(plan.weights_bytes / GIB, 3),
            "kvcache": round(plan.kv_capacity_tokens * plan.kv_bytes_per_token / GIB, 3),
            "token_capacity": plan.kv_capacity_tokens,
            "graph": {"decode": round(plan.graph_bytes / GIB, 3)},
        },
    }
    if sim.settings.speculation_steps:
        state["avg_spec_accept_length"] = sim.engine.tokens_per_verify
    return state


def model_info(sim: SimulatedEngine, served_name: str) -> dict[str, Any]:
    """The document of /model_info."""
    path = sim.flags.get("model-path", served_name)
    return {
        "model_path": path,
        "served_model_name": served_name,
        "tokenizer_path": sim.flags.get("tokenizer-path", path),
        "is_generation": True,
        "preferred_sampling_params": None,
        "weight_version": "default",
        "model_type": sim.plan.arch.name,
        "simulated": True,
    }


def models(sim: SimulatedEngine, served_name: str, created: int) -> dict[str, Any]:
    """The document of /v1/models."""
    card = {
        "id": served_name,
        "object": "model",
        "created": created,
        "owned_by": "sglang",
        "root": served_name,
        "parent": None,
        "max_model_len": sim.context_tokens,
    }
    return {"object": "list", "data": [card]}


# --- /metrics


def metrics(
    sim: SimulatedEngine, served_name: str, throughput: float, first_token: Latencies, end_to_end: Latencies
) -> str:
    """The Prometheus text. Gauges are live; sglang's own are refreshed every 40 decode steps only."""
    books = sim.engine.counters()
    label = f'engine_type="unified",model_name="{served_name}"'
    lines: list[str] = []
    for name, kind, text, value in _samples(sim, books, throughput):
        lines += [f"# HELP sglang:{name} {text}", f"# TYPE sglang:{name} {kind}"]
        extra = 'cache_source="device",' if name == "cached_tokens_total" else ""
        lines.append(f"sglang:{name}{{{extra}{label}}} {float(value)}")
    lines += _histogram(
        "time_to_first_token_seconds", "Histogram of time to first token in seconds.", label, first_token
    )
    lines += _histogram(
        "e2e_request_latency_seconds", "Histogram of End-to-end request latency in seconds", label, end_to_end
    )
    return "\n".join(lines) + "\n"


def _samples(sim: SimulatedEngine, books: Counters, throughput: float) -> list[tuple[str, str, str, float]]:
    plan = sim.plan
    hit_rate = books.cached_tokens / books.prompt_tokens if books.prompt_tokens else 0.0
    accepted = sim.engine.tokens_per_verify if sim.settings.speculation_steps else 0.0
    return [
        ("num_running_reqs", "gauge", "The number of running requests.", books.running),
        ("num_queue_reqs", "gauge", "The number of requests in the waiting queue.", books.queued),
        ("num_used_tokens", "gauge", "The number of used tokens.", books.kv_tokens),
        ("token_usage", "gauge", "The token usage.", books.kv_tokens / books.kv_capacity_tokens),
        ("kv_evictable_tokens", "gauge", "Evictable tokens in the KV cache.", books.cached_kv_tokens),
        ("cache_hit_rate", "gauge", "The prefix cache hit rate.", hit_rate),
        ("gen_throughput", "gauge", "The generation throughput (token/s).", throughput),
        ("spec_accept_length", "gauge", "Mean acceptance length of speculative decoding.", accepted),
        (
            "max_total_num_tokens",
            "gauge",
            "Maximum total number of tokens in the KV cache pool.",
            plan.kv_capacity_tokens,
        ),
        ("num_retracted_reqs", "gauge", "The number of retracted requests.", books.retractions),
        ("num_retracted_requests_total", "counter", "Total number of retracted requests.", books.retractions),
        ("weight_memory_usage_gb", "gauge", "Weight memory per GPU.", plan.weights_bytes / GIB),
        ("prompt_tokens_total", "counter", "Number of prefill tokens processed.", books.prompt_tokens),
        ("generation_tokens_total", "counter", "Number of generation tokens processed.", books.generated_tokens),
        ("cached_tokens_total", "counter", "Number of cached prompt tokens by source.", books.cached_tokens),
        ("num_requests_total", "counter", "Number of requests processed.", books.finished),
        ("num_aborted_requests_total", "counter", "Number of requests aborted.", books.aborted + books.rejected),
    ]


def _histogram(name: str, text: str, label: str, values: Latencies) -> list[str]:
    lines = [f"# HELP sglang:{name} {text}", f"# TYPE sglang:{name} histogram"]
    lines.append(f"sglang:{name}_sum{{{label}}} {values.total_s}")
    for bound, count in zip((*map(str, values.bounds), "+Inf"), values.counts, strict=True):
        lines.append(f'sglang:{name}_bucket{{{label},le="{bound}"}} {float(count)}')
    lines.append(f"sglang:{name}_count{{{label}}} {float(values.count)}")
    return lines
