"""Ranges, layouts, lengths, prices and names: small tables of what the file means in numbers."""

# ruff: noqa: E501 - one case, one line

from __future__ import annotations

import itertools
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tuner.space.config import Layout
from tuner.space.layouts import enumerate_layouts, unused_parts
from tuner.space.nearest import did_you_mean
from tuner.space.numeric import FloatSpec, IntSpec, ParamSpec, ValuesSpec, expand
from tuner.space.schema import LayoutSpec, Pool
from tuner.space.space import infer_precision, usd_per_hour
from tuner.space.workload import Length, Limits, Sampling, Workload

RANGES = [
    ({"values": [3, 1, 2]}, (3, 1, 2)),
    ({"values": ["a", True, 2.5]}, ("a", True, 2.5)),
    ({"int": [1, 4]}, (1, 2, 3, 4)),
    ({"int": [4, 4]}, (4,)),
    ({"int": [-2, 2], "step": 2}, (-2, 0, 2)),
    ({"int": [1, 8], "step": 3}, (1, 4, 7)),
    ({"int": [1, 9], "step": 100}, (1,)),
    ({"int": [8, 100], "log": True}, (8, 16, 32, 64)),
    ({"int": [1, 1], "log": True}, (1,)),
    ({"float": [0.78, 0.88], "step": 0.02}, (0.78, 0.8, 0.82, 0.84, 0.86, 0.88)),
    ({"float": [0.1, 0.7], "step": 0.1}, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
    ({"float": [0.78, 0.87], "step": 0.02}, (0.78, 0.8, 0.82, 0.84, 0.86)),
    ({"float": [0, 1], "step": 0.25}, (0.0, 0.25, 0.5, 0.75, 1.0)),
    ({"float": [-0.1, 0.1], "step": 0.1}, (-0.1, 0.0, 0.1)),
    ({"float": [1e-12, 3e-12], "step": 1e-12}, (1e-12, 2e-12, 3e-12)),
    ({"float": [1e20, 3e20], "step": 1e20}, (1e20, 2e20, 3e20)),
    ({"float": [0.5, 0.5], "step": 0.1}, (0.5,)),
    ({"float": [0.1, 1], "log": True}, (0.1, 0.2, 0.4, 0.8)),
    (7, (7,)),
    ("fp8", ("fp8",)),
]


@pytest.mark.parametrize(("spec", "values"), RANGES)
def test_range_has_exactly_these_values(spec, values):
    found = expand(TypeAdapter(ParamSpec).validate_python(spec))
    assert found == values
    assert [type(v) for v in found] == [type(v) for v in values]


@given(st.integers(-999, 999), st.integers(0, 60), st.integers(1, 4), st.integers(1, 99))
def test_decimal_steps_reach_the_upper_end_exactly(low, count, digits, step):
    """However a decimal range is written, its values are the decimals a person would write."""
    scale = 10**digits
    high = low + count * step
    spec = FloatSpec(float=[low / scale, high / scale], step=step / scale)
    assert expand(spec) == tuple((low + i * step) / scale for i in range(count + 1))


@given(st.integers(1, 10**6), st.integers(0, 10**9))
def test_doublings_stay_in_the_range_and_the_next_would_not(low, more):
    values = expand(IntSpec(int=[low, low + more], log=True))
    assert values[0] == low
    assert all(b == 2 * a for a, b in itertools.pairwise(values))
    assert values[-1] <= low + more < 2 * values[-1]


def test_the_shapes_of_a_value_are_equal_to_their_expansion():
    assert expand(ValuesSpec(values=[1, 2])) == expand(IntSpec(int=[1, 2]))


LAYOUTS = [
    ({"tp": [8]}, ["tp8"]),
    ({"tp": [4, 8], "dp": [1, 2]}, ["tp4-dp2", "tp8"]),
    ({"tp": [8], "attn_dp": [1, 2, 8]}, ["tp8", "tp8-adp2", "tp8-adp8"]),
    ({"tp": [4], "dp": [2], "attn_dp": [1, 2]}, ["tp4-dp2"]),
    ({"tp": [8], "ep": [1, "tp"]}, ["tp8", "tp8-ep8"]),
    ({"tp": [8], "ep": [8, "tp"]}, ["tp8-ep8"]),
    ({"tp": [3]}, []),
    ({"tp": [8], "attn_dp": [3]}, []),
    ({"tp": [8], "ep": [16]}, []),
    ({"tp": [1, 2, 4, 8], "gpus": [2, 4]}, ["tp2", "tp4"]),
    ({"tp": [8, 8]}, ["tp8"]),
]


@pytest.mark.parametrize(("spec", "labels"), LAYOUTS)
def test_layouts_are_the_valid_tuples_in_the_order_of_the_file(spec, labels):
    assert [layout.label for layout in enumerate_layouts(LayoutSpec(**spec))] == labels


SIZES = st.lists(st.sampled_from([1, 2, 3, 4, 6, 8]), min_size=1, max_size=4)


@given(SIZES, SIZES, SIZES, st.lists(st.sampled_from([1, 2, 4, 8, "tp"]), min_size=1, max_size=3), SIZES)
def test_every_layout_keeps_the_invariants_and_is_named_uniquely(tp, dp, attn_dp, ep, gpus):
    spec = LayoutSpec(tp=tp, dp=dp, attn_dp=attn_dp, ep=ep, gpus=gpus)
    found = enumerate_layouts(spec)
    for layout in found:
        assert layout.gpus in gpus
        assert layout.tp % layout.attn_dp == 0
        assert layout.tp % layout.ep == 0
        assert layout.dp == 1 or layout.attn_dp == 1
    assert len({layout.label for layout in found}) == len(found)
    for part, i, value in unused_parts(spec, found):
        assert getattr(spec, part)[i] == value
        assert all(getattr(layout, part) != value for layout in found)


LENGTHS = [
    Length.fixed(1000),
    Length("uniform", 10, 4000),
    Length("lognormal", 1, 100_000, 2000.0, 0.8),
    Length("lognormal", 1500, 2500, 2000.0, 1.5),
    Length("lognormal", 2000, 9000, 2000.0, 0.5),
    Length("lognormal", 100, 2000, 2000.0, 2.0),
    Length("lognormal", 700, 700, 700.0, 1.0),
]


@pytest.mark.parametrize("length", LENGTHS)
def test_mean_of_a_length_is_the_mean_of_its_draws(length):
    """40,000 draws: the bound is five standard errors, and half a token for the rounding of a draw."""
    rng = random.Random(7)
    draws = [length.draw(rng) for _ in range(40_000)]
    assert min(draws) >= length.low
    assert max(draws) <= length.high
    assert abs(statistics.fmean(draws) - length.mean_tokens) <= 0.5 + 5 * statistics.stdev(draws) / 200


PRICES = [("node", 8, 8, 20.0), ("node", 4, 8, 20.0), ("node", 1, 8, 20.0), ("node", 9, 8, 40.0), ("gpu", 4, 8, 10.0)]


@pytest.mark.parametrize(("billing", "gpus", "per_node", "usd"), PRICES)
def test_idle_gpus_of_a_node_are_charged_when_the_node_is_billed(billing, gpus, per_node, usd):
    engine = {"version": "0.5.16"}
    pool = Pool(
        accelerator="x", engine=engine, image="i", usd_per_gpu_hour=2.5, gpus_per_node=per_node, billing=billing
    )
    assert usd_per_hour(pool, gpus) == usd


PRECISIONS = [
    ("amd/GLM-5.2-MXFP4", "x", "mxfp4"), ("org/M-FP8", "mxfp4", "fp8"), ("org/M", "nvfp4", "nvfp4"), ("org/M-BF16", "x", "bf16"),
    ("org/M-NVFP4-KV-FP8", "x", "nvfp4"), ("org/M", "x", ""),
]  # fmt: skip


@pytest.mark.parametrize(("model", "choice", "precision"), PRECISIONS)
def test_precision_is_read_from_the_checkpoint_then_from_its_choice(model, choice, precision):
    assert infer_precision(model, choice) == precision


@pytest.mark.parametrize(
    ("name", "known", "words"),
    [
        ("hihg", ["high", "low"], "; did you mean 'high'?"),
        ("zzz", ["b", "a"], "; known: a, b"),
        ("zzz", [], ""),
        ("zzz", [f"a{i}" for i in range(13)], ""),
    ],
)
def test_the_nearest_name_or_a_short_list(name, known, words):
    assert did_you_mean(name, known) == words


@pytest.mark.parametrize("length", LENGTHS)
def test_the_spread_of_a_length_is_that_of_its_draws(length):
    rng = random.Random(5)
    draws = [length.draw(rng) for _ in range(20_000)]
    assert length.cv2 == pytest.approx(statistics.pvariance(draws) / statistics.fmean(draws) ** 2, rel=0.15, abs=1e-4)


def test_a_workload_written_by_hand_needs_its_lengths_only():
    assert Workload.from_json({"input_tokens": 100, "output_tokens": 20}) == Workload(
        Length.fixed(100), Length.fixed(20)
    )


def test_workload_and_limits_survive_json():
    workload = Workload(LENGTHS[1], LENGTHS[2], 0.6, 4, "constant", "completions", Sampling(0.0, 0.9, False, False))
    assert Workload.from_json(workload.as_json()) == workload
    assert workload.max_context_tokens == 104_000
    limits = Limits(tpot_p95_ms=40.0)
    assert limits.as_json() == {"tpot_p95_ms": 40.0, "error_rate": 0.005}
    assert Limits.from_json(limits.as_json()) == limits


def test_layouts_are_ordered_and_count_their_gpus():
    assert sorted([Layout(8), Layout(4, 2)]) == [Layout(4, 2), Layout(8)]
    assert Layout(4, 2).gpus == 8
