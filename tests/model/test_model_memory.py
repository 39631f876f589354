"""The memory plan: published sizes and failures, and what must grow with what."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.model.catalogue import GIB, accelerator, architecture
from tuner.model.memory import MemoryPlan, max_running, plan_memory
from tuner.model.settings import EngineSettings

GLM = architecture("glm-5.2")
CONTEXT = 21_000


def plan(acc="mi355x", **changes) -> MemoryPlan:
    settings = {"tp": 8, "precision": "fp8", "kv_dtype": "fp8", "chunked_prefill_tokens": 32_768} | changes
    return plan_memory(GLM, accelerator(acc), EngineSettings(**settings), CONTEXT)


def test_fp8_at_tp8_takes_the_published_89_gib_per_gpu():
    assert plan().weights_bytes / GIB == pytest.approx(89, rel=0.02)


@pytest.mark.parametrize(
    ("precision", "steps", "whole_gb"),
    [
        ("fp8", 1, 753),  # zai-org/GLM-5.2-FP8 with its draft layer
        ("nvfp4", 1, 464.8),  # nvidia/GLM-5.2-NVFP4: 432.9 GiB as resolved
        ("nvfp4", 0, 445),
        ("mxfp4", 1, 437),  # amd/GLM-5.2-MXFP4
        ("bf16", 1, 1507),  # zai-org/GLM-5.2
    ],
)
def test_checkpoints_have_their_published_sizes(precision, steps, whole_gb):
    """On one GPU nothing is replicated: the plan's weights are the checkpoint (and bf16 copies beside fp8)."""
    weights = plan(tp=1, precision=precision, speculation_steps=steps).weights_bytes / 1e9
    assert weights == pytest.approx(whole_gb, rel=0.015)


@pytest.mark.parametrize(
    ("acc", "precision", "tp", "fits"),
    [
        ("mi355x", "fp8", 4, True),
        ("mi355x", "fp8", 2, False),
        ("b200", "fp8", 8, True),
        ("b200", "fp8", 4, False),
        ("mi355x", "mxfp4", 2, True),
        ("mi355x", "mxfp4", 1, False),
        ("b200", "nvfp4", 4, True),
        ("b200", "nvfp4", 2, False),
        ("mi355x", "bf16", 8, True),
        ("b200", "bf16", 8, False),
    ],
)
def test_the_fewest_gpus_that_hold_glm_52(acc, precision, tp, fits):
    got = plan(acc, precision=precision, tp=tp)
    assert got.fits is fits
    assert (got.margin_gib >= 0) is fits


@pytest.mark.parametrize(("chunk", "gib"), [(32_768, 1.7), (131_072, 6.86)])
def test_the_largest_allocation_of_a_prefill_step_is_the_reported_one(chunk, gib):
    assert plan(chunked_prefill_tokens=chunk).transient_bytes / GIB == pytest.approx(gib, rel=0.02)


@pytest.mark.parametrize(
    ("chunk", "mem_fraction", "fits"), [(131_072, 0.85, False), (131_072, 0.80, True), (32_768, 0.85, True)]
)
def test_the_reported_out_of_memory_is_foreseen_and_its_cures_fit(chunk, mem_fraction, fits):
    got = plan(
        tp=4, precision="mxfp4", max_running_requests=256, chunked_prefill_tokens=chunk, mem_fraction=mem_fraction
    )
    assert got.fits is fits
    if not fits:
        assert got.binds == "activations and graphs"


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"tp": 8, "attn_dp": 8, "chunked_prefill_tokens": 4096, "mem_fraction": 0.92, "max_running_requests": 256}, 2),
        ({"tp": 8, "chunked_prefill_tokens": 8192, "mem_fraction": 0.85}, 5),
        ({"tp": 4, "attn_dp": 4, "chunked_prefill_tokens": 4096, "mem_fraction": 0.88, "max_running_requests": 128}, 3),
    ],
)
def test_verified_b200_recipes_fit(settings, steps):
    assert plan("b200", precision="nvfp4", speculation_steps=steps, **settings).fits


