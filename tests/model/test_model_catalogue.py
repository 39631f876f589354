"""The catalogue: published sizes from published shapes, a user's config.json, and errors that help."""

from __future__ import annotations

import json

import pytest

from tuner.errors import UsageError
from tuner.model.calibration import calibration
from tuner.model.catalogue import accelerator, accelerators, architecture, architectures, tokens_per_verify

QWEN_MOE = {
    "model_type": "qwen3_moe",
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "vocab_size": 151936,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}
LLAMA_8B = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
}


def write(folder, doc):
    file = folder / "config.json"
    file.write_text(json.dumps(doc), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("name", "total_b", "active_b", "tolerance"),
    [("glm-5.2", 743.4, 40.0, 0.01), ("glm-5", 743.4, 40.0, 0.025), ("deepseek-v3", 671, 37, 0.02)],
)
def test_published_sizes_follow_from_the_shapes(name, total_b, active_b, tolerance):
    arch = architecture(name)
    assert arch.total_params / 1e9 == pytest.approx(total_b, rel=0.005)
    assert arch.active_params / 1e9 == pytest.approx(active_b, rel=tolerance)


def test_glm_52_shares_indexers_and_glm_5_does_not():
    shared, own = architecture("glm-5.2"), architecture("glm-5")
    assert (shared.index_layers, own.index_layers) == (21, 78)
    assert shared.routed_params / 1e9 == pytest.approx(724.8, rel=1e-3)


def test_latent_kv_cache_has_published_bytes():
    """78 layers x 576 values = 44.9 kB in fp8, twice that in bf16; indexer keys 2.8 kB on top."""
    arch = architecture("glm-5.2")
    keys = arch.index_layers * arch.index_bytes_per_layer
    assert keys == pytest.approx(2772)
    assert arch.kv_bytes_per_token("fp8") - keys == pytest.approx(44_928)
    assert arch.kv_bytes_per_token("bf16") - keys == pytest.approx(89_856)
    assert arch.kv_bytes_per_token("fp8", mtp=True) > arch.kv_bytes_per_token("fp8")


def test_sparse_attention_work_is_capped_at_top_k_and_full_attention_is_not():
    sparse, full = architecture("glm-5.2"), architecture("deepseek-v3")
    assert sparse.attention_flops_per_token(16_000) == pytest.approx(25e9, rel=0.01)
    assert sparse.attention_flops_per_token(40_000) < 1.3 * sparse.attention_flops_per_token(16_000)
    assert full.attention_flops_per_token(40_000) == pytest.approx(2.5 * full.attention_flops_per_token(16_000))


@pytest.mark.parametrize(("alias", "same_as"), [("GLM-5.1", "glm-5"), ("deepseek-r1", "deepseek-v3")])
def test_aliases_and_case_do_not_matter(alias, same_as):
    assert architecture(alias) == architecture(same_as)
    assert accelerator(" MI355X ") == accelerator("mi355x")


@pytest.mark.parametrize("name", accelerators())
def test_every_accelerator_is_complete(name):
    acc = accelerator(name)
    assert acc.resource_name == f"{acc.vendor}.com/gpu"
    assert 0 < acc.price.low_usd <= acc.price.high_usd < 20
    assert acc.price.as_of
    assert acc.price.source
    assert acc.source
    assert acc.flops("bf16") < acc.flops("fp8")
    assert {"bf16", "fp8"} <= acc.precisions
    assert ("mxfp4" in acc.precisions, "nvfp4" in acc.precisions) in [
        (False, False),
        (amd := acc.vendor == "amd", not amd),
    ]
    assert 0 < calibration().stack(acc.vendor).gather_efficiency < 1


def test_a_format_without_hardware_runs_at_bf16_speed():
    assert accelerator("h200").flops("fp4") == accelerator("h200").flops("bf16")


@pytest.mark.parametrize("name", architectures())
def test_every_architecture_has_an_acceptance_curve_that_grows(name):
    arch = architecture(name)
    lengths = [tokens_per_verify(arch, k) for k in range(12)]
    assert lengths[0] == 1.0
    assert lengths == sorted(lengths)
    assert all(length <= k + 1 for k, length in enumerate(lengths))


