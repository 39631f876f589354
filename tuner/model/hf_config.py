"""Reads a Hugging Face config.json of a dense or mixture-of-experts decoder into an `Architecture`.

Takes GQA and latent-attention (DeepSeek style) decoders by their usual key names; refuses what the model cannot
price (state-space or linear attention, encoders) instead of guessing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.errors import UsageError
from tuner.model.architecture import Architecture

_EXPERT_KEYS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
_TIED = ("gemma", "cohere", "qwen2_vl_text")  # families whose configs say nothing and tie embedding and head
_UNPRICED = ("ssm_cfg", "mamba_d_state", "linear_num_value_heads", "rwkv")


class _Config:
    """Look-ups in one config document; every miss says which file lacks which key."""

    def __init__(self, doc: Mapping[str, Any], where: str) -> None:
        self.doc, self.where = doc, where

    def need(self, *names: str) -> int:
        for name in names:
            if self.doc.get(name) is not None:
                return self._int(name)
        hint = "give the config.json of a decoder-only model or a catalogue name"
        raise UsageError(f"{self.where}: lacks {' or '.join(names)}; {hint}")

    def get(self, *names: str, default: int = 0) -> int:
        for name in names:
            if self.doc.get(name) is not None:
                return self._int(name)
        return default

    def _int(self, name: str) -> int:
        value = self.doc[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UsageError(f"{self.where}: {name} is {value!r}; expected a whole number of at least 0")
        return value


def read_config(path: Path) -> Architecture:
    """The architecture in a config.json (or in the config.json of a model folder). Raises UsageError."""
    file = path / "config.json" if path.is_dir() else path
    try:
        doc = json.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise UsageError(f"{file}: cannot read the model's config: {exc.strerror}; check the path") from exc
    except ValueError as exc:
        raise UsageError(f"{file}: not a JSON document ({exc}); expected a Hugging Face config.json") from exc
    if not isinstance(doc, dict):
        raise UsageError(f"{file}: holds no JSON object; expected a Hugging Face config.json")
    name = str(doc.get("_name_or_path") or file.resolve().parent.name)
    return from_config(doc, name=name, where=str(file), source=str(file))


def from_config(
    doc: Mapping[str, Any], *, name: str, where: str, source: str, acceptance_curve: str = ""
) -> Architecture:
    """The architecture a config document describes. Raises UsageError that names `where` and the missing key."""
    inner = doc.get("text_config")  # multimodal wrappers keep the decoder inside
    config = _Config({**doc, **inner} if isinstance(inner, Mapping) else doc, where)
    _refuse_unpriced(config)
    fields: dict[str, Any] = {
        "layers": _positive(config, "num_hidden_layers"),
        "hidden": _positive(config, "hidden_size"),
        "vocab": _positive(config, "vocab_size"),
        "heads": _positive(config, "num_attention_heads"),
        "max_context_tokens": config.need("max_position_embeddings"),
        "mtp_layers": config.get("num_nextn_predict_layers"),
        "tied_embeddings": _tied(config),
    }
    fields.update(_attention(config, fields["hidden"], fields["heads"]))
    fields.update(_feed_forward(config, fields["layers"]))
    fields.update(_indexer(config, fields["layers"]))
    return Architecture(name=name, source=source, acceptance_curve=acceptance_curve, **fields)


def _tied(config: _Config) -> bool:
    said = config.doc.get("tie_word_embeddings")
    return str(config.doc.get("model_type", "")).startswith(_TIED) if said is None else bool(said)


def _positive(config: _Config, name: str) -> int:
    value = config.need(name)
    if value == 0:
        raise UsageError(f"{config.where}: {name} is 0; expected a whole number above 0")
    return value


def _refuse_unpriced(config: _Config) -> None:
    kinds = config.doc.get("layer_types") or ()
    linear = any("linear" in str(kind) or "mamba" in str(kind) for kind in kinds)
    if linear or config.doc.get("is_encoder_decoder") or any(config.doc.get(key) for key in _UNPRICED):
        kind = config.doc.get("model_type", "this model type")
        raise UsageError(
            f"{config.where}: {kind} has layers the engine model cannot price (state-space, linear attention or an"
            " encoder); it prices decoders with GQA or latent attention"
        )


def _attention(config: _Config, hidden: int, heads: int) -> dict[str, Any]:
    if config.get("kv_lora_rank"):
        return {
            "attention": "mla",
            "head_dim": config.need("qk_nope_head_dim"),
            "rope_dim": config.need("qk_rope_head_dim"),
            "value_dim": config.need("v_head_dim"),
            "latent_dim": config.need("kv_lora_rank"),
            "q_rank": config.get("q_lora_rank"),
            "kv_heads": 1,
        }
    head_dim = config.get("head_dim", default=hidden // heads)
    kv_heads = config.get("num_key_value_heads", default=heads)
    return {"attention": "gqa", "head_dim": head_dim, "value_dim": head_dim, "kv_heads": kv_heads}


def _feed_forward(config: _Config, layers: int) -> dict[str, int]:
    experts = config.get(*_EXPERT_KEYS)
    if not experts:
        _refuse_unread_experts(config)
        return {"dense_ffn": config.need("intermediate_size"), "dense_layers": layers}
    expert_ffn = config.need("moe_intermediate_size", "intermediate_size")
    shared = config.get("shared_expert_intermediate_size", default=_shared_experts(config) * expert_ffn)
    return {
        "experts": experts,
        "experts_per_token": config.need("num_experts_per_tok", "moe_top_k", "moe_k"),
        "expert_ffn": expert_ffn,
        "shared_ffn": shared,
        "dense_ffn": config.need("intermediate_size_mlp", "intermediate_size"),
        "dense_layers": _dense_layers(config, layers),
    }


def _shared_experts(config: _Config) -> int:
    """Shared experts of a layer; Llama 4 has one and no key for it."""
    llama4 = str(config.doc.get("model_type", "")).startswith("llama4")
    return config.get("n_shared_experts", "moe_num_shared_experts", default=int(llama4))


def _refuse_unread_experts(config: _Config) -> None:
    """Experts under names we do not read would be priced as a small dense model."""
    nested = config.doc.get("ffn_config")  # DBRX
    holders = [config.doc, nested] if isinstance(nested, Mapping) else [config.doc]
    unread = [k for doc in holders for k, v in doc.items() if "expert" in k and (isinstance(v, list) or _many(v))]
    if unread:
        raise UsageError(
            f"{config.where}: {unread[0]} speaks of experts, but none of {', '.join(_EXPERT_KEYS)} is there; "
            "give their number under one of these names"
        )


def _many(value: Any) -> bool:
    return isinstance(value, int) and value > 1


def _dense_layers(config: _Config, layers: int) -> int:
    """Layers without experts: a list of marks, or DeepSeek's `first_k_dense_replace` and Qwen's `mlp_only_layers`."""
    marks = config.doc.get("moe_layer_freq")
    if isinstance(marks, list):
        return sum(1 for mark in marks[:layers] if not mark)
    moe = config.doc.get("moe_layers")
    if isinstance(moe, list):
        return layers - len(moe)
    first = min(config.get("first_k_dense_replace"), layers)
    only = set(config.doc.get("mlp_only_layers") or ())
    every = config.get("moe_layer_freq", "decoder_sparse_step", "interleave_moe_layer_step", default=1) or 1
    return sum(1 for i in range(layers) if i < first or i in only or (every > 1 and (i + 1) % every))


def _indexer(config: _Config, layers: int) -> dict[str, int]:
    if not config.get("index_topk"):
        return {}
    return {
        "index_topk": config.need("index_topk"),
        "index_heads": config.need("index_n_heads"),
        "index_dim": config.need("index_head_dim"),
        "index_layers": _own_indexers(config, layers),
    }


def _own_indexers(config: _Config, layers: int) -> int:
    """Layers that compute their own top-k; with index sharing the others reuse the one of an earlier layer."""
    kinds = config.doc.get("indexer_types")
    if isinstance(kinds, list):
        return sum(1 for kind in kinds[:layers] if kind == "full")
    every, offset = max(1, config.get("index_topk_freq", default=1)), config.get("index_skip_topk_offset")
    return sum(1 for i in range(layers) if max(i - offset + 1, 0) % every == 0)
