"""Step times: published timings the constants were fitted to, and what physics says must grow with what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.curves import LoadCurve

from tuner.model.catalogue import accelerator, architecture
from tuner.model.protocol import StepTimes
from tuner.model.settings import EngineSettings
from tuner.model.steps import RooflineSteps
from tuner.space.workload import Length, Workload

DRAFTING = {"speculation_steps": 3, "draft_tokens": 4}


def settings(**changes) -> EngineSettings:
    return EngineSettings(**({"tp": 4, "precision": "mxfp4", "kv_dtype": "fp8"} | changes))


def steps(acc="mi355x", arch="glm-5.2", **changes) -> RooflineSteps:
    return RooflineSteps(architecture(arch), accelerator(acc), settings(**changes))


def test_prefill_of_8k_uncached_on_mi355x_mxfp4():
    """Wafer, GLM-5.2, 20k in with 60 % cached, idle: TTFT 0.59 s of which 0.55 s are the step."""
    assert steps().prefill_s(8000, 16_000) == pytest.approx(0.55, rel=0.15)


def test_prefill_of_8k_after_12k_cached_on_b200_nvfp4():
    """Aiconfigurator's estimate for GLM-5 NVFP4 TP4."""
    assert steps("b200", precision="nvfp4").prefill_s(8000, 16_000) == pytest.approx(0.34, rel=0.20)


@pytest.mark.parametrize("concurrency", [4, 8, 16, 32, 64])
@pytest.mark.parametrize(
    ("acc", "changes", "base_ms", "slope_ms", "tolerance"),
    [
        ("mi355x", {"precision": "fp8", "tp": 4}, 21.1, 1.00, 0.15),
        ("b200", {"precision": "fp8", "tp": 8}, 17.0, 0.59, 0.20),
        ("b200", {"precision": "nvfp4", "tp": 4} | DRAFTING, 6.9, 0.48, 0.20),
    ],
)
def test_tpot_over_concurrency_follows_the_measured_lines(acc, changes, base_ms, slope_ms, tolerance, concurrency):
    """InferenceX GLM-5 8k/1k, sglang 0.5.12: fits to the measured TPOT, prefill stalls of the others included."""
    model = steps(acc, "glm-5", **changes)
    traffic = Workload(Length.fixed(8192), Length.fixed(1024))
    curve = LoadCurve(model, settings(max_running_requests=256, **changes), traffic, kv_tokens=10**7)
    tpot_ms = curve.at(concurrency).tpot_s * 1e3
    assert tpot_ms == pytest.approx(base_ms + slope_ms * concurrency, rel=tolerance)


def test_the_model_is_what_the_scheduler_expects():
    model: StepTimes = steps(**DRAFTING)
    assert model.tokens_per_verify == 2.99
    assert 0 < model.request_overhead_s < 0.1


def test_every_step_pays_for_its_scheduling_where_it_is_not_overlapped():
    overlapped, apart = steps(), steps(overlap=False)
    assert apart.decode_s(8, 1000) - overlapped.decode_s(8, 1000) == pytest.approx(1.5e-3)
    assert apart.prefill_s(800, 400) - overlapped.prefill_s(800, 400) == pytest.approx(1.5e-3)
    assert apart.breakdown_decode(8, 1000)["scheduling"] == pytest.approx(1.5e-3)


def test_fewer_verified_tokens_than_steps_limit_what_is_gained():
    assert steps(speculation_steps=5, draft_tokens=3).tokens_per_verify == 2.5
    assert steps().tokens_per_verify == 1.0


configurations = st.fixed_dictionaries(
    {
        "acc": st.sampled_from(["mi355x", "b200", "h200"]),
        "arch": st.sampled_from(["glm-5.2", "deepseek-v3"]),
        "precision": st.sampled_from(["fp8", "mxfp4", "nvfp4", "bf16"]),
        "kv_dtype": st.sampled_from(["fp8", "bf16"]),
        "speculation_steps": st.integers(0, 6),
        "overlap": st.booleans(),
    }
).flatmap(
    lambda doc: st.sampled_from([1, 2, 4, 8]).flatmap(
        lambda tp: st.fixed_dictionaries(
            {k: st.just(v) for k, v in doc.items()}
            | {
                "tp": st.just(tp),
                "attn_dp": st.sampled_from([d for d in (1, 2, 4, 8) if d <= tp]),
                "ep": st.sampled_from([1, tp]),
            }
        )
    )
)
contexts = st.floats(1, 200_000)


