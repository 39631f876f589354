"""Does a configuration fit the HBM of its GPUs, and how much KV cache is left: bytes per GPU, line by line.

Knows what is resident and what a step needs for a moment; does not know fragmentation, or a backend's own caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tuner.model.architecture import Architecture
from tuner.model.catalogue import GIB, Accelerator
from tuner.model.checkpoint import weight_parts
from tuner.model.settings import EngineSettings

# The engine's default, for the whole replica, when drafting and no value was given (sglang 0.5.23, speculative_hook).
SPECULATIVE_MAX_RUNNING = 48
# sglang bounds its own default to [2048, 4096] (0.5.23, kv_cache_configurator); long contexts get the lower end.
DEFAULT_MAX_RUNNING = 2048

_MIB = 1024**2
# Largest single allocation of a prefill step. Calibrated on GLM-5.2, MI355X: 6.86 GiB at a chunk of 131,072 tokens
# and 1.7 GiB at 32,768 (InferenceX recipe notes) = 56 kB per token = 9.15 bytes per hidden dimension.
_TRANSIENT_BYTES_PER_TOKEN_DIM = 9.15
# What lives beside it (residuals, expanded expert inputs and outputs, queries, top-k). Calibrated on the same failure:
# 5.15 GiB were left of (1 - 0.85) x 286.5 GiB when it asked, less runtime and graphs = 30.7 GiB = 251 kB per token.
_WORKSPACE_BYTES_PER_TOKEN_DIM = 41.0
# Device context and kernel images, then collective buffers. Assumed: the sum enters the calibration above as a whole.
_RUNTIME_BYTES = 3 * GIB
_COLLECTIVE_BYTES = 2 * GIB
# Decode graphs: 2 MB per captured request, 3 MB more per request and attention rank under attention DP, as in sglang's
# own reserve (0.5.23, memory_hook). The constant part and the share of draft graphs are assumed.
_GRAPH_BASE_BYTES = GIB
_GRAPH_BYTES_PER_REQUEST = 2 * _MIB
_GRAPH_BYTES_PER_REQUEST_AND_RANK = 3 * _MIB
_DRAFT_GRAPHS = 1.5


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of one GPU. `kv_capacity_tokens` is the KV pool of one scheduler (it may be 0, never negative)."""

    arch: Architecture
    acc: Accelerator
    settings: EngineSettings
    max_context_tokens: int
    weights_bytes: float
    kv_bytes_per_token: float
    transient_bytes: float
    workspace_bytes: float
    graph_bytes: float
    runtime_bytes: float
    kv_capacity_tokens: int

    @property
    def static_budget_bytes(self) -> float:
        """What `mem_fraction` grants to weights and KV cache."""
        return self.settings.mem_fraction * self.acc.hbm_bytes

    @property
    def activation_bytes(self) -> float:
        """Everything a prefill step needs for a moment."""
        return self.transient_bytes + self.workspace_bytes

    @property
    def static_margin_gib(self) -> float:
        """Left of the static budget once weights and one request of the longest context are in."""
        needed = self.weights_bytes + self.kv_bytes_per_token * self.max_context_tokens
        return (self.static_budget_bytes - needed) / GIB

    @property
    def dynamic_margin_gib(self) -> float:
        """Left of the rest once activations, graphs and runtime are in."""
        needed = self.activation_bytes + self.graph_bytes + self.runtime_bytes
        return (self.acc.hbm_bytes - self.static_budget_bytes - needed) / GIB

    @property
    def margin_gib(self) -> float:
        """The smaller of both margins; negative: does not fit."""
        return min(self.static_margin_gib, self.dynamic_margin_gib)

    @property
    def binds(self) -> Literal["weights and KV cache", "activations and graphs"]:
        """Which of both margins is the smaller one."""
        if self.static_margin_gib <= self.dynamic_margin_gib:
            return "weights and KV cache"
        return "activations and graphs"

    @property
    def fits(self) -> bool:
        return self.margin_gib >= 0 and self.kv_capacity_tokens >= self.max_context_tokens

    def explain(self) -> list[str]:
        """The arithmetic for people, one term a line, GiB per GPU."""
        lines = [_part_line(p.label, p.params, p.bits, p.gpus) for p in weight_parts(self.arch, self.settings)]
        kv = self.kv_bytes_per_token * self.max_context_tokens / GIB
        share = self.settings.mem_fraction
        lines += [
            f"weights together: {_gib(self.weights_bytes)}",
            (
                f"KV cache: {self.kv_bytes_per_token / 1e3:.1f} kB a token ({self.settings.kv_dtype})"
                f" x {self.max_context_tokens:,} tokens of the longest request = {kv:.1f} GiB"
            ),
            (
                f"static budget: {share:g} x {_gib(self.acc.hbm_bytes)} = {_gib(self.static_budget_bytes)};"
                f" left {self.static_margin_gib:+.1f} GiB"
            ),
            f"KV capacity: {self.kv_capacity_tokens:,} tokens per scheduler, {self.settings.schedulers} scheduler(s)",
            (
                f"prefill step of {chunk_tokens(self.settings, self.max_context_tokens):,} tokens:"
                f" {_gib(self.transient_bytes)} at once beside {_gib(self.workspace_bytes)} of buffers"
            ),
            f"graphs {_gib(self.graph_bytes)}, runtime and collectives {_gib(self.runtime_bytes)}",
            (
                f"beside the static budget: {1 - share:.2g} x {_gib(self.acc.hbm_bytes)};"
                f" left {self.dynamic_margin_gib:+.1f} GiB"
            ),
        ]
        verdict = "fits" if self.fits else "does not fit"
        return [*lines, f"{verdict}: {self.binds} decide, {self.margin_gib:+.1f} GiB"]


