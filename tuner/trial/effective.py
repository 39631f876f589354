"""What an engine really runs with: where it differs from what was asked, and when two trials ran the same thing.

Pure: reads a command line and the engine's /server_info. Spellings are resolved by sglang's own rule (a flag's name
with underscores is its field), so no table of flags is needed. Python 3.10, standard library.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.probe.control import effective_settings
from tuner.space.secrets import looks_secret

_FINGERPRINT_CHARS = 12  # as `ServingConfig.fingerprint`

# sglang server_args.py: short spellings whose field has another name.
_ALIASES = {
    "model": "model_path",
    "tp": "tp_size",
    "tensor_parallel_size": "tp_size",
    "dp": "dp_size",
    "data_parallel_size": "dp_size",
    "attn_dp": "attn_dp_size",
    "ep": "ep_size",
    "expert_parallel_size": "ep_size",
    "pp": "pp_size",
    "pipeline_parallel_size": "pp_size",
    "cuda_graph_max_bs": "cuda_graph_max_bs_decode",
}
_PROGRAM_FLAGS = ("-m", "-c")

# How an engine is reached and watched, and what differs from start to start. None of it changes a measurement that the
# trial's own plumbing does not change in the same way for all.
_NOT_A_SETTING = frozenset(
    {
        "host", "port", "nccl_port", "dist_init_addr", "gated_launch_port", "grpc_port", "random_seed",
        "served_model_name", "tokenizer_path", "api_key", "admin_api_key", "launch_command", "status", "startup_time",
        "frontend", "internal_states", "kv_events", "last_gen_throughput", "max_total_num_tokens",
        "max_req_input_len", "hicache_object_layout", "fastapi_root_path", "crash_dump_folder", "download_dir",
        "file_storage_path", "weight_version", "node_rank", "custom_sigquit_handler", "simulated",
        "disaggregation_bootstrap_port", "encoder_bootstrap_port", "engine_info_bootstrap_port",
        "smg_http_sidecar_port",
    }
)  # fmt: skip
_NOT_A_SETTING_PREFIX = ("ssl_", "watermark_", "otlp_", "tokenizer_metrics_", "forward_pass_metrics_", "_")

_COUNT = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|k|M|G|T)")  # sglang's human-readable counts
_SUFFIXES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def summary(argv: Sequence[str], server_info: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """What a result keeps of it: the settings, `differences` from what was asked, and the `fingerprint`."""
    changed = differences(argv, server_info)
    return {
        **effective_of(server_info),
        **({"differences": changed} if changed else {}),
        "fingerprint": fingerprint(server_info, context),
    }


def effective_of(server_info: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine says it runs with, and where its memory went."""
    effective = effective_settings(server_info)
    state = _first_state(server_info)
    if isinstance(memory := state.get("memory_usage"), Mapping):
        effective["memory_usage"] = dict(memory)
    if (cap := state.get("effective_max_running_requests_per_dp")) is not None:
        effective["max_running_requests_per_scheduler"] = cap
    return effective


def asked_of(argv: Sequence[str]) -> dict[str, Any]:
    """Field -> what the command line gives it: a text, a list of texts, or True for a switch. The last one counts."""
    asked: dict[str, Any] = {}
    name = ""
    for item in argv:
        if item.startswith("--") and len(item) > 2:
            name, equals, value = item[2:].partition("=")
            name = name.replace("-", "_")
            name = _ALIASES.get(name, name)
            asked[name] = value if equals else True
        elif name and item not in _PROGRAM_FLAGS:
            before = asked[name]
            asked[name] = item if before is True else [*(before if isinstance(before, list) else [before]), item]
    return asked


