from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.probe.ladder import Ladder


def walk(capacity: float, ladder: Ladder, *, slack: bool = False) -> list[float]:
    """All rates tried against an engine that holds exactly up to `capacity`."""
    rates: list[float] = []
    rate: float | None = ladder.first()
    while rate is not None and len(rates) < 60:
        if ladder.at_floor:
            rate = ladder.floor_held()
            continue
        rates.append(rate)
        rate = ladder.held(rate, slack=slack) if rate <= capacity else ladder.missed(rate)
    return rates


@given(st.floats(0.03, 1.0), st.sampled_from([0.02, 0.05, 0.2]), st.sampled_from([None, 0.01, 0.3, 0.9]))
def test_the_bracket_closes_around_any_capacity(share, tolerance, guess):
    ladder = Ladder(10.0, tolerance, guess=None if guess is None else 10 * guess, floor=0.2)
    rates = walk(10.0 * share, ladder)
    assert len(rates) < 25
    assert ladder.low <= 10.0 * share
    assert ladder.high <= ladder.low * (1 + tolerance) * 1.0001
    if share < 1 / (1 + tolerance):
        assert ladder.high >= 10.0 * share


def test_a_full_server_that_holds_needs_one_level():
    ladder = Ladder(10.0, 0.05, floor=0.2)
    assert walk(10.0, ladder) == [pytest.approx(10 / 1.05)]
    assert ladder.high == 10.0


def test_with_slack_it_goes_on_up():
    ladder = Ladder(10.0, 0.05, floor=0.2)
    walk(14.0, ladder, slack=True)
    assert 14.0 / 1.05 <= ladder.low <= 14.0 <= ladder.high


def test_below_the_floor_nothing_is_tried():
    ladder = Ladder(10.0, 0.05, floor=0.2)
    rates = walk(0.01, ladder)
    assert ladder.low is None
    assert rates[-1] == pytest.approx(0.2)
    assert rates == sorted(rates, reverse=True)


def test_the_floor_is_asked_after_three_misses():
    ladder = Ladder(10.0, 0.05, floor=0.2)
    rate = ladder.first()
    for _ in range(3):
        assert not ladder.at_floor
        rate = ladder.missed(rate)
    assert ladder.at_floor
    assert rate == 0.2
    after = ladder.floor_held()
    assert not ladder.at_floor
    assert 0.2 < after < ladder.high


@pytest.mark.parametrize(
    ("incumbent", "tried"), [(9.0, [9.52, 9.18]), (9.4, [9.52]), (5.0, [9.52, 8.76, 7.42, 5.31, 5.1])]
)
def test_the_incumbents_rate_is_tried_before_anything_below_it(incumbent, tried):
    """And once that misses, the configuration cannot win."""
    ladder = Ladder(10.0, 0.05, incumbent=incumbent, floor=0.2)
    assert walk(1.0, ladder)[: len(tried)] == [pytest.approx(r, abs=0.01) for r in tried]
    assert ladder.cannot_win
    assert ladder.low is None


def test_a_guess_shortens_the_way_down_but_never_leaps_below_half():
    far, near = Ladder(10.0, 0.05, guess=1.0, floor=0.2), Ladder(10.0, 0.05, guess=6.0, floor=0.2)
    assert far.missed(far.first()) == pytest.approx(far.first() / 2)
    assert near.missed(near.first()) == pytest.approx(6.3)
