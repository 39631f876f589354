"""Bytes of a checkpoint's parts on one GPU: which parameters have which width, and how many GPUs share them.

Knows the conventions of published checkpoints per precision, not their files; a bundle that quantises other parts
than these differs by the parts' size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from tuner.model.architecture import Architecture
from tuner.model.settings import EngineSettings, Precision


@dataclass(frozen=True, slots=True)
class Quantization:
    """Bits per parameter, block scales included, of the parts of a checkpoint."""

    routed: float
    shared: float
    projections: float
    draft: float
    expert_format: str
    projection_format: str


# 4.25 bit: 4 + one 8-bit scale per 32 values (OCP MX). 4.5 bit: 4 + one 8-bit scale per 16 values (NVFP4).
# fp8: one fp32 scale per 128x128 block (0.002 bit). amd/GLM-5.2-MXFP4 quantises routed and shared experts and leaves
# attention, dense MLP, head and draft layer in bf16; nvidia/GLM-5.2-NVFP4 also leaves the shared expert (465 GB =
# 432.9 GiB as published, which these widths give).
QUANTIZATION: dict[Precision, Quantization] = {
    "bf16": Quantization(16, 16, 16, 16, "bf16", "bf16"),
    "fp8": Quantization(8.002, 8.002, 8.002, 8.002, "fp8", "fp8"),
    "mxfp4": Quantization(4.25, 4.25, 16, 16, "fp4", "bf16"),
    "nvfp4": Quantization(4.5, 16, 16, 16, "fp4", "bf16"),
}


# Where there are no experts to quantise, published FP4 checkpoints quantise every projection of the layers instead.
_DENSE: dict[Precision, Quantization] = QUANTIZATION | {
    "mxfp4": Quantization(4.25, 4.25, 4.25, 16, "fp4", "fp4"),
    "nvfp4": Quantization(4.5, 4.5, 4.5, 16, "fp4", "fp4"),
}


def quantization(arch: Architecture, precision: Precision) -> Quantization:
    """The usual widths of a checkpoint of this architecture and precision."""
    return (QUANTIZATION if arch.experts else _DENSE)[precision]


@dataclass(frozen=True, slots=True)
class WeightPart:
    """`params` parameters of `bits` each, spread over `gpus` GPUs."""

    label: str
    params: int
    bits: float
    gpus: int

    @property
    def bytes_per_gpu(self) -> float:
        return self.params * self.bits / 8 / self.gpus


def weight_parts(arch: Architecture, settings: EngineSettings) -> tuple[WeightPart, ...]:
    """What one GPU holds. Draft layers only with speculation (the engine skips them otherwise)."""
    return _parts(arch, settings.precision, settings.tp, settings.attn_dp, settings.speculation_steps > 0)


@lru_cache(maxsize=512)
def _parts(arch: Architecture, precision: Precision, tp: int, attn_dp: int, draft: bool) -> tuple[WeightPart, ...]:  # noqa: FBT001 - a cache key
    q = quantization(arch, precision)
    group = max(1, tp // attn_dp)  # attention, embedding and head are sharded inside one attention group only
    attention = arch.layers * arch.attention_params_per_layer - arch.low_rank_params
    parts = [
        WeightPart("routed experts", arch.routed_params, q.routed, tp),
        WeightPart("shared experts", arch.shared_params, q.shared, tp),
        WeightPart("dense feed-forward", arch.dense_ffn_params, q.projections, tp),
        WeightPart("attention projections", attention, q.projections, group),
        WeightPart("low-rank projections, whole on every GPU", arch.low_rank_params, q.projections, 1),
        WeightPart("indexers and routers, whole on every GPU", arch.indexer_params + arch.router_params, 16, 1),
        WeightPart("embedding and head", arch.embedding_params, 16, group),
    ]
    if arch.attention == "mla" and q.projections < 16:
        # the absorbed up-projections are kept in bf16 beside the quantised ones
        parts.append(WeightPart("absorbed up-projections", arch.kv_up_params, 16, group))
    if draft:
        parts.append(WeightPart("draft layer", arch.mtp_params, q.draft, tp))
    return tuple(part for part in parts if part.params)