def plan_memory(arch: Architecture, acc: Accelerator, settings: EngineSettings, max_context_tokens: int) -> MemoryPlan:
    """Memory of one GPU under `settings`, for requests of up to `max_context_tokens` (prompt and answer)."""
    weights = sum(part.bytes_per_gpu for part in weight_parts(arch, settings))
    kv_bytes = kv_bytes_per_token(arch, settings)
    token_dims = float(chunk_tokens(settings, max_context_tokens)) * arch.hidden
    return MemoryPlan(
        arch=arch,
        acc=acc,
        settings=settings,
        max_context_tokens=max_context_tokens,
        weights_bytes=weights,
        kv_bytes_per_token=kv_bytes,
        transient_bytes=token_dims * _TRANSIENT_BYTES_PER_TOKEN_DIM,
        workspace_bytes=token_dims * _WORKSPACE_BYTES_PER_TOKEN_DIM,
        graph_bytes=_graph_bytes(settings),
        runtime_bytes=float(_RUNTIME_BYTES + (_COLLECTIVE_BYTES if settings.tp > 1 else 0)),
        kv_capacity_tokens=_kv_capacity(settings, settings.mem_fraction * acc.hbm_bytes - weights, kv_bytes),
    )


def kv_bytes_per_token(arch: Architecture, settings: EngineSettings) -> float:
    """KV bytes of one token on one GPU of the attention group that holds it.

    Latent attention has one "head" that every rank of the group needs: replicated, not sharded. Grouped heads are
    sharded down to one per GPU. Attention DP splits requests, not tokens: the same bytes, more pools.
    """
    total = arch.kv_bytes_per_token(settings.kv_dtype, mtp=settings.speculation_steps > 0)
    if arch.attention == "mla":
        return total
    group = max(1, settings.tp // settings.attn_dp)
    return total * max(1.0, arch.kv_heads / group) / arch.kv_heads


def chunk_tokens(settings: EngineSettings, max_context_tokens: int) -> int:
    """Largest prefill step of one scheduler; without chunking a whole prompt, or several up to the prefill budget."""
    if settings.chunked_prefill_tokens > 0:
        return settings.chunked_prefill_tokens
    return max(settings.max_prefill_tokens, max_context_tokens)


def max_running(settings: EngineSettings) -> int:
    """Requests one scheduler runs at once, the engine's default where nothing was given."""
    given = settings.max_running_per_scheduler
    if given is not None:
        return given
    default = SPECULATIVE_MAX_RUNNING if settings.speculation_steps else DEFAULT_MAX_RUNNING
    return max(1, default // settings.attn_dp)


def _kv_capacity(settings: EngineSettings, free_bytes: float, kv_bytes: float) -> int:
    tokens = max(0, int(free_bytes / kv_bytes))
    if settings.max_total_tokens is not None:
        tokens = min(tokens, settings.max_total_tokens)
    return tokens // settings.page_size * settings.page_size


def _graph_bytes(settings: EngineSettings) -> float:
    captured = min(settings.decode_graph_max_batch, max_running(settings))
    per_request = _GRAPH_BYTES_PER_REQUEST * (_DRAFT_GRAPHS if settings.speculation_steps else 1.0)
    if settings.attn_dp > 1:
        per_request += _GRAPH_BYTES_PER_REQUEST_AND_RANK * settings.attn_dp
    return _GRAPH_BASE_BYTES + captured * per_request


def _part_line(label: str, params: int, bits: float, gpus: int) -> str:
    spread = f" / {gpus} GPUs" if gpus > 1 else ""
    size = params * bits / 8 / gpus
    return f"{label}: {params / 1e9:.1f} B parameters x {bits:.4g} bit{spread} = {_gib(size)}"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
