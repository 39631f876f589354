"""A decoder's shape and what follows from it: parameters, KV bytes and attention work per token.

Knows nothing of precisions, GPUs or layouts. Counts what costs time or memory (matrices); norms, biases and
rotary tables are below 0.01 % and left out. Sliding windows are not modelled: attention is charged in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KvDtype = Literal["bf16", "fp8"]

INDEX_KEY_BYTES_PER_DIM = 132 / 128  # an indexer key is kept in fp8 with one fp32 scale per 128 values


@dataclass(frozen=True, slots=True)
class Architecture:
    """A dense or mixture-of-experts decoder with grouped-query (`gqa`) or latent (`mla`) attention.

    For `mla`, `head_dim` is the non-rotary query dimension, `rope_dim` the rotary one and `latent_dim` the rank of
    the KV latent. `index_layers` counts the layers with an indexer of their own (sparse attention, `index_topk`
    tokens attended); 0 means full attention. Without experts every layer has the dense feed-forward. `acceptance` is a
    user's own curve of tokens per verify step by drafts; without one `acceptance_curve` names a published one.
    """

    name: str
    source: str
    acceptance_curve: str
    layers: int
    hidden: int
    vocab: int
    heads: int
    attention: Literal["gqa", "mla"]
    head_dim: int
    value_dim: int
    kv_heads: int
    dense_ffn: int
    dense_layers: int
    max_context_tokens: int
    q_rank: int = 0
    latent_dim: int = 0
    rope_dim: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    mtp_layers: int = 0
    index_layers: int = 0
    index_heads: int = 0
    index_dim: int = 0
    index_topk: int = 0
    tied_embeddings: bool = False
    acceptance: tuple[float, ...] = ()

    # ---- parameters -------------------------------------------------------------------------------------------

    @property
    def moe_layers(self) -> int:
        return self.layers - self.dense_layers

    @property
    def expert_params(self) -> int:
        """One routed expert of one layer: gate, up and down projection."""
        return 3 * self.hidden * self.expert_ffn

    @property
    def routed_params(self) -> int:
        """All routed experts of all layers (without the MTP layer)."""
        return self.moe_layers * self.experts * self.expert_params

    @property
    def active_routed_params(self) -> int:
        return self.moe_layers * self.experts_per_token * self.expert_params

    @property
    def shared_params(self) -> int:
        """Shared experts of all layers: quantised with the routed ones by some checkpoints."""
        return self.moe_layers * 3 * self.hidden * self.shared_ffn

    @property
    def low_rank_params(self) -> int:
        """Down-projections of latent attention, all layers: every tensor-parallel rank holds them whole."""
        if self.attention == "gqa":
            return 0
        return self.layers * self.hidden * (self.q_rank + self.latent_dim + self.rope_dim)

    @property
    def attention_params_per_layer(self) -> int:
        """Projections of one layer, without its indexer."""
        if self.attention == "gqa":
            return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        query_dim = self.heads * (self.head_dim + self.rope_dim)
        query = self.q_rank * (self.hidden + query_dim) if self.q_rank else self.hidden * query_dim
        latent = self.hidden * (self.latent_dim + self.rope_dim)
        up = self.latent_dim * self.heads * (self.head_dim + self.value_dim)
        return query + latent + up + self.heads * self.value_dim * self.hidden

    @property
    def kv_up_params(self) -> int:
        """Up-projections from the latent, all layers: absorbed into bf16 copies whatever the checkpoint's precision."""
        return self.layers * self.latent_dim * self.heads * (self.head_dim + self.value_dim)

    @property
    def indexer_params(self) -> int:
        """Query, key and weight projections of the sparse-attention indexers: whole on every rank."""
        per_layer = (self.q_rank or self.hidden) * self.index_heads * self.index_dim
        per_layer += self.hidden * (self.index_dim + self.index_heads)
        return self.index_layers * per_layer

    @property
    def dense_ffn_params(self) -> int:
        return self.dense_layers * 3 * self.hidden * self.dense_ffn

    @property
    def router_params(self) -> int:
        return self.moe_layers * self.hidden * self.experts

    @property
    def embedding_params(self) -> int:
        """Token embedding and output head."""
        return self.vocab * self.hidden * (1 if self.tied_embeddings else 2)

    @property
    def rest_params(self) -> int:
        """Everything but the routed experts."""
        attention = self.layers * self.attention_params_per_layer + self.indexer_params
        return attention + self.dense_ffn_params + self.shared_params + self.router_params + self.embedding_params

    @property
    def total_params(self) -> int:
        return self.routed_params + self.rest_params

    @property
    def active_rest_params(self) -> int:
        """What every token multiplies beside routed experts: the output head counts, the embedding look-up does not."""
        return self.rest_params - self.embedding_params + self.vocab * self.hidden

    @property
    def active_params(self) -> int:
        return self.active_routed_params + self.active_rest_params

    @property
    def mtp_routed_params(self) -> int:
        return self.mtp_layers * self.experts * self.expert_params

    @property
    def mtp_rest_params(self) -> int:
        """Attention, shared expert and input projection of the draft layers; embedding and head are the target's."""
        ffn = 3 * self.hidden * (self.shared_ffn if self.experts else self.dense_ffn) + self.hidden * self.experts
        return self.mtp_layers * (self.attention_params_per_layer + ffn + 2 * self.hidden * self.hidden)

    @property
    def mtp_params(self) -> int:
        return self.mtp_routed_params + self.mtp_rest_params

    # ---- KV cache ---------------------------------------------------------------------------------------------

    def kv_bytes_per_layer(self, dtype: KvDtype) -> float:
        """KV cache of one token in one layer, over all heads; a latent has no heads."""
        width = 1 if dtype == "fp8" else 2
        if self.attention == "mla":
            return (self.latent_dim + self.rope_dim) * width
        return self.kv_heads * (self.head_dim + self.value_dim) * width

    @property
    def index_bytes_per_layer(self) -> float:
        return self.index_dim * INDEX_KEY_BYTES_PER_DIM

    def kv_bytes_per_token(self, dtype: KvDtype, *, mtp: bool = False) -> float:
        """KV cache of one token in all layers with the indexers' keys; with the draft layers' own if `mtp`."""
        per_layer = self.kv_bytes_per_layer(dtype)
        total = self.layers * per_layer + self.index_layers * self.index_bytes_per_layer
        if mtp:
            total += self.mtp_layers * (per_layer + (self.index_bytes_per_layer if self.index_layers else 0.0))
        return total

    # ---- attention work ---------------------------------------------------------------------------------------

    @property
    def sparse(self) -> bool:
        return self.index_layers > 0

    def attended_tokens(self, context_tokens: float) -> float:
        """Tokens a query attends: all of its context, or the top-k of sparse attention."""
        return min(context_tokens, self.index_topk) if self.sparse else context_tokens

    @property
    def score_flops_per_token(self) -> float:
        """FLOPs of scores and values per query token and *attended* token, all layers.

        Sparse latent attention works on the latent itself (absorbed); full attention on expanded heads.
        """
        dims = 2 * self.latent_dim + self.rope_dim if self.sparse else self.head_dim + self.rope_dim + self.value_dim
        return 2.0 * self.heads * dims * self.layers

    @property
    def indexer_flops_per_token(self) -> float:
        """FLOPs of the indexers per query token and token of *context*, all layers."""
        return 2.0 * self.index_heads * self.index_dim * self.index_layers

    def attention_flops_per_token(self, context_tokens: float) -> float:
        """Attention FLOPs of one token that sees `context_tokens`, projections not counted."""
        attended = self.attended_tokens(context_tokens)
        return self.score_flops_per_token * attended + self.indexer_flops_per_token * context_tokens