def differences(argv: Sequence[str], server_info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings the engine changed: field -> {asked, effective}. What it does not tell is not compared.

    No secret is among them: neither the value asked for nor the one in use is repeated for such a name.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, asked in asked_of(argv).items():
        if name in _NOT_A_SETTING or looks_secret(name):
            continue
        for effective in _effective_values(name, server_info):
            if not _same(_expected(name, asked, server_info), effective):
                found[name] = {"asked": asked, "effective": effective}
                break
    return found


def fingerprint(server_info: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """12 hex digits, equal for engines that run the same thing though they were asked differently.

    Built from every resolved setting except how the engine is reached, so a setting of a version to come tells two
    engines apart rather than confusing them. `context` is what the engine does not tell: its environment, image, pool.
    The running cap is the one in force; below what was asked it follows from free memory, which varies a little from
    start to start, and is taken to two digits.
    """
    settings = {
        name: value
        for name, value in server_info.items()
        if name not in _NOT_A_SETTING
        and not name.startswith(_NOT_A_SETTING_PREFIX)
        and not looks_secret(name)
        and value is not None
    }
    cap = _first_state(server_info).get("effective_max_running_requests_per_dp")
    if isinstance(cap, int) and cap > 0:
        asked = _per_scheduler(server_info.get("max_running_requests"), server_info)
        settings["max_running_requests"] = cap if cap == asked else _two_digits(cap)
    document = {"settings": settings, "context": dict(context)}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_FINGERPRINT_CHARS]


def environment_of(env: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that may change what an engine does, for `fingerprint`: no secrets."""
    return {name: value for name, value in env.items() if not looks_secret(name)}


def _first_state(server_info: Mapping[str, Any]) -> Mapping[str, Any]:
    states = server_info.get("internal_states")
    return states[0] if isinstance(states, list) and states and isinstance(states[0], Mapping) else {}


def _effective_values(name: str, server_info: Mapping[str, Any]) -> list[Any]:
    """Every place that tells this setting: the resolved field, and what a scheduler made of it."""
    state = _first_state(server_info)
    if name == "max_running_requests" and "effective_max_running_requests_per_dp" in state:
        return [state["effective_max_running_requests_per_dp"]]
    nested = _nested(name, server_info)
    if nested is not None:
        return [nested]
    return [server_info[name]] if name in server_info else []


def _nested(name: str, server_info: Mapping[str, Any]) -> Any:
    """`cuda_graph_max_bs_decode` is resolved into `cuda_graph_config.decode.max_bs`; the flag's field is not."""
    found = re.fullmatch(r"cuda_graph_(max_bs|bs|backend)_(decode|prefill)", name)
    part = server_info.get("cuda_graph_config") if found else None
    if found is None or not isinstance(part, Mapping) or not isinstance(part.get(found[2]), Mapping):
        return None
    return part[found[2]].get(found[1])


def _expected(name: str, asked: Any, server_info: Mapping[str, Any]) -> Any:
    """What the engine would show if it did as asked: the running cap is shared by the attention DP groups."""
    if name == "max_running_requests":
        return _per_scheduler(_plain(asked), server_info)
    return asked


def _per_scheduler(cap: Any, server_info: Mapping[str, Any]) -> Any:
    if not isinstance(cap, (int, float)):
        return cap
    groups = server_info.get("attn_dp_size") or 1
    if groups == 1 and server_info.get("enable_dp_attention"):  # up to sglang 0.5.20 dp_size counted the groups
        groups = server_info.get("dp_size") or 1
    return max(1, int(cap) // int(groups))


def _same(asked: Any, effective: Any) -> bool:
    if isinstance(asked, list) or isinstance(effective, list):
        ours, theirs = _as_list(asked), _as_list(effective)
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    one, other = _plain(asked), _plain(effective)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _plain(value: Any) -> Any:
    """A value as it compares: numbers and counts as floats, words without case, JSON texts as what they mean."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, str):
        return value
    if count := _COUNT.fullmatch(value):
        return float(count[1]) * _SUFFIXES[count[2]]
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return float(value)
    except ValueError:
        pass
    if value[:1] in "{[":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value.lower()


def _two_digits(count: int) -> int:
    return round(count, 2 - len(str(count)))