def test_published_acceptance_of_three_steps():
    assert tokens_per_verify(architecture("glm-5.2"), 3) == 2.99


@pytest.mark.parametrize(
    ("look_up", "name", "hint"),
    [
        (accelerator, "mi355", "mi355x"),
        (accelerator, "B20O", "b200"),
        (accelerator, "tpu", "known are b200, b300"),
        (architecture, "glm5.2", "glm-5.2"),
        (architecture, "zzz", "path of a config.json"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(look_up, name, hint):
    with pytest.raises(UsageError, match=hint) as caught:
        look_up(name)
    assert repr(name) in str(caught.value)


def test_a_dense_gqa_config_is_read(tmp_path):
    arch = architecture(str(write(tmp_path, LLAMA_8B)))
    assert arch.total_params / 1e9 == pytest.approx(8.03, rel=0.005)
    assert arch.routed_params == 0
    assert arch.kv_bytes_per_token("bf16") == 131_072  # 2 x 8 heads x 128 x 2 bytes x 32 layers
    assert tokens_per_verify(arch, 2) == tokens_per_verify(architecture("glm-5.2"), 2)


def test_a_moe_gqa_config_is_read_from_its_folder(tmp_path):
    write(tmp_path, QWEN_MOE)
    arch = architecture(str(tmp_path))
    assert arch.name == tmp_path.name
    assert arch.total_params / 1e9 == pytest.approx(30.5, rel=0.01)
    assert arch.active_params / 1e9 == pytest.approx(3.3, rel=0.1)  # counted with the embedding by its makers


def test_a_multimodal_wrapper_is_read_by_its_text_config(tmp_path):
    wrapped = architecture(str(write(tmp_path, {"model_type": "vl", "text_config": QWEN_MOE})))
    assert wrapped.total_params == pytest.approx(30.5e9, rel=0.01)


@pytest.mark.parametrize(
    ("change", "dense"),
    [
        ({"first_k_dense_replace": 3}, 3),
        ({"mlp_only_layers": [0, 5]}, 2),
        ({"decoder_sparse_step": 2}, 24),
        ({"decoder_sparse_step": None, "moe_layer_freq": 1}, 0),
    ],
)
def test_layers_without_experts_are_counted_by_each_convention(tmp_path, change, dense):
    assert architecture(str(write(tmp_path, QWEN_MOE | change))).dense_layers == dense


def test_an_explicit_list_of_indexers_is_counted(tmp_path):
    sparse = {"index_topk": 2048, "index_n_heads": 32, "index_head_dim": 128}
    kinds = ["full", "shared"] * 24
    assert architecture(str(write(tmp_path, QWEN_MOE | sparse | {"indexer_types": kinds}))).index_layers == 24


@pytest.mark.parametrize(
    ("doc", "says"),
    [
        ({k: v for k, v in LLAMA_8B.items() if k != "num_hidden_layers"}, "lacks num_hidden_layers"),
        ({k: v for k, v in QWEN_MOE.items() if k != "num_experts_per_tok"}, "lacks num_experts_per_tok or moe_top_k"),
        (LLAMA_8B | {"hidden_size": "4096"}, "hidden_size is '4096'"),
        (LLAMA_8B | {"num_attention_heads": 0}, "num_attention_heads is 0"),
        (LLAMA_8B | {"kv_lora_rank": 512}, "lacks qk_nope_head_dim"),
        (LLAMA_8B | {"layer_types": ["linear_attention", "full_attention"]}, "cannot price"),
        (LLAMA_8B | {"is_encoder_decoder": True}, "cannot price"),
        ([1, 2], "no JSON object"),
    ],
)
def test_a_config_that_lacks_what_is_needed_says_what(tmp_path, doc, says):
    file = write(tmp_path, doc)
    with pytest.raises(UsageError, match=says) as caught:
        architecture(str(file))
    assert str(file) in str(caught.value)


def test_an_unreadable_config_names_the_file(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match=r"broken\.json: not a JSON document"):
        architecture(str(broken))
    with pytest.raises(UsageError, match=r"missing\.json: cannot read"):
        architecture(str(tmp_path / "missing.json"))
