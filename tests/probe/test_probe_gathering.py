from __future__ import annotations

import asyncio
import math
import time

import pytest

from tuner.probe import gathering
from tuner.probe.gathering import BUSY_S, REST_S, Gathering, rests


@pytest.mark.parametrize(
    ("idle_s", "until_due_s", "wanted"),
    [
        pytest.param(BUSY_S / 2, math.inf, True, id="busy"),
        pytest.param(2 * BUSY_S, math.inf, False, id="not busy"),
        pytest.param(BUSY_S / 2, 10 * REST_S, True, id="busy, nothing due soon"),
        pytest.param(BUSY_S / 2, REST_S, False, id="a request is due soon"),
        pytest.param(BUSY_S / 2, -1.0, False, id="a request is late already"),
    ],
)
def test_only_a_busy_loop_with_nothing_to_send_rests(idle_s, until_due_s, wanted):
    assert rests(idle_s, until_due_s) is wanted


def test_a_turn_of_the_loop_rests_once_whatever_it_received(monkeypatch):
    rested: list[float] = []
    monkeypatch.setattr(time, "sleep", rested.append)
    # The turns of this test are as far apart as other programs let them be.
    monkeypatch.setattr(gathering, "BUSY_S", math.inf)

    async def turns() -> None:
        one = Gathering()
        for _ in range(3):
            for _ in range(5):
                if not one.noticed:
                    one.received()
            await asyncio.sleep(0)
            assert not one.noticed

    asyncio.run(turns())
    assert rested == [REST_S] * 3
