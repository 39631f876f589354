"""The covariance is valid for every space, and its fast form equals its plain one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.space.config import Choice, Layout
from tuner.study.prior_gp import levels
from tuner.study.prior_gp.kernel import Kernel

NAMES = st.sampled_from(["off", "mtp", "ngram"])
PARAMS = st.dictionaries(st.sampled_from(["steps", "topk", "kind"]), st.integers(1, 8), max_size=3)
CHOICES = st.builds(lambda n, p: Choice(n, tuple(sorted(p.items()))), NAMES, PARAMS)
LAYOUTS = st.builds(Layout, *(st.sampled_from([1, 2, 4, 8]) for _ in range(4)))
DIMENSION = st.one_of(
    st.lists(CHOICES, min_size=2, max_size=8, unique=True),
    st.lists(LAYOUTS, min_size=2, max_size=8, unique=True),
    st.lists(st.floats(-10, 1e4, allow_nan=False, allow_subnormal=False), min_size=2, max_size=8, unique=True),
    st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=2, max_size=4, unique=True),
)


def smallest_eigenvalue(table):
    return float(np.linalg.eigvalsh(table).min())


@settings(max_examples=150, deadline=None)
@given(DIMENSION)
def test_every_table_of_levels_is_a_correlation(values):
    """Positive semi-definite with a unit diagonal, also where parameters exist in some bundles only."""
    for table in (*levels.mains(values).values(), levels.alike(values)):
        assert np.allclose(table, table.T)
        assert np.allclose(np.diag(table), 1)
        assert smallest_eigenvalue(table) > -1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(DIMENSION, min_size=1, max_size=5), st.integers(0, 2**31))
def test_every_component_is_positive_semi_definite_and_the_fast_form_equals_the_plain_one(dimensions, seed):
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(len(values), size=24) for values in dimensions], axis=1)
    kernel = Kernel([(str(d), values) for d, values in enumerate(dimensions)], codes)
    prior = rng.normal(size=24)
    stack = kernel.stack(codes, prior)
    assert stack.shape == (kernel.components, 24, 24) == (len(kernel.names), 24, 24)
    assert all(smallest_eigenvalue(component) > -1e-8 for component in stack)
    sizes = rng.uniform(0, 2, kernel.components)
    plain = np.tensordot(sizes, stack, axes=1)
    fast = kernel.cross(sizes, codes[:9], prior[:9]).rows(np.arange(24), prior)
    assert np.allclose(fast, plain[:, :9])
    assert np.allclose(kernel.between(sizes, codes, prior, (codes[:9], prior[:9])), plain[:, :9])
    assert np.allclose(kernel.diagonal(sizes, prior), np.diag(plain))


def test_parameters_count_within_one_bundle_only():
    off, one, two, five = (Choice("off"), *(Choice("mtp", (("steps", n),)) for n in (1, 2, 5)))
    table = levels.alike([off, one, two, five])
    assert table[1, 2] > table[1, 3] > table[0, 1] == table[0, 2] == table[0, 3] == levels.SHARED


def test_layouts_are_alike_in_what_they_share():
    wide, wider_attention, narrow = Layout(8), Layout(8, attn_dp=2), Layout(4, dp=2, ep=4)
    table = levels.alike([wide, wider_attention, narrow])
    assert table[0, 1] > table[0, 2]
    assert set(levels.mains([wide, wider_attention, narrow])) == {"", ".tp", ".dp", ".attn_dp", ".ep"}


@pytest.mark.parametrize(
    ("values", "nearer"), [((32, 64, 256), True), ((100, 101, 110), True), ((1, 2, 3), False), ((32, 128, 512), False)]
)
def test_numbers_are_ordinal_by_ratio_where_they_span_much(values, nearer):
    table = levels.ordinal(values)
    assert bool(table[0, 1] > table[1, 2] + 1e-9) is nearer
    assert table[0, 2] < table[0, 1]
