"""From flags to the settings an engine really runs with: sglang 0.5.23's start-up resolution, mirrored.

Pure and fast: the simulated engine calls it on its own command line, the enumeration on every point of a space. It
knows no GPU but the `Platform` it is given, and MLA models only where it estimates graph memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from tuner.launch.argv import measured_flags
from tuner.launch.parse import parse_argv
from tuner.launch.platform import Platform
from tuner.launch.quantization import contradicts_checkpoint, method, refused_on_rocm, weights_precision
from tuner.launch.start_up import (
    ArgumentsError,
    Flags,
    StartUpError,
    refuse_chunk,
    refuse_dsa_backends,
    refuse_kv_dtype,
    refuse_layout,
    refuse_moe,
    refuse_parallel_extras,
    refuse_scheduling,
    refuse_speculation,
)
from tuner.model.settings import EngineSettings, Precision
from tuner.space.deployment import Deployment

__all__ = ["ArgumentsError", "StartUpError", "parse_argv", "resolve", "settings_of"]

_NO_ENV: Mapping[str, str] = {}
_DSA_PAGE_TOKENS = 64
_SPECULATIVE_MAX_RUNNING = 48  # speculative_hook.py, global, before the division by attention DP
_AUTO_DRAFT = (3, 1, 4)  # steps, top-k, draft tokens for DeepSeek and GLM drafts, speculative_hook.py
_ATTENTION_DP_CONSERVATIVENESS = 0.3  # parallel_hook.py
_DEFAULT_MAX_PREFILL_TOKENS = 16384
_NGRAM_DRAFT_TOKENS, _NGRAM_BREADTH = 12, 10

# All-to-all backends that spread experts over the whole tp group, whatever --ep-size says (overrides.py).
_A2A_SPANS_TP = frozenset(
    [
        "megamoe",
        "deepep",
        "deepep_v2",
        "mooncake",
        "nixl",
        "ascend_fuseep",
        "flashinfer",
        "flashinfer_megamoe",
        "mori",
        "pplx",
    ]
)

# Flags few deployments carry: their rules cost nothing when none is there.
_SCHEDULING = frozenset(
    [
        "schedule-policy",
        "schedule-conservativeness",
        "enable-priority-scheduling",
        "retraction-policy",
        "enable-hierarchical-cache",
        "disable-radix-cache",
    ]
)
_PARALLEL_EXTRAS = frozenset(
    ["nnodes", "pp-size", "moe-dp-size", "attn-cp-size", "moe-dense-tp-size", "enable-two-batch-overlap"]
)
_MOE = frozenset(("moe-runner-backend", "moe-a2a-backend"))

# Methods that look at the schedulers' load; `auto` and the rest deal requests out in turn (serving_hook.py).
_BALANCED = ("total_requests", "total_tokens")

# memory_hook.py, in MB.
_META_MB = 512
_ACTIVATION_MB_PER_TOKEN = 1.5
_TP_MB = 1024 / 8
_GRAPH_MB_PER_REQUEST = 2
_ATTENTION_DP_GRAPH_MB = 3.0
_ATTENTION_DP_LARGE_GRAPH_MB = 4.5  # above 300 requests
_MLA_PREFILL_GRAPHS_MB = 1.5 * 1024
_DEEPEP_PREFILL_GRAPHS_MB, _DEEPEP_DECODE_MB = 1024, 2 * 1024
_LEAST_RESERVE_MB = 10 * 1024
_LARGE_GPU_MB = 160 * 1024

# attention_hook.py: the aiter backend takes this share for itself when contexts may exceed 8192 tokens.
_AITER_SHARE, _AITER_CONTEXT_TOKENS = 0.85, 8192
_AITER_HONOR_VARIABLE = "SGLANG_AITER_HONOR_EXPLICIT_MEM_FRACTION"


def settings_of(deployment: Deployment, platform: Platform) -> EngineSettings:
    """What a deployment's engine will run with; equal to parsing and resolving its rendered command line.

    Raises:
        StartUpError: the engine would refuse to start.
    """
    precision = cast("Precision", deployment.precision)
    return resolve(measured_flags(deployment), platform, env=deployment.env, precision=precision)


def resolve(
    flags: Flags,
    platform: Platform,
    *,
    env: Mapping[str, str] = _NO_ENV,
    precision: Precision | None = None,
) -> EngineSettings:
    """Canonical flags (as `parse_argv` gives them) -> settings. `precision` overrides what names suggest.

    Raises:
        StartUpError: one of the engine's own rules refuses the flags.
    """
    get = flags.get
    tp, dp, attn_dp = get("tp-size", 1), get("dp-size", 1), get("attn-dp-size", 1)
    if attn_dp == 1 and get("enable-dp-attention"):
        dp, attn_dp = 1, dp
    ep = tp if get("moe-a2a-backend") in _A2A_SPANS_TP else get("ep-size", 1)
    refuse_layout(tp, dp, attn_dp, ep)
    precision = _precision(flags, platform, precision)
    given_chunk = get("chunked-prefill-size", 16384 if platform.hbm_gib * 1024 >= _LARGE_GPU_MB else 8192)
    chunk = given_chunk // attn_dp if given_chunk > 0 else -1
    page = _DSA_PAGE_TOKENS if platform.dsa else get("page-size", 1)
    refuse_chunk(chunk, page)
    kv_dtype = _kv_dtype(flags, platform)
    steps, topk, drafts = _speculation(flags, platform, page, attn_dp)
    graph_cap = _graph_cap(flags, platform, tp)
    if not _SCHEDULING.isdisjoint(flags):
        refuse_scheduling(flags)
    if not _PARALLEL_EXTRAS.isdisjoint(flags):
        refuse_parallel_extras(flags, tp=tp, dp=dp, attn_dp=attn_dp, ep=ep)
    if not _MOE.isdisjoint(flags):
        refuse_moe(flags, env, method(get("quantization"), precision), tp=tp, ep=ep, chunk=chunk)
    conservativeness = get("schedule-conservativeness", 1.0)
    return EngineSettings(
        tp=tp,
        precision=precision,
        dp=dp,
        attn_dp=attn_dp,
        ep=ep,
        kv_dtype=kv_dtype,
        mem_fraction=_mem_fraction(flags, platform, env, tp, attn_dp, given_chunk, graph_cap),
        chunked_prefill_tokens=chunk,
        max_prefill_tokens=get("max-prefill-tokens", _DEFAULT_MAX_PREFILL_TOKENS),
        max_running_requests=get("max-running-requests", _SPECULATIVE_MAX_RUNNING if steps else None),
        max_queued_requests=get("max-queued-requests"),
        max_total_tokens=get("max-total-tokens"),
        context_length=get("context-length"),
        page_size=page,
        schedule_policy=get("schedule-policy", "fcfs"),
        schedule_conservativeness=conservativeness * (_ATTENTION_DP_CONSERVATIVENESS if attn_dp > 1 else 1),
        speculation_steps=steps,
        speculation_topk=topk,
        draft_tokens=drafts,
        decode_graph_max_batch=graph_cap,
        mixed_chunk=bool(get("enable-mixed-chunk")) and not steps,
        radix_cache=not get("disable-radix-cache"),
        overlap=not get("disable-overlap-schedule"),
        stream_interval=get("stream-interval", 1),
        routing="least-requests" if get("load-balance-method") in _BALANCED else "round-robin",
    )


def _precision(flags: Flags, platform: Platform, override: Precision | None) -> Precision:
    flag, model = flags.get("quantization"), flags.get("model-path", "")
    precision = override or weights_precision(flag, model)
    if flag is not None and contradicts_checkpoint(flag, model):
        raise StartUpError(
            "quantization-checkpoint", f"checkpoint {model} is not what --quantization {flag} loads: they do not match"
        )
    refused = refused_on_rocm(flag, precision) if platform.is_hip else None
    if refused is not None:
        raise StartUpError("quantization-rocm", f"{refused} quantization is currently not supported in ROCm")
    return precision


def _kv_dtype(flags: Flags, platform: Platform) -> Literal["bf16", "fp8"]:
    """DSA chooses fp8 by itself from compute capability 10 on; other models keep their own dtype."""
    dtype = flags.get("kv-cache-dtype", "auto")
    refuse_kv_dtype(dtype, platform)
    chosen = "fp8_e4m3" if platform.dsa and platform.capability >= 10 else "bf16"
    is_fp8 = (chosen if dtype == "auto" else dtype) not in ("bf16", "bfloat16")
    if platform.dsa:
        refuse_dsa_backends(flags, platform, kv_is_fp8=is_fp8)
    return "fp8" if is_fp8 else "bf16"


def _speculation(flags: Flags, platform: Platform, page: int, attn_dp: int) -> tuple[int, int, int]:
    """(steps, top-k, draft tokens); (0, 1, 0) is off."""
    algorithm = flags.get("speculative-algorithm")
    if algorithm is None:
        return 0, 1, 0
    steps, topk, drafts = _draft_shape(algorithm, flags)
    backend = flags.get("attention-backend") or ("dsa" if platform.dsa else "")
    refuse_speculation(algorithm, flags, topk=topk, page_size=page, attn_dp=attn_dp, backend=backend)
    return steps, topk, drafts


def _draft_shape(algorithm: str, flags: Flags) -> tuple[int, int, int]:
    given = flags.get("speculative-num-draft-tokens")
    if algorithm == "NGRAM":
        drafts = given or _NGRAM_DRAFT_TOKENS
        return drafts - 1, flags.get("speculative-ngram-max-bfs-breadth", _NGRAM_BREADTH), drafts
    steps = flags.get("speculative-num-steps")
    if steps is None:
        return _AUTO_DRAFT
    topk = flags.get("speculative-eagle-topk", 1)
    return steps, topk, steps + 1 if topk == 1 or given is None else given


def _graph_cap(flags: Flags, platform: Platform, tp: int) -> int:
    """Largest batch with a captured decode graph; 0: none. A default is clamped to max-running, a given one is not."""
    off = flags.get("disable-decode-cuda-graph") or flags.get("disable-cuda-graph")
    if off or flags.get("cuda-graph-backend-decode") == "disabled":
        return 0
    sizes = flags.get("cuda-graph-bs-decode")
    if sizes is not None:
        return max(map(int, sizes.split() if isinstance(sizes, str) else sizes if isinstance(sizes, list) else [sizes]))
    given: int | None = flags.get("cuda-graph-max-bs-decode")
    if given is not None:
        return given
    default = 512 if tp >= 4 or platform.hbm_gib * 1024 >= _LARGE_GPU_MB else 256
    running: int | None = flags.get("max-running-requests")
    return default if running is None else min(default, running)


def _mem_fraction(
    flags: Flags, platform: Platform, env: Mapping[str, str], tp: int, attn_dp: int, chunk: int, graph_cap: int
) -> float:
    """(weights + KV) / HBM; estimated from the chunk before its division by attention DP."""
    given: float | None = flags.get("mem-fraction-static")
    fraction = _auto_mem_fraction(flags, platform, tp, attn_dp, chunk, graph_cap) if given is None else float(given)
    if flags.get("attention-backend") != "aiter":
        return fraction
    honored = given is not None and env.get(_AITER_HONOR_VARIABLE, "").lower() in ("1", "true", "yes", "on", "y")
    context = flags.get("context-length", platform.context_tokens)
    return fraction * _AITER_SHARE if context > _AITER_CONTEXT_TOKENS and not honored else fraction


def _auto_mem_fraction(flags: Flags, platform: Platform, tp: int, attn_dp: int, chunk: int, graph_cap: int) -> float:
    hbm_mb = platform.hbm_gib * 1024
    tokens: int = chunk if chunk > 0 else flags.get("max-prefill-tokens", _DEFAULT_MAX_PREFILL_TOKENS)
    ranks: int = tp * flags.get("pp-size", 1)
    reserve = _META_MB + max(tokens, 2048) * _ACTIVATION_MB_PER_TOKEN + ranks * _TP_MB
    reserve += _GRAPH_MB_PER_REQUEST * graph_cap
    if attn_dp > 1:
        per_request = _ATTENTION_DP_LARGE_GRAPH_MB if graph_cap > 300 else _ATTENTION_DP_GRAPH_MB
        reserve += per_request * graph_cap * attn_dp
    deepep = flags.get("moe-a2a-backend") == "deepep"
    if not _prefill_graphs_off(flags):
        reserve += _MLA_PREFILL_GRAPHS_MB + (_DEEPEP_PREFILL_GRAPHS_MB if deepep else 0)
    reserve = max(reserve, _LEAST_RESERVE_MB)
    reserve += _DEEPEP_DECODE_MB if deepep and graph_cap else 0
    return round((hbm_mb - reserve) / hbm_mb, 3)


def _prefill_graphs_off(flags: Mapping[str, Any]) -> bool:
    backend = flags.get("cuda-graph-backend-prefill")
    return bool(flags.get("disable-prefill-cuda-graph") or flags.get("disable-cuda-graph") or backend == "disabled")
