from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.probe import statistics as s


@pytest.mark.parametrize(
    ("delta", "sizes"),
    [(0.10, [45, 77, 105, 132, 158]), (0.05, [59, 93, 124, 153, 181]), (0.01, [90, 130, 165, 198, 229])],
)
def test_smallest_samples_that_prove_a_p95(delta, sizes):
    """The published table of fixed-n binomial tests for 0-4 misses."""
    assert [s.smallest_passing_sample(k, delta) for k in range(5)] == sizes


def test_mlperfs_own_rule_for_p99():
    """MLPerf LoadGen asks for 459 queries without a miss: p99 at c = 0.99."""
    assert s.smallest_passing_sample(0, 0.01, share=0.01) == 459


@pytest.mark.parametrize(("n", "ranks"), [(60, (53, None)), (100, (90, 100)), (150, (137, 148)), (200, (184, 197))])
def test_order_statistic_interval_of_p95(n, ranks):
    assert s.order_statistic_interval(n) == ranks


@pytest.mark.parametrize(("n", "misses"), [(10, 3), (20, 4), (30, 5), (50, 6), (60, 7), (100, 10)])
def test_early_fail_counts(n, misses):
    """The smallest number of misses that has probability <= 5 % when the true share is 5 %."""
    assert s.binomial_upper_tail(misses, n, 0.05) <= 0.05 < s.binomial_upper_tail(misses - 1, n, 0.05)


def test_sprt_weights_and_all_hit_sample():
    test = s.Sprt()
    assert test.miss_weight == pytest.approx(1.609, abs=5e-4)
    assert test.hit_weight == pytest.approx(-0.0852, abs=5e-5)
    assert test.threshold == pytest.approx(2.944, abs=5e-4)
    assert test.verdict(34, 0) is None
    assert test.verdict(35, 0) == "accept"


@pytest.mark.parametrize(
    ("hits", "misses", "verdict"), [(0, 1, None), (0, 2, "reject"), (3, 2, "reject"), (4, 2, None)]
)
def test_two_early_misses_reject(hits, misses, verdict):
    assert s.Sprt().verdict(hits, misses) == verdict


@pytest.mark.parametrize(
    ("share", "mean_n"), [(0.0, 35), (0.01, 44), (0.02, 55), (0.05, 76), (0.10, 39), (0.20, 14), (0.50, 4)]
)
def test_sprt_mean_sample_matches_the_published_table(share, mean_n):
    rng = random.Random(1)
    test, sizes = s.Sprt(), []
    for _ in range(2000):
        hits = misses = 0
        while test.verdict(hits, misses) is None:
            if rng.random() < share:
                misses += 1
            else:
                hits += 1
        sizes.append(hits + misses)
    assert sum(sizes) / len(sizes) == pytest.approx(mean_n, rel=0.07, abs=0.5)


@pytest.mark.parametrize(("misses", "n"), [(0, 158), (1, 210), (2, 254), (3, 295)])
def test_anytime_bound_stops_at_the_published_sizes(misses, n):
    assert s.robbins_bound(misses, n) < 0.05 <= s.robbins_bound(misses, n - 1)


@pytest.mark.parametrize(("misses", "n", "upper"), [(0, 59, 0.0495), (3, 100, 0.0757), (5, 5, 1.0), (0, 0, 1.0)])
def test_clopper_pearson_upper(misses, n, upper):
    assert s.clopper_pearson_upper(misses, n) == pytest.approx(upper, abs=5e-4)


@pytest.mark.parametrize(("misses", "n", "lower"), [(0, 10, 0.0), (0, 0, 0.0), (5, 5, 0.5493), (10, 100, 0.0553)])
def test_clopper_pearson_lower(misses, n, lower):
    assert s.clopper_pearson_lower(misses, n) == pytest.approx(lower, abs=5e-4)


@given(st.integers(1, 300), st.data(), st.floats(0.001, 0.999))
def test_tails_add_up(n, data, p):
    k = data.draw(st.integers(0, n))
    assert s.binomial_cdf(k - 1, n, p) + s.binomial_upper_tail(k, n, p) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("k", "n", "p", "cdf", "tail"),
    [(-1, 5, 0.5, 0.0, 1.0), (5, 5, 0.5, 1.0, 1 / 32), (2, 5, 0.0, 1.0, 0.0), (2, 5, 1.0, 0.0, 1.0)],
)
def test_tails_at_the_edges(k, n, p, cdf, tail):
    assert s.binomial_cdf(k, n, p) == cdf
    assert s.binomial_upper_tail(k, n, p) == pytest.approx(tail)


def test_small_tails_do_not_vanish_in_rounding():
    assert 0 < s.binomial_upper_tail(40, 400, 0.005) < 1e-30


@given(st.lists(st.floats(0, 1e6) | st.just(math.inf), min_size=1, max_size=200), st.floats(0.01, 1e6))
def test_p95_within_a_limit_is_at_most_five_percent_beyond_it(values, limit):
    beyond = sum(v > limit for v in values)
    assert (s.quantile(values, 0.95) <= limit) == (beyond <= math.floor(0.05 * len(values) + 1e-9))


def test_quantile_of_nothing_is_nothing():
    assert s.quantile([], 0.5) is None
