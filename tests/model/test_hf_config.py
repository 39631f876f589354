"""config.json files of decoders of many families: their published sizes, or one clear line."""

from __future__ import annotations

import pytest

from tuner.errors import UsageError
from tuner.model.catalogue import accelerator
from tuner.model.checkpoint import weight_parts
from tuner.model.hf_config import from_config
from tuner.model.memory import kv_bytes_per_token
from tuner.model.settings import EngineSettings
from tuner.model.steps import RooflineSteps


def keys(layers, hidden, vocab, heads, ffn, context, **more):
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "vocab_size": vocab,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "max_position_embeddings": context,
    } | more


LATENT = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
LLAMA_70B = keys(80, 8192, 128256, 64, 28672, 131072, model_type="llama", num_key_value_heads=8)
LLAMA_4 = keys(
    48, 5120, 202048, 40, 8192, 10485760,
    model_type="llama4_text", num_key_value_heads=8, head_dim=128, intermediate_size_mlp=16384, num_local_experts=16,
    num_experts_per_tok=1, interleave_moe_layer_step=1,
)  # fmt: skip
GPT_OSS = keys(
    36, 2880, 201088, 64, 2880, 131072,
    model_type="gpt_oss", num_key_value_heads=8, head_dim=64, num_local_experts=128, num_experts_per_tok=4,
    layer_types=["sliding_attention", "full_attention"] * 18, tie_word_embeddings=False,
    quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
)  # fmt: skip
QWEN_235B = keys(
    94, 4096, 151936, 64, 12288, 40960,
    model_type="qwen3_moe", num_key_value_heads=4, head_dim=128, moe_intermediate_size=1536, num_experts=128,
    num_experts_per_tok=8, decoder_sparse_step=1, mlp_only_layers=[],
)  # fmt: skip
KIMI_K2 = keys(
    61, 7168, 163840, 64, 18432, 131072,
    model_type="kimi_k2", q_lora_rank=1536, moe_intermediate_size=2048, n_routed_experts=384, num_experts_per_tok=8,
    n_shared_experts=1, first_k_dense_replace=1, num_nextn_predict_layers=0, **LATENT,
)  # fmt: skip
DEEPSEEK_LITE = keys(
    27, 2048, 102400, 16, 10944, 163840,
    model_type="deepseek_v2", q_lora_rank=None, moe_intermediate_size=1408, n_routed_experts=64,
    num_experts_per_tok=6, n_shared_experts=2, first_k_dense_replace=1, **LATENT,
)  # fmt: skip
GLM_45 = keys(
    92, 5120, 151552, 96, 12288, 131072,
    model_type="glm4_moe", num_key_value_heads=8, head_dim=128, moe_intermediate_size=1536, n_routed_experts=160,
    num_experts_per_tok=8, n_shared_experts=1, first_k_dense_replace=3, num_nextn_predict_layers=1,
)  # fmt: skip
MIXTRAL = keys(
    32, 4096, 32000, 32, 14336, 32768,
    model_type="mixtral", num_key_value_heads=8, head_dim=None, num_local_experts=8, num_experts_per_tok=2,
)  # fmt: skip
PUBLISHED = {
    "llama-70b": (LLAMA_70B, 70.6, 69.5),
    "llama-70b-fp8": (LLAMA_70B | {"quantization_config": {"quant_method": "fp8"}}, 70.6, 69.5),
    "llama-1b, tied": (
        keys(16, 2048, 128256, 32, 8192, 131072, num_key_value_heads=8, tie_word_embeddings=True), 1.24, 1.24,
    ),
    "llama2-7b, every head its own keys": (keys(32, 4096, 32000, 32, 11008, 4096, model_type="llama"), 6.74, 6.61),
    "gemma2-27b, tied without a word": (
        keys(46, 4608, 256000, 32, 36864, 8192, model_type="gemma2", num_key_value_heads=16, head_dim=128), 27.2, 27.2,
    ),
    "qwen3-235b": (QWEN_235B, 235, 22),
    "gpt-oss-120b": (GPT_OSS, 116.8, 5.1),
    "mixtral-8x7b": (MIXTRAL, 46.7, 12.9),
    "kimi-k2": (KIMI_K2, 1026, 32),
    "glm-4.5": (GLM_45, 353, 32),
    "deepseek-v2-lite": (DEEPSEEK_LITE, 15.7, 2.4),
    "llama4-scout": ({"model_type": "llama4", "text_config": LLAMA_4}, 109, 17),
    "llama4-maverick": (
        {"text_config": LLAMA_4 | {"num_local_experts": 128, "interleave_moe_layer_step": 2}}, 400, 17,
    ),
}  # fmt: skip


