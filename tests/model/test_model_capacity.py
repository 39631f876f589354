"""Capacity in closed form: the published ladder, what binds, and what must not get worse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.curves import LoadCurve

from tuner.model.capacity import Prediction, predict
from tuner.model.catalogue import accelerator, architecture
from tuner.model.memory import plan_memory
from tuner.model.settings import EngineSettings
from tuner.model.startup import seconds_to_ready
from tuner.model.steps import RooflineSteps
from tuner.space.workload import Length, Limits, Workload

GLM = architecture("glm-5.2")
TRAFFIC = Workload(Length.fixed(20_000), Length.fixed(1000), cached_fraction=0.6, prefix_groups=32)
FIVE_SECONDS = Limits(ttft_p95_s=5.0)
NODE = {
    "tp": 4,
    "dp": 2,
    "precision": "mxfp4",
    "kv_dtype": "fp8",
    "chunked_prefill_tokens": 32_768,
    "max_running_requests": 64,
    "speculation_steps": 3,
    "draft_tokens": 4,
}


def settings(**changes) -> EngineSettings:
    return EngineSettings(**(NODE | changes))


def predicted(acc="mi355x", traffic=TRAFFIC, limits=FIVE_SECONDS, **changes) -> Prediction:
    return predict(GLM, accelerator(acc), settings(**changes), traffic, limits)


def curve(traffic=TRAFFIC, kv_tokens=3_000_000, **changes) -> LoadCurve:
    chosen = settings(**changes)
    return LoadCurve(RooflineSteps(GLM, accelerator("mi355x"), chosen), chosen, traffic, kv_tokens)


def at_rate(load_curve, rate):
    return load_curve.at_rate(rate)


def test_the_published_mi355x_knee():
    """Wafer: 2.4 req/s per node at TTFT p95 <= 5 s, 20k/1k, 60 % cached."""
    got = predicted()
    assert 2.2 <= got.capacity_req_per_s <= 3.2
    assert got.ttft_p95_s <= 5.0
    assert got.cached_fraction == pytest.approx(0.6, rel=0.01)
    assert got.output_tokens_per_s == pytest.approx(1000 * got.capacity_req_per_s)


@pytest.mark.parametrize(
    ("rate", "p50_s", "p95_s"), [(0.5, 0.59, 0.60), (1.0, 0.60, 0.81), (1.5, 0.62, 1.03), (2.0, 0.62, 1.05)]
)
def test_ttft_below_the_knee_follows_the_published_ladder(rate, p50_s, p95_s):
    """Constants come from idle p50 alone, but the form of the waits was chosen with this ladder in view.

    p95 errs to the slow side, by half at 2.25 req/s; how many requests were allowed to run there is not published.
    """
    point = at_rate(curve(), rate)
    assert point.ttft_p50_s == pytest.approx(p50_s, rel=0.10)
    assert p95_s * 0.9 <= point.ttft_p95_s <= p95_s * 1.35


def test_b200_saturates_where_it_was_seen_to():
    """Published saturation: 3.0 req/s and 3,192 tok/s on 8 B200 (layout not given: the best of two pool sizes)."""
    best = max(
        predicted("b200", precision="nvfp4", mem_fraction=share, max_running_requests=96).capacity_req_per_s
        for share in (0.85, 0.88)
    )
    assert 2.8 <= best <= 4.3


def test_what_does_not_fit_has_no_capacity_and_names_the_part():
    got = predicted("b200", precision="fp8")
    assert not got.fits
    assert got.margin_gib < 0
    assert (got.capacity_req_per_s, got.ttft_p95_s, got.limit) == (0.0, math.inf, "weights and KV cache")


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        (Limits(ttft_p95_s=0.3), "ttft_p95_s"),
        (Limits(tpot_p95_ms=3.0), "tpot_p95_ms"),
        (Limits(e2e_p95_s=2.0), "e2e_p95_s"),
    ],
)
def test_a_limit_missed_when_idle_gives_zero_and_the_nearest_miss(limits, limit):
    got = predicted(limits=limits)
    assert got.fits
    assert not got.meets_limits
    assert (got.capacity_req_per_s, got.limit) == (0.0, limit)
    assert 0.5 < got.ttft_p95_s < 0.7
    assert 0.005 < got.tpot_s < 0.010


@pytest.mark.parametrize(
    ("changes", "limits", "limit"),
    [
        ({}, FIVE_SECONDS, "running requests"),
        ({}, Limits(), "running requests"),
        ({}, Limits(tpot_p95_ms=20.0), "tpot_p95_ms"),
        ({}, Limits(e2e_p95_s=20.0), "e2e_p95_s"),
        ({}, Limits(ttft_p95_s=1.1), "ttft_p95_s"),
        ({"max_running_requests": 2048}, FIVE_SECONDS, "kv cache"),
        ({"max_total_tokens": 500_000}, Limits(), "kv cache"),
    ],
)
def test_what_binds_is_named(changes, limits, limit):
    assert predicted(limits=limits, **changes).limit == limit


def test_the_limits_hold_at_the_capacity_and_not_much_above():
    limits = Limits(tpot_p95_ms=20.0)
    capacity = predicted(limits=limits).capacity_req_per_s
    assert at_rate(curve(), 0.98 * capacity).tpot_p95_s <= 0.020
    assert at_rate(curve(), 1.03 * capacity).tpot_p95_s > 0.020


def test_the_operating_point_is_at_95_percent_of_the_capacity():
    load_curve = curve()
    top = load_curve.at(50)
    assert load_curve.at_share(top, 0.95).rate == pytest.approx(0.95 * top.rate, rel=0.01)


def test_prefixes_that_do_not_fit_are_not_cached():
    few, many = (predicted(traffic=replace(TRAFFIC, prefix_groups=groups)) for groups in (4, 400))
    assert few.cached_fraction == pytest.approx(0.6, rel=0.01)
    assert many.cached_fraction < 0.4
    assert many.capacity_req_per_s < few.capacity_req_per_s
    assert predicted(radix_cache=False).cached_fraction == 0


def test_a_sticky_router_keeps_more_prefixes_than_dealing_out_in_turn():
    many = replace(TRAFFIC, prefix_groups=300)
    dealt, sticky = (predicted(traffic=many, routing=routing) for routing in ("round-robin", "sticky"))
    assert sticky.cached_fraction > 1.2 * dealt.cached_fraction
    assert sticky.capacity_req_per_s > 1.1 * dealt.capacity_req_per_s


def test_a_sticky_router_leaves_replicas_idle_that_have_no_prefix():
    alone, dealt = (
        predicted(traffic=replace(TRAFFIC, prefix_groups=1), routing=routing) for routing in ("sticky", "round-robin")
    )
    assert alone.capacity_req_per_s == pytest.approx(dealt.capacity_req_per_s / 2, rel=0.1)
    assert alone.capacity_req_per_s < dealt.capacity_req_per_s / 2  # requests come at random, not in turn
    three = curve(replace(TRAFFIC, prefix_groups=3), routing="sticky")
    even = curve(replace(TRAFFIC, prefix_groups=4), routing="sticky")
    assert three.closed(80).rate < even.closed(80).rate


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_sticky_requests_come_less_evenly_and_without_a_prefix_in_turn(arrivals):
    traffic = replace(TRAFFIC, arrivals=arrivals)
    sticky, dealt = (curve(traffic, routing=routing).at_rate(1.5) for routing in ("sticky", "round-robin"))
    assert sticky.ttft_p95_s > dealt.ttft_p95_s
    bare = replace(traffic, cached_fraction=0.0)
    same = [curve(bare, routing=routing).at_rate(1.0).ttft_p95_s for routing in ("sticky", "round-robin")]
    assert same[0] == same[1]


def test_even_arrivals_wait_less_than_poisson():
    poisson, even = (at_rate(curve(replace(TRAFFIC, arrivals=kind)), 1.5) for kind in ("poisson", "constant"))
    assert even.ttft_p95_s < poisson.ttft_p95_s


def test_uneven_lengths_cost_tail():
    uneven = replace(TRAFFIC, input_tokens=Length("uniform", 1000, 39_000))
    long_prompt_s = RooflineSteps(GLM, accelerator("mi355x"), settings()).prefill_s(8000 * 37_100 // 20_000, 28_000)
    assert at_rate(curve(uneven), 1.0).ttft_p95_s > max(long_prompt_s, 1.1 * at_rate(curve(), 1.0).ttft_p95_s)


def test_log_normal_traffic_is_priced():
    chat = Workload(Length("lognormal", 10, 8000, 500, 1.0), Length("lognormal", 10, 2000, 200, 0.7))
    got = predicted(traffic=chat, limits=Limits(ttft_p95_s=2.0), max_running_requests=256)
    assert got.capacity_req_per_s > 10
    assert got.ttft_p50_s < got.ttft_p95_s <= 2.0


def test_prompts_longer_than_a_chunk_take_several_steps():
    whole, chunked = curve(chunked_prefill_tokens=8192), curve(chunked_prefill_tokens=1024)
    extra = chunked.at(0.02).ttft_p50_s - whole.at(0.02).ttft_p50_s
    assert extra > 6 * 0.012  # seven more launches of at least 12 ms


nodes = st.fixed_dictionaries(
    {
        "acc": st.sampled_from(["mi355x", "b200", "b300"]),
        "precision": st.sampled_from(["mxfp4", "fp8", "nvfp4"]),
        "layout": st.sampled_from([(2, 4, 1), (4, 2, 1), (8, 1, 1), (8, 1, 4), (8, 1, 8), (4, 2, 4)]),
        "max_running_requests": st.sampled_from([8, 32, 64, 128, 256]),
        "chunked_prefill_tokens": st.sampled_from([1024, 4096, 8192, 32_768]),
        "mem_fraction": st.sampled_from([0.8, 0.85, 0.9]),
        "speculation_steps": st.sampled_from([0, 1, 3, 5]),
    }
)


def of_node(node, limits, traffic=TRAFFIC) -> Prediction:
    changes = dict(node)
    acc, (tp, dp, attn_dp) = changes.pop("acc"), changes.pop("layout")
    changes |= {"tp": tp, "dp": dp, "attn_dp": attn_dp, "draft_tokens": changes["speculation_steps"] + 1}
    return predicted(acc, traffic, limits, **changes)


@given(nodes, st.floats(0.3, 20), st.floats(1.05, 4))
def test_a_looser_limit_never_lowers_the_capacity(node, limit_s, factor):
    """Within the resolution of the search for the batch."""
    tight, loose = (of_node(node, Limits(ttft_p95_s=limit)) for limit in (limit_s, limit_s * factor))
    assert loose.capacity_req_per_s >= 0.98 * tight.capacity_req_per_s


@given(nodes)
def test_predictions_are_finite_ordered_and_repeatable(node):
    got = of_node(node, FIVE_SECONDS)
    assert got == of_node(node, FIVE_SECONDS)
    if not got.fits:
        return
    assert 0 <= got.cached_fraction <= 0.6 + 1e-9
    assert got.capacity_req_per_s < 20
    assert 0 < got.ttft_p50_s <= got.ttft_p95_s
    assert got.ttft_p95_s <= 5.0 or not got.meets_limits
    assert got.running_batch <= node["max_running_requests"]


@given(nodes)
def test_less_to_do_is_never_slower(node):
    light = replace(TRAFFIC, input_tokens=Length.fixed(10_000))
    assert of_node(node, FIVE_SECONDS, light).capacity_req_per_s >= of_node(node, FIVE_SECONDS).capacity_req_per_s


def test_a_ready_engine_takes_minutes_and_longer_from_slow_storage():
    mi355x = accelerator("mi355x")
    usual = seconds_to_ready(GLM, mi355x, settings())
    assert 5 * 60 < usual < 20 * 60
    assert seconds_to_ready(GLM, mi355x, settings(), read_gib_per_s=1.0) > usual + 150
    assert seconds_to_ready(GLM, mi355x, settings(precision="fp8")) > usual
    assert seconds_to_ready(GLM, mi355x, settings(dp=1)) == usual


def test_the_pool_of_the_plan_is_the_pool_of_the_prediction():
    """Both must agree on whether one request fits."""
    plan = plan_memory(GLM, accelerator("mi355x"), settings(max_total_tokens=20_000), TRAFFIC.max_context_tokens)
    assert not plan.fits
    assert not predicted(max_total_tokens=20_000).fits
