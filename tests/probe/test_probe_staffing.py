from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.probe.ladder import Ladder
from tuner.probe.saturation import fastest_intake
from tuner.probe.staffing import FullServer, erlang_c


@pytest.mark.parametrize(
    ("places", "offered", "expected"),
    [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (10, 8.0, 0.4092), (5, 5.0, 1.0), (100, 90.0, 0.2171)],
)
def test_the_chance_to_wait_is_erlangs(places, offered, expected):
    """Tabulated values of the Erlang C formula."""
    assert erlang_c(places, offered) == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(
    ("server", "limit_s", "truth"),
    [
        (FullServer(256, 4.77, 10.8, 0.1), 2.0, 4.520),
        (FullServer(256, 4.55, 5.9, 0.17), 2.0, 4.328),
        (FullServer(96, 2.10, 10.8, 0.1), 2.0, 1.811),
        (FullServer(256, 3.27, 3.333, 0.3), 2.0, 2.562),
        (FullServer(256, 1.006, 10.8, 0.1), 5.0, 0.921),
    ],
)
def test_it_agrees_with_long_simulations(server, limit_s, truth):
    """Truth: the highest rate with TTFT p95 within the limit over 20,000 requests (tests/benchmarks)."""
    assert server.highest_rate(limit_s) == pytest.approx(truth, rel=0.06)


@pytest.mark.parametrize("floor_s", [0.6, 0.79, 0.8, 2.0])
def test_a_floor_seen_while_filling_does_not_use_up_the_limit(floor_s):
    assert FullServer(256, 2.92, 4.1, floor_s).highest_rate(0.8) > 1.0


IN_BATCHES = [float(at) for at in range(40) for _ in range(3 if at % 10 == 5 else 2)]
"""First tokens a second: requests of which two and a bit fit into one batch."""


@pytest.mark.parametrize(
    ("times_s", "intake"),
    [
        pytest.param([i / 4 for i in range(30)], 4.0, id="one by one"),
        pytest.param(IN_BATCHES, 2.1, id="in batches"),
        pytest.param([*IN_BATCHES, *(40 + i / 8 for i in range(30))], 8.0, id="the fastest counts"),
        pytest.param([0.0] * 30, None, id="all at once"),
        pytest.param([0.0, 1.0, 2.0], None, id="too few"),
    ],
)
def test_the_fastest_intake_counts_whole_batches(times_s, intake):
    """Within 7 %: a span that began with a batch's first token holds 16 of them in 7 s instead of 8."""
    found = fastest_intake(times_s)
    assert found == (intake if intake is None else pytest.approx(intake, rel=0.07))


@given(st.integers(1, 600), st.floats(0.1, 50), st.none() | st.floats(0.1, 100), st.floats(0, 3), st.floats(0.01, 60))
def test_it_never_exceeds_the_throughput_and_grows_with_the_limit(places, rate, intake, floor_s, limit_s):
    server = FullServer(places, rate, intake, floor_s)
    low, high = server.highest_rate(limit_s), server.highest_rate(2 * limit_s)
    assert 0.0 <= low <= high + 1e-9 <= rate + 1e-6


def test_the_ladder_starts_at_the_ceiling_and_ends_when_it_holds():
    ladder = Ladder(10.0, 0.05, ceiling=8.0)
    assert ladder.first() == pytest.approx(8.1)
    assert ladder.held(ladder.first(), slack=True) is None
    assert ladder.high == pytest.approx(8.4)


def test_with_an_incumbent_no_level_is_spent_below_it():
    assert Ladder(10.0, 0.05, ceiling=8.0, incumbent=8.5).first() == pytest.approx(8.67)
    assert Ladder(10.0, 0.05, ceiling=8.0, incumbent=9.9).first() == pytest.approx(10 / 1.05)


def test_a_server_that_is_far_from_full_is_tested_higher_but_not_beyond_what_bursts_allow():
    below, near, unknown = Ladder(10.0, 0.05, ceiling=9.9), Ladder(10.0, 0.05, ceiling=9.9), Ladder(10.0, 0.05)
    assert below.held(8.0, slack=True) == pytest.approx(8.64)
    assert 9.52 < near.held(9.52, slack=True) < 9.9
    assert unknown.held(9.52, slack=True) == pytest.approx(9.52 * 1.08)