def read(doc):
    return from_config(doc, name="m", where="m/config.json", source="test")


@pytest.mark.parametrize(("doc", "total_b", "active_b"), PUBLISHED.values(), ids=PUBLISHED)
def test_families_have_their_published_sizes(doc, total_b, active_b):
    arch = read(doc)
    assert arch.total_params / 1e9 == pytest.approx(total_b, rel=0.015)
    assert arch.active_params / 1e9 == pytest.approx(active_b, rel=0.06)


@pytest.mark.parametrize("doc", [doc for doc, _, _ in PUBLISHED.values()], ids=PUBLISHED)
def test_families_are_priced_in_every_precision(doc):
    arch = read(doc)
    for precision in ("bf16", "fp8", "mxfp4", "nvfp4"):
        settings = EngineSettings(tp=8, precision=precision, kv_dtype="fp8")
        steps = RooflineSteps(arch, accelerator("b200"), settings)
        assert 0.0005 < steps.decode_s(4, 2000) < 0.1
        assert steps.prefill_s(4096, 2048) > steps.prefill_s(512, 256)
        assert kv_bytes_per_token(arch, settings) > 0


@pytest.mark.parametrize(
    ("doc", "dense"),
    [
        (GLM_45, 3),
        (GLM_45 | {"first_k_dense_replace": 0, "moe_layer_freq": [0, 1] * 46}, 46),
        (LLAMA_4 | {"moe_layers": [1, 3, 5]}, 45),
    ],
)
def test_lists_of_expert_layers_are_read(doc, dense):
    assert read(doc).dense_layers == dense


def test_a_dense_fp4_checkpoint_quantises_every_projection():
    """Nvidia's NVFP4 Llama 70B is about 42 GB: 4.5 bit a projection, embedding and head in bf16."""
    dense = sum(p.bytes_per_gpu for p in weight_parts(read(LLAMA_70B), EngineSettings(tp=1, precision="nvfp4")))
    assert dense / 1e9 == pytest.approx(42.5, rel=0.03)


def test_a_dense_model_multiplies_faster_in_narrow_formats_and_launches_less():
    arch, acc = read(LLAMA_70B), accelerator("b200")
    steps = {p: RooflineSteps(arch, acc, EngineSettings(tp=8, precision=p)) for p in ("bf16", "fp8", "nvfp4")}
    compute = {p: s.breakdown_prefill(8192, 4096)["projection compute"] for p, s in steps.items()}
    assert compute["bf16"] / compute["fp8"] == pytest.approx(1.68, rel=0.01)
    assert compute["fp8"] / compute["nvfp4"] == pytest.approx(1.68, rel=0.01)
    experts = RooflineSteps(read(QWEN_235B), acc, EngineSettings(tp=8, precision="bf16"))
    per_layer = {80: steps["bf16"], 94: experts}
    dense, moe = (s.breakdown_decode(1, 100)["launch"] / layers for layers, s in per_layer.items())
    assert dense == pytest.approx(0.6 * moe)


@pytest.mark.parametrize(
    ("doc", "words"),
    [
        ({"n_layer": 12, "n_embd": 768}, "lacks num_hidden_layers"),
        (LLAMA_70B | {"ffn_config": {"moe_num_experts": 16}}, "moe_num_experts speaks of experts"),
        (LLAMA_70B | {"num_moe_experts": 64}, "num_moe_experts speaks of experts"),
        (LLAMA_70B | {"layer_types": ["linear_attention"] * 80}, "cannot price"),
        ({k: v for k, v in MIXTRAL.items() if k != "num_experts_per_tok"}, "lacks num_experts_per_tok"),
        ({k: v for k, v in LLAMA_70B.items() if k != "intermediate_size"}, "lacks intermediate_size"),
        ({k: v for k, v in KIMI_K2.items() if k != "v_head_dim"}, "lacks v_head_dim"),
        (LLAMA_70B | {"num_key_value_heads": 8.0}, "num_key_value_heads is 8.0"),
    ],
)
def test_what_cannot_be_priced_is_refused_in_one_line(doc, words):
    with pytest.raises(UsageError, match=words) as caught:
        read(doc)
    assert str(caught.value).startswith("m/config.json: ")
    assert "\n" not in str(caught.value)