def test_a_latent_cache_is_whole_on_every_rank_and_grouped_heads_are_sharded():
    assert plan(tp=8).kv_bytes_per_token == plan(tp=4).kv_bytes_per_token
    grouped = replace(GLM, attention="gqa", kv_heads=4, index_layers=0)
    mi355x = accelerator("mi355x")
    by_tp = [plan_memory(grouped, mi355x, EngineSettings(tp=tp, precision="mxfp4"), CONTEXT) for tp in (2, 4, 8)]
    assert by_tp[0].kv_bytes_per_token == 2 * by_tp[1].kv_bytes_per_token
    assert by_tp[1].kv_bytes_per_token == by_tp[2].kv_bytes_per_token  # a head is not split


def test_a_request_longer_than_the_pool_does_not_fit():
    got = plan(max_total_tokens=16_384)
    assert got.kv_capacity_tokens == 16_384
    assert not got.fits


def test_without_chunking_a_step_holds_the_longest_prompt():
    assert plan(chunked_prefill_tokens=-1).activation_bytes == plan(chunked_prefill_tokens=CONTEXT).activation_bytes


@pytest.mark.parametrize(
    ("settings", "requests"),
    [
        ({"max_running_requests": 100, "attn_dp": 8}, 12),
        ({"max_running_requests": 4, "attn_dp": 8}, 1),
        ({"speculation_steps": 3}, 48),
        ({}, 2048),
    ],
)
def test_requests_at_once_per_scheduler(settings, requests):
    assert max_running(EngineSettings(tp=8, precision="fp8", **settings)) == requests


def test_the_explanation_shows_the_arithmetic():
    lines = plan(speculation_steps=3).explain()
    assert "routed experts: 724.8 B parameters x 8.002 bit / 8 GPUs = 84.4 GiB" in lines
    assert any(line.startswith("draft layer: 9.9 B") for line in lines)
    assert lines[-1].startswith("fits: activations and graphs decide")
    assert plan("b200", tp=4).explain()[-1].startswith("does not fit: weights and KV cache decide, -")


layouts = st.sampled_from([1, 2, 4, 8]).flatmap(
    lambda tp: st.tuples(st.just(tp), st.sampled_from([d for d in (1, 2, 4, 8) if d <= tp]))
)
precisions = st.sampled_from(["fp8", "mxfp4", "nvfp4"])


@given(layouts, precisions, st.integers(1, 200_000), st.integers(1, 100_000))
def test_more_chunk_leaves_less(layout, precision, chunk, more):
    tp, attn_dp = layout
    small = plan(tp=tp, attn_dp=attn_dp, precision=precision, chunked_prefill_tokens=chunk)
    large = plan(tp=tp, attn_dp=attn_dp, precision=precision, chunked_prefill_tokens=chunk + more)
    assert large.dynamic_margin_gib < small.dynamic_margin_gib
    assert large.margin_gib <= small.margin_gib


@given(layouts, precisions, st.floats(0.5, 0.94), st.floats(0.001, 0.05))
def test_a_larger_static_share_moves_memory_from_steps_to_the_cache(layout, precision, share, more):
    tp, attn_dp = layout
    low = plan(tp=tp, attn_dp=attn_dp, precision=precision, mem_fraction=share)
    high = plan(tp=tp, attn_dp=attn_dp, precision=precision, mem_fraction=share + more)
    assert high.kv_capacity_tokens >= low.kv_capacity_tokens
    assert high.dynamic_margin_gib < low.dynamic_margin_gib


@given(st.sampled_from([2, 4, 8]), precisions, st.sampled_from(["mi355x", "b300"]))
def test_attention_dp_gives_the_engine_more_kv_tokens(attn_dp, precision, acc):
    """Every group holds its own requests; a little less each, since its projections are spread over fewer GPUs."""
    one = plan(acc, precision=precision)
    split = plan(acc, precision=precision, attn_dp=attn_dp)
    assert split.weights_bytes > one.weights_bytes
    assert one.kv_capacity_tokens < split.kv_capacity_tokens * attn_dp < one.kv_capacity_tokens * attn_dp


@given(layouts, precisions)
def test_drafting_costs_memory(layout, precision):
    tp, attn_dp = layout
    off = plan(tp=tp, attn_dp=attn_dp, precision=precision, max_running_requests=48)
    on = plan(tp=tp, attn_dp=attn_dp, precision=precision, max_running_requests=48, speculation_steps=3)
    assert on.kv_capacity_tokens <= off.kv_capacity_tokens
    assert on.margin_gib < off.margin_gib
