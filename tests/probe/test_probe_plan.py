from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.probe.arrivals import due_times
from tuner.probe.plan import RequestStream
from tuner.space.workload import Length, Workload


def a_workload(**kwargs) -> Workload:
    fields = {
        "input_tokens": Length.fixed(20000),
        "output_tokens": Length("uniform", 500, 1500),
        "cached_fraction": 0.6,
    }
    return Workload(**(fields | kwargs))


@given(st.integers(0, 5), st.integers(0, 10_000))
def test_a_request_depends_on_seed_and_index_alone(seed, index):
    """Whatever was asked for before: two configurations see the same traffic."""
    used, fresh = RequestStream(a_workload(), seed), RequestStream(a_workload(), seed)
    for before in (3, index + 1, 0):
        used.request(before)
    assert used.request(index) == fresh.request(index)
    assert used.staggered(index) == fresh.staggered(index)


def test_seeds_and_indexes_differ():
    lengths = {RequestStream(a_workload(), seed).request(i).output_tokens for seed in range(5) for i in range(50)}
    assert len(lengths) > 200


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.6, 0.999])
def test_the_offered_cached_fraction_is_exact(fraction):
    stream = RequestStream(a_workload(cached_fraction=fraction), 1)
    planned = [stream.request(i) for i in range(100)]
    share = sum(p.prefix_tokens for p in planned) / sum(p.input_tokens for p in planned)
    assert share == pytest.approx(fraction, abs=1e-9)


def test_at_least_one_token_is_new():
    stream = RequestStream(a_workload(cached_fraction=1.0, input_tokens=Length.fixed(1)), 1)
    assert stream.request(0).prefix_tokens == 0
    assert RequestStream(a_workload(cached_fraction=1.0), 1).request(0).prefix_tokens == 19999


def test_the_longest_prefix_covers_every_request():
    stream = RequestStream(a_workload(input_tokens=Length("uniform", 100, 900)), 3)
    assert stream.longest_prefix_tokens == 540
    assert max(stream.request(i).prefix_tokens for i in range(300)) <= 540


@pytest.mark.parametrize("groups", [1, 4, 32])
def test_every_group_comes_once_a_round_in_changing_order(groups):
    stream = RequestStream(a_workload(prefix_groups=groups), 7)
    rounds = [[stream.request(r * groups + i).prefix_group for i in range(groups)] for r in range(20)]
    assert all(Counter(r) == Counter(range(groups)) for r in rounds)
    assert groups == 1 or len({tuple(r) for r in rounds}) > 5


def test_staggered_answers_are_uniform_residuals():
    stream = RequestStream(a_workload(output_tokens=Length.fixed(1000)), 2)
    residuals = [stream.staggered(i).output_tokens for i in range(4000)]
    assert min(residuals) >= 1
    assert max(residuals) <= 1000
    assert sum(residuals) / len(residuals) == pytest.approx(500, rel=0.05)
    assert stream.staggered(5).input_tokens == stream.request(5).input_tokens


def first(n: int, **kwargs) -> list[float]:
    settings = {"kind": "poisson", "seed": 4, "level": 2, "rate_req_per_s": 2.0, "start_s": 100.0} | kwargs
    return list(itertools.islice(due_times(**settings), n))


def test_poisson_gaps_have_their_mean_and_spread():
    times = first(5000)
    gaps = [b - a for a, b in itertools.pairwise([100.0, *times])]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.5, rel=0.05)
    assert sum((g - mean) ** 2 for g in gaps) / len(gaps) == pytest.approx(0.25, rel=0.15)


def test_constant_arrivals_do_not_drift():
    assert first(3, kind="constant") == [100.5, 101.0, 101.5]
    assert first(100_000, kind="constant", rate_req_per_s=3.0)[-1] == pytest.approx(100 + 100_000 / 3, abs=1e-6)


def test_the_rate_only_scales_the_same_bursts():
    slow, fast = first(50), first(50, rate_req_per_s=8.0, start_s=0.0)
    assert [4 * t for t in fast] == pytest.approx([t - 100.0 for t in slow])


@pytest.mark.parametrize("other", [{"seed": 5}, {"level": 3}])
def test_seeds_and_levels_have_gaps_of_their_own(other):
    assert first(5) != first(5, **other)


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_rate_must_be_positive(rate):
    with pytest.raises(ValueError, match="level 2: a rate must be above 0"):
        first(1, rate_req_per_s=rate)
