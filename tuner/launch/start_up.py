"""What the engine itself refuses at start-up, as named rules over flags: before any weight is loaded.

Mirrors sglang 0.5.23 (`srt/arg_groups/*_hook.py`, `overrides.py`); older versions refuse much the same. Knows no rule
of ours (see `rules`) and derives nothing (see `resolve`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.launch.platform import Platform

Flags = Mapping[str, Any]

_SPECULATION = frozenset(
    ("EAGLE", "EAGLE3", "NEXTN", "STANDALONE", "NGRAM", "DFLASH", "DSPARK", "UNO", "FROZEN_KV_MTP")
)
_NO_ATTENTION_DP = ("STANDALONE", "NGRAM")
# Attention backends that can walk a draft tree over paged KV (speculative_hook.py).
_TREE_BACKENDS = ("flashinfer", "fa3", "triton")
_FLASHINFER_A2A_RUNNERS = (
    "flashinfer_cutlass",
    "flashinfer_cutedsl",
    "flashinfer_trtllm",
    "flashinfer_trtllm_routed",
    "deep_gemm",
)
_CUTLASS_METHODS = ("modelopt_fp4", "modelopt_fp8", "modelopt_mixed", None)
_CUTEDSL_METHODS = ("modelopt_fp4", "modelopt_mixed", "nvfp4_online")
_TRTLLM_METHODS = (
    *("modelopt_fp4", "nvfp4_online", "fp8", "mxfp8", "modelopt_fp8", "modelopt_mixed", "compressed-tensors"),
    None,
)
_MORI_TOKENS_VARIABLE = "SGLANG_MORI_NUM_MAX_DISPATCH_TOKENS_PER_RANK"
_MORI_TOKENS = 4096


class StartUpError(ValueError):
    """The engine would refuse to start. `rule` names the refusal; `exit_code` is the one the engine ends with."""

    exit_code = 1

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class ArgumentsError(StartUpError):
    """The command line itself cannot be read."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__("arguments", message)


def refuse_layout(tp: int, dp: int, attn_dp: int, ep: int) -> None:
    """Parallel sizes that do not go together (parallel_hook.py; ep beyond tp fails when the groups are formed)."""
    if min(tp, dp, attn_dp, ep) < 1:
        raise StartUpError(
            "sizes-positive", f"sizes must be positive: tp {tp}, dp {dp}, attention dp {attn_dp}, ep {ep}"
        )
    if dp > 1 and attn_dp > 1:
        raise StartUpError(
            "dp-with-attention-dp",
            f"--dp-size {dp} with --attn-dp-size {attn_dp}: replicas combined with attention DP are not supported",
        )
    if tp % attn_dp:
        raise StartUpError("attention-dp-divides-tp", f"tp {tp} is not divisible by attention dp {attn_dp}")
    if ep > tp:
        raise StartUpError("ep-within-tp", f"ep {ep} is larger than tp {tp}")


def refuse_chunk(chunk_tokens: int, page_size: int) -> None:
    """Checked after the division by attention DP (validation_hook.py)."""
    if chunk_tokens > 0 and chunk_tokens % page_size:
        raise StartUpError(
            "chunk-in-pages", f"chunked_prefill_size {chunk_tokens} must be divisible by page_size {page_size}"
        )


def refuse_kv_dtype(dtype: str, platform: Platform) -> None:
    """DSA has kernels for two KV formats (overrides.py)."""
    if platform.dsa and dtype not in ("auto", "bf16", "bfloat16", "fp8_e4m3"):
        raise StartUpError("dsa-kv-dtype", f"DSA supports only bf16 or fp8_e4m3 as kv-cache-dtype, not {dtype}")


def refuse_dsa_backends(flags: Flags, platform: Platform, *, kv_is_fp8: bool) -> None:
    """The triton DSA kernels are ROCm's; on CUDA, tilelang's FP8 layout cannot be mixed with another's."""
    chosen = (flags.get("dsa-prefill-backend"), flags.get("dsa-decode-backend"))
    if chosen == (None, None) or platform.is_hip:
        return
    if "triton" in chosen:
        raise StartUpError("dsa-triton-rocm", "the triton DSA backend is only supported on ROCm")
    if kv_is_fp8 and "tilelang" in chosen and chosen != ("tilelang", "tilelang"):
        raise StartUpError("dsa-tilelang-pair", "tilelang with an FP8 KV cache must be both DSA backends on CUDA")


