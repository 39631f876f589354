from __future__ import annotations

import pytest

from tuner.probe.events import ClosedLoop, RequestRecord
from tuner.probe.filling import Filling
from tuner.probe.saturation import Saturation


def fill(filling: Filling, slots: int, tokens: int) -> list[ClosedLoop]:
    """An engine that takes in one request after the other until its slots are full, then as many as it completes."""
    commands = filling.commands(0, 0)
    for token in range(1, tokens + 1):
        filling.first_token(min(token, slots))
        commands += filling.commands(0, min(token, slots))
    return commands


def test_a_known_cap_is_filled_and_overfilled_by_15_percent():
    filling = Filling(100)
    commands = fill(filling, 100, 99)
    assert not filling.full
    filling.first_token(100)
    assert filling.full
    assert max(c.concurrency for c in commands) == 115
    assert max(c.concurrency for c in commands if c.stagger) == 100


@pytest.mark.parametrize(("cap", "slots", "tokens"), [(None, 64, 80), (1000, 64, 80), (None, 400, 500)])
def test_a_server_that_takes_no_more_is_full_and_its_queue_is_short(cap, slots, tokens):
    filling = Filling(cap)
    fill(filling, slots, tokens - 1)
    assert not filling.full
    filling.first_token(slots)
    assert filling.full
    assert filling.concurrency <= slots + max(16, 0.15 * slots + 1)


def test_a_tiny_engine_is_not_given_more_than_its_share():
    assert Filling(1).commands(3, 0) == [ClosedLoop(3, 1, stagger=True), ClosedLoop(3, 2)]


def test_nothing_is_sent_beyond_the_most_a_client_should_hold():
    filling = Filling(None)
    filling.commands(0, 10_000)
    assert filling.concurrency == 4096


def test_what_comes_after_the_server_is_full_lives_a_whole_life():
    filling = Filling(None)
    fill(filling, 64, 80)
    assert filling.commands(0, 80) == [ClosedLoop(0, 96)]


def a_record(begin_s: float, end_s: float, tokens: int = 101, error: str | None = None) -> RequestRecord:
    return RequestRecord(0, 0, begin_s, begin_s, begin_s, end_s, 100, tokens, 0, error=error)


def saturated(cap: int = 20) -> Saturation:
    seen = Saturation(Filling(cap), 101.0, 2.0)
    seen.filling.commands(0, 0)
    for i in range(cap):
        seen.first_token(i * 0.1, i + 1)
    return seen


def test_the_rate_is_that_of_one_residence_time():
    """20 slots, 10 s each: 2 requests a second, known after one residence time."""
    seen = saturated()
    assert seen.filled_s == pytest.approx(1.9)
    for i in range(1, 24):
        assert i > 20 or not seen.done(1.9 + i * 0.5)
        seen.finished(a_record(max(0.0, 1.9 + i * 0.5 - 10.0), 1.9 + i * 0.5))
        seen.first_token(1.9 + i * 0.5, 20)
    assert seen.residence_s == pytest.approx(10.0)
    assert seen.done(13.5)
    assert seen.rate(13.5) == pytest.approx(2.0, rel=0.1)


def test_failed_and_early_requests_say_nothing_of_the_residence():
    seen = saturated()
    for _ in range(5):
        seen.finished(a_record(5.0, 6.0, error="reset"))
        seen.finished(a_record(0.5, 6.0))
    assert seen.residence_s is None
    assert seen.upper_bound(20.0) is None


def test_a_bound_is_known_before_the_rate():
    seen = saturated()
    for i in range(1, 15):
        seen.finished(a_record(0.5, 1.9 + i * 0.5, tokens=5 * i + 15))
        seen.first_token(1.9 + i * 0.5, 20)
    assert seen.residence_s is None
    assert seen.upper_bound(8.9) == pytest.approx(2.0 * 1.15, rel=0.1)


def test_answers_of_one_token_have_a_residence_too():
    seen = saturated()
    for _ in range(3):
        seen.finished(a_record(5.0, 5.25, tokens=1))
    assert seen.residence_s == pytest.approx(0.25)


def test_a_batch_that_still_grows_is_watched_up_to_twice_as_long():
    seen = saturated()
    for i in range(1, 45):
        seen.first_token(1.9 + i * 0.5, 20)
        if i % 3 == 0:
            seen.finished(a_record(max(1.9, i * 0.5 - 8.1), 1.9 + i * 0.5))
    residence = seen.residence_s
    assert residence is not None
    assert not seen.done(1.9 + 1.5 * residence)
    assert seen.done(1.9 + 2.0 * residence)


def test_after_a_sleep_the_window_begins_again():
    seen = saturated()
    for i in range(1, 24):
        seen.first_token(1.9 + i * 0.5, 20)
        seen.finished(a_record(1.9, 1.9 + i * 0.5))
    seen.restart(50.0)
    assert seen.filled_s == 50.0
    assert not seen.done(100.0)
