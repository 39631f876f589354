"""Roofline durations of engine steps: reading weights and KV, multiplying, talking between GPUs, launching.

Implements `StepTimes` for one replica. Knows physics and a few calibrated efficiencies; does not know schedulers,
queues or kernels by name. Terms are added, not overlapped: graph-replayed layers run one after another.

Attention DP: `new_tokens` and `batch` are those of the busiest rank. Experts work on all ranks' tokens: a decode step
is padded to the busiest rank's batch everywhere; a prefill step takes `total_tokens` (default: the other ranks idle).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tuner.model.architecture import Architecture
from tuner.model.calibration import Calibration, calibration
from tuner.model.catalogue import Accelerator, tokens_per_verify
from tuner.model.checkpoint import WeightPart, quantization, weight_parts
from tuner.model.settings import EngineSettings

# Assumed: of the right size, but no published run isolates them. First to be doubted where the model is off.
_EXPERT_TILE = 128  # columns; a tensor-parallel slice of s columns reaches s / (s + tile) of the expert efficiency
_EXPERT_IMBALANCE = 1.2  # busiest expert-parallel rank over the mean in prefill (hot experts)
_ATTENTION_EFFICIENCY = 0.35  # of the bf16 peak, flash attention of prefill
_INDEXER_EFFICIENCY = 0.20  # of the fp8 peak, scoring all context tokens and picking the top-k
_LINK_EFFICIENCY = 0.70  # of the scale-up bandwidth, large collectives
_EAGER_FACTOR = 2.0  # launches without a captured graph, over those with one
_DENSE_LAUNCH = 0.6  # of an expert layer's launches: no routing, no shared expert, no gathering of tokens
_NARROW_GAIN = 0.75  # dense models: twice the peak of a narrower format makes gemms 1.7 times as fast
_SCHEDULING_S = 1.5e-3  # choosing and preparing a batch, of every step where it does not overlap the one before
_DRAFT_LAUNCH_S = 0.3e-3  # per draft step, beside its layer and the head
_INGEST_S = 0.030  # tokenizing a long prompt, scheduling, HTTP, per request (inference-sim: 15 ms with short prompts)

# Routing is skewed: half of the experts are taken 1.6 times as often as the mean, half 0.4 times. Fitted to how TPOT
# grows between concurrency 4 and 64; even routing would touch 87 % of 256 experts at 64 tokens, this touches 76 %.
_HOT, _COLD = 1.6, 0.4


class Coefficients(NamedTuple):
    """What `prefill_s` and `decode_s` are made of: seconds per step, token, attended token; folded once."""

    tokens_per_verify: float
    request_overhead_s: float
    verify: float
    ranks: float
    graph_max: float
    topk: float
    hot: float
    cold: float
    ep_variance: float
    prefill_base_s: float
    prefill_experts_s: float
    prefill_total_token_s: float
    prefill_token_s: float
    prefill_attend_s: float
    prefill_index_s: float
    decode_base_s: float
    eager_base_s: float
    decode_experts_s: float
    draft_experts_s: float
    decode_total_token_s: float
    decode_seq_s: float
    decode_attend_s: float
    decode_index_s: float

    def distorted(self, prefill: float, decode: float, tokens_per_verify: float) -> Coefficients:
        """The same steps, each phase by a factor slower, with another acceptance."""
        factors = {"prefill": prefill, "decode": decode, "eager": decode, "draft": decode}
        scaled = {
            name: value * factors[name.split("_")[0]]
            for name, value in self._asdict().items()
            if name.split("_")[0] in factors
        }
        return self._replace(tokens_per_verify=tokens_per_verify, **scaled)


class RooflineSteps:
    """Step times of one replica (`tp` GPUs). Constants are folded once; a call is a handful of float operations."""

    def __init__(
        self, arch: Architecture, acc: Accelerator, settings: EngineSettings, constants: Calibration | None = None
    ) -> None:
        self._constants = constants or calibration()
        self._stack = self._constants.stack(acc.vendor)
        self.tokens_per_verify = tokens_per_verify(arch, _accepted_limit(settings))
        self.request_overhead_s = _INGEST_S
        self._verify = max(settings.draft_tokens, settings.speculation_steps + 1) if settings.speculation_steps else 1
        self._ranks = settings.attn_dp
        self._graph_max = settings.decode_graph_max_batch
        self._topk = float(arch.index_topk) if arch.sparse else math.inf
        self._fold_overheads(arch, acc, settings)
        self._fold_weights(arch, acc, settings)
        self._fold_compute(arch, acc, settings)
        self._fold_attention(arch, acc, settings)
        self._fold_draft(arch, acc, settings)

    @property
    def coefficients(self) -> Coefficients:
        """The folded constants, for evaluation over many configurations at once."""
        return Coefficients(
            tokens_per_verify=self.tokens_per_verify,
            request_overhead_s=self.request_overhead_s,
            verify=self._verify,
            ranks=self._ranks,
            graph_max=self._graph_max,
            topk=self._topk,
            hot=self._hot,
            cold=self._cold,
            ep_variance=self._ep_variance,
            prefill_base_s=self._prefill_base_s,
            prefill_experts_s=self._experts_read_s,
            prefill_total_token_s=self._prefill_total_token_s,
            prefill_token_s=self._prefill_token_s,
            prefill_attend_s=self._prefill_attend_s,
            prefill_index_s=self._prefill_index_s,
            decode_base_s=self._decode_base_s,
            eager_base_s=self._eager_base_s,
            decode_experts_s=self._experts_read_s,
            draft_experts_s=self._draft_experts_s,
            decode_total_token_s=self._decode_total_token_s,
            decode_seq_s=self._decode_seq_s,
            decode_attend_s=self._decode_attend_s,
            decode_index_s=self._decode_index_s,
        )

    # ---- the Protocol -----------------------------------------------------------------------------------------

    def prefill_s(self, new_tokens: float, context_tokens: float, total_tokens: float = 0) -> float:
        """Seconds of a prefill step; `total_tokens` over all attention-DP ranks where it is more than this rank's."""
        total = max(new_tokens, total_tokens)
        attended = min(self._topk, context_tokens)
        return (
            self._prefill_base_s
            + self._experts_read_s * self._coverage(total)
            + total * self._prefill_total_token_s
            + new_tokens
            * (self._prefill_token_s + self._prefill_attend_s * attended + self._prefill_index_s * context_tokens)
        )

    def decode_s(self, batch: float, context_tokens: float) -> float:
        """Seconds of a decode (verify) step, drafting included, for `batch` requests of the busiest rank."""
        total = batch * self._verify * self._ranks
        attended = min(self._topk, context_tokens)
        return (
            (self._decode_base_s if batch <= self._graph_max else self._eager_base_s)
            + self._experts_read_s * self._spread(total)
            + self._draft_experts_s * self._coverage(batch * self._ranks)
            + total * self._decode_total_token_s
            + batch * (self._decode_seq_s + self._decode_attend_s * attended + self._decode_index_s * context_tokens)
        )

    # ---- where the time goes ----------------------------------------------------------------------------------

    def breakdown_prefill(self, new_tokens: float, context_tokens: float, total_tokens: float = 0) -> dict[str, float]:
        """Seconds of a prefill step by cause; they add up to `prefill_s`."""
        total = max(total_tokens, new_tokens)
        attended = min(context_tokens, self._topk)
        return {
            "scheduling": self._scheduling_s,
            "launch": self._launch_s,
            "collective latency": self._latency_s,
            "weights read": self._rest_read_s + self._experts_read_s * self._coverage(total),
            "expert compute": total * self._expert_token_s * self._imbalance,
            "projection compute": (total * self._shared_token_s + new_tokens * self._projection_token_s) * self._deep,
            "attention": new_tokens * self._prefill_attend_s * attended,
            "indexer": new_tokens * self._prefill_index_s * context_tokens,
            "communication": new_tokens * self._comm_token_s + total * self._comm_total_token_s,
        }

    def breakdown_decode(self, batch: float, context_tokens: float) -> dict[str, float]:
        """Seconds of a decode step by cause; they add up to `decode_s`."""
        tokens = batch * self._verify
        total = tokens * self._ranks
        attended = min(context_tokens, self._topk)
        draft = self._draft_base_s + self._draft_experts_s * self._coverage(batch * self._ranks)
        return {
            "scheduling": self._scheduling_s,
            "launch": self._launch_s * (1.0 if batch <= self._graph_max else _EAGER_FACTOR),
            "collective latency": self._latency_s,
            "weights read": self._rest_read_s + self._experts_read_s * self._spread(total),
            "expert compute": total * self._expert_token_s,
            "projection compute": total * self._shared_token_s
            + tokens * (self._projection_token_s + self._head_token_s),
            "attention": batch * self._decode_attend_s * attended,
            "indexer": batch * self._decode_index_s * context_tokens,
            "communication": tokens * self._comm_token_s + total * self._comm_total_token_s,
            "drafting": draft,
        }

    # ---- routed experts ---------------------------------------------------------------------------------------

    def _coverage(self, tokens: float) -> float:
        """Share of the routed experts that `tokens` tokens touch in a layer."""
        return 1.0 - 0.5 * (math.exp(-self._hot * tokens) + math.exp(-self._cold * tokens))

    def _spread(self, tokens: float) -> float:
        """Coverage of the busiest expert-parallel rank: the mean plus the expected maximum of binomial counts."""
        share = self._coverage(tokens)
        if self._ep_variance == 0.0 or share <= 0.0:
            return share
        return min(1.0, share + math.sqrt(self._ep_variance * share * (1.0 - share)))

    # ---- constants, folded once -------------------------------------------------------------------------------

    def _fold_overheads(self, arch: Architecture, acc: Accelerator, settings: EngineSettings) -> None:
        projections = quantization(arch, settings.precision).projection_format
        quantising = self._constants.fp8_layer_s if projections != "bf16" else 0.0
        indexing = arch.index_layers * self._constants.indexer_overhead_s
        layers = arch.moe_layers + _DENSE_LAUNCH * arch.dense_layers
        self._scheduling_s = 0.0 if settings.overlap else _SCHEDULING_S
        self._launch_s = layers * self._stack.layer_overhead_s + arch.layers * quantising + indexing
        # two collectives a layer, each log2(tp) hops: all-reduces, or gather and scatter under attention DP
        self._latency_s = 2 * arch.layers * acc.collective_latency_s * math.log2(settings.tp)
        link = acc.scaleup_bytes_per_s * _LINK_EFFICIENCY
        group = max(1, settings.tp // settings.attn_dp)
        per_token = arch.layers * arch.hidden * 2 / link  # bf16 activations
        self._comm_token_s = per_token * 2 * (group - 1) / group
        self._comm_total_token_s = per_token * 2 * (settings.tp - 1) / settings.tp

    def _fold_weights(self, arch: Architecture, acc: Accelerator, settings: EngineSettings) -> None:
        bandwidth = acc.hbm_bytes_per_s * self._constants.read_efficiency
        parts = weight_parts(arch, settings)
        read = sum(_bytes_read(part) for part in parts)
        routed = sum(part.bytes_per_gpu for part in parts if part.label == "routed experts")
        self._experts_read_s = routed / bandwidth
        self._rest_read_s = (read - routed) / bandwidth
        share = arch.experts_per_token / arch.experts if arch.experts else 0.0
        self._hot, self._cold = (-math.log(max(1e-9, 1.0 - share * skew)) for skew in (_HOT, _COLD))
        self._ep_variance = 2.0 * math.log(settings.ep) * settings.ep / arch.experts if arch.experts else 0.0

    def _fold_compute(self, arch: Architecture, acc: Accelerator, settings: EngineSettings) -> None:
        """Seconds per token: experts, shared layers over all `tp` GPUs, attention projections over one group."""
        group = max(1, settings.tp // settings.attn_dp)
        gemm = self._gemm_flops(arch, acc, settings)
        columns = arch.expert_ffn * min(settings.ep, settings.tp) / settings.tp
        efficiency = self._constants.expert_efficiency * columns / (columns + _EXPERT_TILE)
        experts = acc.flops(quantization(arch, settings.precision).expert_format) * efficiency
        self._expert_token_s = 2 * arch.active_routed_params / (settings.tp * experts) if arch.experts else 0.0
        self._imbalance = _EXPERT_IMBALANCE if settings.ep > 1 else 1.0
        everywhere = arch.low_rank_params + arch.indexer_params + arch.router_params
        shared = arch.shared_params + arch.dense_ffn_params
        head = arch.vocab * arch.hidden  # multiplied by every verified token, in prefill by the last one only
        grouped = arch.active_rest_params - everywhere - shared - head
        self._shared_token_s = 2 * shared / (settings.tp * gemm)
        self._head_token_s = 2 * head / (group * gemm)
        self._projection_token_s = 2 * (grouped / group + everywhere) / gemm
        # a prefill also runs through the draft layers, so that their KV cache is there when drafting starts
        self._deep = 1 + (arch.mtp_layers / arch.layers if settings.speculation_steps else 0.0)
        self._prefill_base_s = self._scheduling_s + self._launch_s + self._latency_s + self._rest_read_s
        self._prefill_total_token_s = (
            self._expert_token_s * self._imbalance + self._shared_token_s * self._deep + self._comm_total_token_s
        )
        self._prefill_token_s = self._projection_token_s * self._deep + self._comm_token_s

    def _gemm_flops(self, arch: Architecture, acc: Accelerator, settings: EngineSettings) -> float:
        """FLOP/s of dense projections. Beside experts they are block-scaled: that costs what their peak would gain."""
        speed = acc.flops("bf16") * self._constants.gemm_efficiency
        if arch.experts:
            return speed
        gain = acc.flops(quantization(arch, settings.precision).projection_format) / acc.flops("bf16")
        return float(speed * gain**_NARROW_GAIN)

    def _fold_attention(self, arch: Architecture, acc: Accelerator, settings: EngineSettings) -> None:
        """Seconds per query token and attended token, or per query token and context token (indexers).

        Sparse attention gathers every query's own tokens: the latent is whole on every rank, so tensor parallelism
        saves its arithmetic but none of its reads. Full attention of one sequence reads its cache once.
        """
        group = max(1, settings.tp // settings.attn_dp)
        scores = arch.score_flops_per_token / (group * acc.flops("bf16") * _ATTENTION_EFFICIENCY)
        cache = arch.layers * arch.kv_bytes_per_layer(settings.kv_dtype)
        if arch.attention == "gqa":
            cache *= max(1.0, arch.kv_heads / group) / arch.kv_heads
        stream = acc.hbm_bytes_per_s * self._constants.read_efficiency
        indexer = arch.indexer_flops_per_token / (acc.flops("fp8") * _INDEXER_EFFICIENCY)
        if arch.sparse:
            self._prefill_attend_s = max(scores, cache / (acc.hbm_bytes_per_s * self._stack.gather_efficiency))
            self._decode_attend_s = self._verify * self._prefill_attend_s
        else:
            self._prefill_attend_s = scores
            self._decode_attend_s = cache / stream + self._verify * scores
        self._prefill_index_s = indexer
        keys = arch.index_layers * arch.index_bytes_per_layer
        self._decode_index_s = keys / stream + self._verify * indexer

    def _fold_draft(self, arch: Architecture, acc: Accelerator, settings: EngineSettings) -> None:
        """`k` draft steps: a launch, the draft layer's weights and the target's output head each."""
        steps = settings.speculation_steps
        bandwidth = acc.hbm_bytes_per_s * self._constants.read_efficiency * settings.tp
        width = quantization(arch, settings.precision).draft / 8
        fixed = arch.mtp_rest_params * width + arch.vocab * arch.hidden * 2
        indexer = self._constants.indexer_overhead_s if arch.sparse else 0.0
        layer = self._stack.layer_overhead_s + indexer
        self._draft_base_s = steps * (_DRAFT_LAUNCH_S + layer + fixed / bandwidth)
        self._draft_experts_s = steps * arch.mtp_routed_params * width / bandwidth
        self._decode_base_s = self._scheduling_s + self._launch_s + self._latency_s + self._rest_read_s
        self._decode_base_s += self._draft_base_s
        self._eager_base_s = self._decode_base_s + (_EAGER_FACTOR - 1) * self._launch_s
        self._decode_total_token_s = self._expert_token_s + self._shared_token_s + self._comm_total_token_s
        self._decode_seq_s = self._verify * (self._projection_token_s + self._head_token_s + self._comm_token_s)


def _accepted_limit(settings: EngineSettings) -> int:
    """Longest chain that can be accepted: the steps, or fewer where fewer draft tokens are verified."""
    if settings.draft_tokens:
        return min(settings.speculation_steps, settings.draft_tokens - 1)
    return settings.speculation_steps


def _bytes_read(part: WeightPart) -> float:
    """Bytes of a part that one step streams: the embedding is looked up, the head read; drafts are counted apart."""
    if part.label == "draft layer":
        return 0.0
    return part.bytes_per_gpu / 2 if part.label == "embedding and head" else part.bytes_per_gpu