def refuse_speculation(algorithm: str, flags: Flags, *, topk: int, page_size: int, attn_dp: int, backend: str) -> None:
    """Drafting that the engine cannot verify (speculative_hook.py). `backend` is the attention backend or ""."""
    if algorithm not in _SPECULATION:
        raise StartUpError("speculative-algorithm", f"Unknown speculative algorithm name: {algorithm}")
    if algorithm in _NO_ATTENTION_DP and attn_dp > 1:
        raise StartUpError("speculation-attention-dp", f"{algorithm} does not support attention DP")
    alone = flags.get("speculative-num-steps") is None and algorithm != "NGRAM"
    if alone and (flags.get("speculative-eagle-topk"), flags.get("speculative-num-draft-tokens")) != (None, None):
        raise StartUpError(
            "speculation-steps-missing", "speculative top-k and draft tokens need --speculative-num-steps beside them"
        )
    walks = ("flashinfer",) if algorithm == "NGRAM" else _TREE_BACKENDS
    if topk > 1 and page_size > 1 and backend and backend not in walks:
        raise StartUpError(
            "draft-tree-pages",
            f"a draft tree (top-k {topk}) over pages of {page_size} needs attention backend {', '.join(walks)}; "
            f"got {backend}",
        )


def refuse_scheduling(flags: Flags) -> None:
    """Policies that exclude each other (validation_hook.py)."""
    policy, priority = flags.get("schedule-policy", "fcfs"), flags.get("enable-priority-scheduling", False)
    if flags.get("schedule-conservativeness", 1.0) < 0:
        raise StartUpError("conservativeness", "schedule_conservativeness must be non-negative")
    if priority and policy not in ("fcfs", "lof"):
        raise StartUpError("priority-policy", f"priority scheduling needs schedule-policy fcfs or lof, not {policy}")
    if flags.get("retraction-policy") == "priority" and not priority:
        raise StartUpError("retraction-priority", "--retraction-policy priority requires --enable-priority-scheduling")
    if flags.get("enable-hierarchical-cache") and flags.get("disable-radix-cache"):
        raise StartUpError(
            "hierarchical-cache", "--enable-hierarchical-cache and --disable-radix-cache exclude each other"
        )


def refuse_parallel_extras(flags: Flags, *, tp: int, dp: int, attn_dp: int, ep: int) -> None:
    """Rarer parallel options (validation_hook.py, parallel_hook.py)."""
    nodes, moe_dp = flags.get("nnodes", 1), flags.get("moe-dp-size", 1)
    if dp > 1 and nodes != 1:
        raise StartUpError("dp-one-node", "multi-node data-parallel replicas are not supported")
    if (tp * flags.get("pp-size", 1)) % nodes:
        raise StartUpError("nodes-divide-tp", f"tp x pp must be divisible by {nodes} nodes")
    if tp % (attn_dp * flags.get("attn-cp-size", 1)):
        raise StartUpError("context-parallel-divides-tp", "tp must be divisible by attention dp x attention cp")
    if ep * moe_dp > tp or (ep > 1 and moe_dp > 1 and ep * moe_dp != tp):
        raise StartUpError("moe-dp-fills-tp", f"ep {ep} x moe dp {moe_dp} does not fit tp {tp}")
    if flags.get("moe-dense-tp-size") not in (None, 1, tp):
        raise StartUpError("moe-dense-tp", "moe_dense_tp_size only supports 1 or tp_size")
    if flags.get("enable-two-batch-overlap") and flags.get("moe-a2a-backend", "none") == "none" and attn_dp == 1:
        raise StartUpError("two-batch-overlap", "two-batch overlap needs attention DP or an a2a backend")


def refuse_moe(flags: Flags, env: Mapping[str, str], method: str | None, *, tp: int, ep: int, chunk: int) -> None:
    """Expert kernels and all-to-all backends (moe_hook.py). `chunk` is the per-rank chunk in tokens."""
    runner, a2a = flags.get("moe-runner-backend", "auto"), flags.get("moe-a2a-backend", "none")
    methods = {
        "flashinfer_cutlass": _CUTLASS_METHODS,
        "flashinfer_cutedsl": _CUTEDSL_METHODS,
        "flashinfer_trtllm": _TRTLLM_METHODS,
    }.get(runner)
    if methods is not None and method not in methods:
        raise StartUpError("moe-runner-quantization", f"{runner} does not support quantization {method}")
    if runner in ("flashinfer_cutlass", "flashinfer_cutedsl") and ep not in (1, tp):
        raise StartUpError("moe-runner-ep", f"{runner} needs ep 1 or tp")
    if a2a == "flashinfer" and runner not in _FLASHINFER_A2A_RUNNERS:
        raise StartUpError("a2a-flashinfer-runner", f"a2a backend flashinfer needs one of {_FLASHINFER_A2A_RUNNERS}")
    if a2a == "mori" and chunk > int(env.get(_MORI_TOKENS_VARIABLE, _MORI_TOKENS)):
        raise StartUpError(
            "mori-chunk", f"the per-rank chunk of {chunk} tokens is above {_MORI_TOKENS_VARIABLE} (default 4096)"
        )