@given(configurations, st.integers(1, 4096), contexts, st.integers(1, 32_768))
def test_the_breakdown_adds_up(configuration, batch, context, tokens):
    model = steps(**configuration)
    assert sum(model.breakdown_decode(batch, context).values()) == pytest.approx(model.decode_s(batch, context))
    assert sum(model.breakdown_prefill(tokens, context, 2 * tokens).values()) == pytest.approx(
        model.prefill_s(tokens, context, 2 * tokens)
    )
    assert min(model.breakdown_decode(batch, context).values()) >= 0


@given(configurations, st.integers(1, 2000), contexts, st.integers(1, 2000), st.floats(0, 1e5))
def test_more_work_takes_longer_and_batching_pays(configuration, size, context, more, deeper):
    model = steps(**configuration)
    assert model.decode_s(size + more, context + deeper) >= model.decode_s(size, context) > 0
    assert model.prefill_s(size + more, context + deeper) >= model.prefill_s(size, context) > 0
    if size + more <= EngineSettings(tp=1, precision="fp8").decode_graph_max_batch:
        assert model.decode_s(size + more, context) / (size + more) <= model.decode_s(size, context) / size


@given(configurations, st.integers(1, 64), contexts)
def test_drafting_makes_a_step_longer(configuration, batch, context):
    off, on = (steps(**(configuration | {"speculation_steps": k})) for k in (0, 3))
    assert on.decode_s(batch, context) > off.decode_s(batch, context)
    assert on.prefill_s(8000, context) > off.prefill_s(8000, context)


def test_attention_dp_pays_for_full_steps_only():
    """A lone prompt or a small batch has its projections done by fewer GPUs; full ones share the gather."""
    whole, split = steps(tp=8), steps(tp=8, attn_dp=8)
    assert split.prefill_s(8000, 16_000) > whole.prefill_s(8000, 16_000)
    assert split.prefill_s(8000, 16_000, 64_000) < 8 * whole.prefill_s(8000, 16_000)
    assert split.decode_s(1, 16_000) > whole.decode_s(8, 16_000)
    assert split.decode_s(32, 16_000) < whole.decode_s(256, 16_000)


def test_sparse_attention_reads_a_full_latent_on_every_rank():
    """Tensor parallelism does not shorten the gather: the reason attention DP exists."""
    terms = [steps(tp=tp).breakdown_prefill(8000, 16_000)["attention"] for tp in (2, 8)]
    assert terms[0] == pytest.approx(terms[1])
    dense = [steps(arch="deepseek-v3", tp=tp).breakdown_prefill(8000, 16_000)["attention"] for tp in (2, 8)]
    assert dense[0] == pytest.approx(4 * dense[1])


def test_a_batch_beyond_the_captured_graphs_pays_for_launches():
    model = steps(decode_graph_max_batch=32)
    jump = model.decode_s(33, 8000) - model.decode_s(32, 8000)
    assert jump > 5 * (model.decode_s(32, 8000) - model.decode_s(31, 8000))


def test_expert_parallel_ranks_wait_for_the_busiest_at_small_batches_only():
    sliced, parallel = steps(tp=8), steps(tp=8, ep=8)
    read = "weights read"
    assert parallel.breakdown_decode(4, 8000)[read] > 1.2 * sliced.breakdown_decode(4, 8000)[read]
    assert parallel.breakdown_decode(512, 8000)[read] == pytest.approx(
        sliced.breakdown_decode(512, 8000)[read], rel=0.05
    )


def test_a_dense_model_has_no_expert_terms():
    """Catalogue shapes are mixtures; a dense decoder of the same width prices without division by its experts."""
    from dataclasses import replace

    glm = architecture("glm-5.2")
    dense = replace(glm, experts=0, experts_per_token=0, shared_ffn=0, dense_layers=glm.layers, mtp_layers=0)
    model = RooflineSteps(dense, accelerator("b200"), settings(precision="fp8"))
    assert model.breakdown_decode(8, 1000)["expert compute"] == 0
    assert 0 < model.decode_s(8, 1000) < 0.1


def test_grouped_heads_are_read_once_per_shard():
    from dataclasses import replace

    gqa = replace(architecture("deepseek-v3"), attention="gqa", kv_heads=8, head_dim=128, rope_dim=0)
    reads = [
        RooflineSteps(gqa, accelerator("b200"), settings(tp=tp)).breakdown_decode(8, 50_000)["attention"]
        for tp in (2, 4)
    ]
    assert reads[0] == pytest.approx(2 * reads[1])
