"""Engine settings for a layout and a precision alone: what a recipe would add where nobody says more.

The values are those published recipes agree on, not the engine's defaults (which hang on hardware and version).
"""

from __future__ import annotations

import math
from dataclasses import replace

from tuner.errors import UsageError
from tuner.model.architecture import Architecture
from tuner.model.catalogue import Accelerator
from tuner.model.memory import plan_memory
from tuner.model.settings import EngineSettings, Precision

# Per scheduler. Larger chunks (16k to 128k in recipes) batch prompts that wait together: a few percent of throughput,
# and the first of them waits for the last.
CHUNK_TOKENS = 8192
MAX_RUNNING = 96  # per replica; recipes: 80 (balanced) to 256 (throughput), or the concurrency of a closed loop
MEM_FRACTION = 0.88  # recipes: 0.80 to 0.92; lower where a step's memory needs it


def standard_settings(
    arch: Architecture,
    acc: Accelerator,
    *,
    precision: Precision,
    tp: int,
    dp: int = 1,
    attn_dp: int = 1,
    ep: int = 1,
    speculation_steps: int = 0,
    concurrency: float | None = None,
    max_context_tokens: int = CHUNK_TOKENS,
) -> EngineSettings:
    """A usual configuration of this layout: fp8 KV, a chain of drafts, as many requests at once as the load brings.

    Raises:
        UsageError: a layout that cannot be.
    """
    _refuse_layout(arch, tp, dp, attn_dp, ep)
    settings = EngineSettings(
        tp=tp,
        precision=precision,
        dp=dp,
        attn_dp=attn_dp,
        ep=ep,
        kv_dtype="bf16" if precision == "bf16" else "fp8",
        mem_fraction=MEM_FRACTION,
        chunked_prefill_tokens=CHUNK_TOKENS,
        max_running_requests=max(MAX_RUNNING, math.ceil((concurrency or 0) / dp)),
        speculation_steps=speculation_steps,
        draft_tokens=speculation_steps + 1 if speculation_steps else 0,
    )
    plan = plan_memory(arch, acc, settings, max_context_tokens)
    if plan.dynamic_margin_gib >= 0:
        return settings
    needed = (plan.activation_bytes + plan.graph_bytes + plan.runtime_bytes) / acc.hbm_bytes
    return replace(settings, mem_fraction=max(0.5, math.floor((1 - needed) * 100) / 100))


def _refuse_layout(arch: Architecture, tp: int, dp: int, attn_dp: int, ep: int) -> None:
    """What the engine would not start with, or fail at while it builds the model."""
    if attn_dp < 1 or tp % attn_dp:
        raise UsageError(f"attention DP {attn_dp} does not divide tensor parallelism {tp}; give a divisor of {tp}")
    if dp > 1 and attn_dp > 1:
        raise UsageError(f"replicas (dp {dp}) and attention DP ({attn_dp}) exclude each other; one of them must be 1")
    group = tp // attn_dp
    if arch.heads % group:
        raise UsageError(f"{arch.heads} attention heads do not divide by {group} GPUs of a group; give another tp")
    if arch.experts and arch.experts % ep:
        raise UsageError(f"expert parallelism {ep} does not divide {arch.experts} experts; give 1 or {tp}")
    if ep not in (1, tp):
        raise UsageError(f"expert parallelism {ep} is neither 1 nor tensor parallelism ({tp}); give one of them")
