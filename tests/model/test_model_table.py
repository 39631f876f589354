"""The formulas over columns are those of the scalar steps; a closed loop settles where its books balance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.curves import LoadCurve

from tuner.errors import UsageError
from tuner.model.capacity import predict, predict_many
from tuner.model.catalogue import accelerator, architecture
from tuner.model.settings import EngineSettings
from tuner.model.standard import MAX_RUNNING, MEM_FRACTION, standard_settings
from tuner.model.steps import RooflineSteps
from tuner.model.table import StepTable
from tuner.space.workload import Length, Limits, Workload

GLM, B200 = architecture("glm-5"), accelerator("b200")
TRAFFIC = Workload(Length.fixed(8192), Length.fixed(1024))

layouts = st.sampled_from([(1, 1, 1), (4, 1, 1), (4, 1, 4), (8, 1, 1), (8, 8, 1), (8, 8, 8), (8, 2, 8)])


def settings(layout=(8, 1, 1), **changes) -> EngineSettings:
    tp, attn_dp, ep = layout
    return EngineSettings(tp=tp, attn_dp=attn_dp, ep=ep, **({"precision": "fp8", "kv_dtype": "fp8"} | changes))


@given(
    st.lists(
        st.tuples(
            layouts,
            st.sampled_from(["fp8", "nvfp4", "bf16"]),
            st.integers(0, 5),
            st.integers(1, 700),
            st.integers(1, 16_384),
        ),
        min_size=1,
        max_size=4,
    ),
    st.floats(1, 100_000),
)
def test_columns_hold_the_scalar_step_times(rows, context):
    steps = [
        RooflineSteps(GLM, B200, settings(layout, precision=precision, speculation_steps=k, draft_tokens=k and k + 1))
        for layout, precision, k, _, _ in rows
    ]
    table = StepTable([s.coefficients for s in steps])
    batch, new = np.array([float(r[3]) for r in rows]), np.array([float(r[4]) for r in rows])
    expected = [s.decode_s(r[3], context) for s, r in zip(steps, rows, strict=True)]
    assert table.decode_s(batch, context) == pytest.approx(expected)
    expected = [s.prefill_s(r[4], context, 3 * r[4]) for s, r in zip(steps, rows, strict=True)]
    assert table.prefill_s(new, np.full_like(new, context), 3 * new) == pytest.approx(expected)
    assert table.tokens_per_verify.tolist() == [s.tokens_per_verify for s in steps]


@given(st.lists(st.tuples(layouts, st.integers(4, 300), st.sampled_from([0, 3])), min_size=2, max_size=6))
def test_a_configuration_is_predicted_alike_alone_and_among_others(rows):
    """Some fit and some do not; neighbours in the columns change nothing."""
    many = [
        settings(layout, max_running_requests=running, speculation_steps=k, draft_tokens=k and k + 1)
        for layout, running, k in rows
    ]
    limits = Limits(ttft_p95_s=3.0)
    together = predict_many(GLM, B200, many, TRAFFIC, limits)
    for one, found in zip(many, together, strict=True):
        alone = predict(GLM, B200, one, TRAFFIC, limits)
        assert (alone.fits, alone.limit) == (found.fits, found.limit)
        assert alone.capacity_req_per_s == pytest.approx(found.capacity_req_per_s)
        assert alone.ttft_p95_s == pytest.approx(found.ttft_p95_s)


def curve(**changes) -> LoadCurve:
    chosen = settings(max_running_requests=256, **changes)
    return LoadCurve(RooflineSteps(GLM, B200, chosen), chosen, TRAFFIC, kv_tokens=1_000_000)


@given(st.integers(1, 256), st.sampled_from([0, 3]), layouts)
def test_a_closed_loop_obeys_littles_law(concurrency, steps, layout):
    """Requests in flight = rate x time in the engine, waiting for a place included."""
    point = curve(speculation_steps=steps, draft_tokens=steps and steps + 1, layout=layout).closed(concurrency)
    in_flight = point.rate * (point.ttft_p50_s + 1024 * point.tpot_s)
    assert in_flight == pytest.approx(concurrency, rel=0.12, abs=0.5)


def test_more_requests_in_flight_serve_more_until_none_finds_a_place():
    points = [curve().closed(n) for n in (1, 2, 4, 16, 64, 108)]
    assert [p.rate for p in points] == sorted(p.rate for p in points)
    assert [p.tpot_s for p in points] == sorted(p.tpot_s for p in points)
    assert points[-1].ttft_p50_s < 1
    full, beyond = curve().closed(150), curve().closed(250)
    assert beyond.rate == pytest.approx(full.rate, rel=1e-6)
    assert beyond.ttft_p50_s > full.ttft_p50_s > 5


def test_standard_settings_take_the_load_and_leave_room_for_a_step():
    wide = standard_settings(GLM, B200, precision="fp8", tp=8, dp=2, concurrency=400)
    assert wide.max_running_requests == 200
    assert standard_settings(GLM, B200, precision="fp8", tp=8).max_running_requests == MAX_RUNNING
    small = accelerator("h200")
    tight = standard_settings(architecture("deepseek-v3"), small, precision="fp8", tp=8, concurrency=8000, attn_dp=8)
    assert tight.mem_fraction < MEM_FRACTION


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"tp": 8, "attn_dp": 3}, "does not divide"),
        ({"tp": 8, "ep": 3}, "does not divide 256 experts"),
        ({"tp": 8, "ep": 4}, "neither 1 nor"),
        ({"tp": 3}, "64 attention heads do not divide by 3"),
        ({"tp": 4, "dp": 2, "attn_dp": 2}, "exclude each other"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(layout, words):
    with pytest.raises(UsageError, match=words):
        standard_settings(GLM, B200, precision="fp8", **layout)
