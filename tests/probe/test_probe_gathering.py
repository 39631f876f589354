from __future__ import annotations

import asyncio
import math
import time

import pytest

from tuner.probe import gathering
from tuner.probe.gathering import BUSY_S, ENOUGH_CHUNKS, LONGEST_REST_S, Gathering, rest_s, rests


@pytest.mark.parametrize(
    ("idle_s", "until_due_s", "wanted"),
    [
        pytest.param(BUSY_S / 2, math.inf, True, id="busy"),
        pytest.param(2 * BUSY_S, math.inf, False, id="not busy"),
        pytest.param(BUSY_S / 2, 10 * LONGEST_REST_S, True, id="busy, nothing due soon"),
        pytest.param(BUSY_S / 2, LONGEST_REST_S, False, id="a request is due soon"),
        pytest.param(BUSY_S / 2, -1.0, False, id="a request is late already"),
    ],
)
def test_only_a_busy_loop_with_nothing_to_send_rests(idle_s, until_due_s, wanted):
    assert rests(idle_s, until_due_s) is wanted


@pytest.mark.parametrize(
    ("gap_s", "rest"),
    [(0.04, LONGEST_REST_S), (0.01, LONGEST_REST_S), (0.004, 0.000_16), (0.0, 0.0)],
)
def test_a_rest_is_a_small_share_of_the_time_between_chunks(gap_s, rest):
    assert rest_s(gap_s) == pytest.approx(rest)


@pytest.mark.parametrize(
    ("answers", "rest"),
    [
        pytest.param([], LONGEST_REST_S, id="none yet"),
        pytest.param([(101, 0.4)], 0.000_16, id="4 ms between chunks"),
        pytest.param([(101, 0.4), (101, 4.0)], LONGEST_REST_S, id="slower answers since"),
        pytest.param([(101, 0.4), (ENOUGH_CHUNKS - 1, 9.0)], 0.000_16, id="a short one says nothing"),
        pytest.param([(101, 0.0)], 0.0, id="all at once"),
    ],
)
def test_a_turn_of_the_loop_rests_once_whatever_it_received(monkeypatch, answers, rest):
    rested: list[float] = []
    monkeypatch.setattr(time, "sleep", rested.append)
    # The turns of this test are as far apart as other programs let them be.
    monkeypatch.setattr(gathering, "BUSY_S", math.inf)

    async def turns() -> None:
        one = Gathering()
        for chunks, lasted_s in answers:
            one.answered(chunks, lasted_s)
        for _ in range(3):
            for _ in range(5):
                if not one.noticed:
                    one.received()
            await asyncio.sleep(0)
            assert not one.noticed

    asyncio.run(turns())
    assert rested == pytest.approx([rest] * 3)
