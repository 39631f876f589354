"""What a trial adds to the measured command line so that it can be reached: address, port, metrics, cache report.

Only this differs from what is exported. The runner ships without `tuner.launch`, so these flags stand here.
"""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Mapping
from typing import Any

HOST = "127.0.0.1"

# Below the ephemeral range (32768 and up): loading takes minutes, in which an outgoing connection could take a port
# from there. sglang takes further ports up to 1000 above its own.
_PORTS = (11000, 31000)
_TRIES = 200

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
_SECRET_CHARS = 8

# Of the hundreds of fields of /server_info: what decides speed and memory, and what shows that a flag took effect.
_EFFECTIVE = (
    "attention_backend",
    "attn_dp_size",
    "chunked_prefill_size",
    "context_length",
    "cuda_graph_max_bs_decode",
    "decode_attention_backend",
    "disable_radix_cache",
    "dp_size",
    "dtype",
    "enable_dp_attention",
    "enable_hierarchical_cache",
    "enable_mixed_chunk",
    "ep_size",
    "kv_cache_dtype",
    "max_prefill_tokens",
    "max_queued_requests",
    "max_running_requests",
    "max_total_num_tokens",
    "max_total_tokens",
    "mem_fraction_static",
    "model_path",
    "moe_a2a_backend",
    "moe_runner_backend",
    "page_size",
    "prefill_attention_backend",
    "quantization",
    "random_seed",
    "schedule_conservativeness",
    "schedule_policy",
    "speculative_algorithm",
    "speculative_eagle_topk",
    "speculative_num_draft_tokens",
    "speculative_num_steps",
    "stream_interval",
    "tp_size",
    "version",
    "watchdog_timeout",
)


def plumbing(port: int) -> tuple[str, ...]:
    """Flags appended to the measured ones; argparse takes the last of a repeated flag."""
    return ("--host", HOST, "--port", str(port), "--enable-metrics", "--enable-cache-report")


def free_port() -> int:
    """A port that nobody listens on now.

    Raises:
        OSError: none was found.
    """
    for _ in range(_TRIES):
        port = random.randrange(*_PORTS)  # noqa: S311 - not a secret
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {_PORTS[0]} and {_PORTS[1]} on {HOST}; see what listens there")


def secrets_of(env: Mapping[str, str]) -> tuple[str, ...]:
    """Values that must not appear in a log tail: those of variables whose names say so."""
    return tuple(value for name, value in env.items() if _SECRET_NAME.search(name) and len(value) >= _SECRET_CHARS)


def effective_of(server_info: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine says it runs with, without its hundreds of defaults and without keys."""
    effective = {key: server_info[key] for key in _EFFECTIVE if server_info.get(key) is not None}
    states = _states(server_info)
    if states:
        memory = states[0].get("memory_usage")
        if isinstance(memory, Mapping):
            effective["memory_usage"] = dict(memory)
        effective["schedulers"] = len(states)
    return effective


def max_running_of(server_info: Mapping[str, Any]) -> int | None:
    """Requests the engine runs at once over all its schedulers, or None if it does not say."""
    per_rank = [state.get("effective_max_running_requests_per_dp") for state in _states(server_info)]
    known = [value for value in per_rank if isinstance(value, int) and value > 0]
    if known:
        return sum(known)
    limit, replicas = server_info.get("max_running_requests"), server_info.get("dp_size") or 1
    return limit * replicas if isinstance(limit, int) and limit > 0 else None


def _states(server_info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    states = server_info.get("internal_states")
    return [state for state in states if isinstance(state, Mapping)] if isinstance(states, list) else []
