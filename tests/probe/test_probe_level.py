from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.probe.events import RequestRecord
from tuner.probe.flights import Flight
from tuner.probe.level import BacklogAlarm, LevelTally, LimitTest
from tuner.probe.statistics import Sprt
from tuner.space.workload import Limits


def a_tally(limits: Limits | None = None, **kwargs) -> LevelTally:
    return LevelTally(0, 100.0, limits or Limits(ttft_p95_s=2.0), rate_req_per_s=1.0, **kwargs)


def sent(tally: LevelTally, index: int, at_s: float) -> Flight:
    flight = Flight(index, tally.level, at_s, at_s + 0.001)
    tally.sent(flight)
    return flight


def token(tally: LevelTally, flight: Flight, after_s: float) -> None:
    flight.first_token_s = flight.scheduled_s + after_s
    tally.first_token(flight)


def ended(
    tally: LevelTally, flight: Flight, after_s: float, *, tokens: int = 11, error: str | None = None
) -> RequestRecord:
    record = RequestRecord(
        flight.index, tally.level, flight.scheduled_s, flight.sent_s, flight.first_token_s,
        flight.scheduled_s + after_s, 100, tokens, 60, tokens, error=error,
    )  # fmt: skip
    flight.done_s, flight.error = record.done_s, error
    tally.finished(flight, record)
    return record


@pytest.mark.parametrize(("after_s", "missed"), [(0.1, 0), (2.0, 0), (2.001, 1)])
def test_a_first_token_exactly_at_the_limit_is_in_time(after_s, missed):
    tally = a_tally()
    token(tally, sent(tally, 0, 100.0), after_s)
    assert (tally.missed, tally.decided) == (missed, 1)


def test_a_late_token_is_a_miss_when_the_limit_passes_not_when_it_comes():
    tally = a_tally()
    flight = sent(tally, 0, 100.0)
    assert tally.next_deadline_s() == pytest.approx(102.001)
    tally.advance(102.0)
    assert tally.decided == 0
    tally.advance(102.001)
    assert (tally.missed, tally.decided) == (1, 1)
    assert tally.next_deadline_s() is None
    token(tally, flight, 9.0)
    assert (tally.missed, tally.decided) == (1, 1)
    assert tally.samples()[0].from_scheduled_s == 9.0


@pytest.mark.parametrize("error", ["reset", "http_503"])
def test_a_failed_request_misses_even_after_a_fast_token(error):
    tally = a_tally()
    flight = sent(tally, 0, 100.0)
    token(tally, flight, 0.1)
    assert tally.missed == 0
    ended(tally, flight, 0.2, error=error)
    assert (tally.missed, tally.ttft.hits, tally.ttft.misses) == (1, 0, 1)
    assert tally.samples()[0].from_scheduled_s is None


def test_requests_before_the_counted_part_and_after_the_end_do_not_count():
    tally = a_tally(count_from_s=105.0)
    token(tally, sent(tally, 0, 104.9), 9.0)
    token(tally, sent(tally, 1, 105.0), 0.1)
    tally.end_s = 110.0
    sent(tally, 2, 111.0)
    assert (tally.decided, tally.missed, len(tally.flights)) == (1, 0, 1)


@pytest.mark.parametrize(("decode_s", "missed"), [(1.0, 0), (1.1, 1)])
def test_time_per_token_is_judged_at_the_end(decode_s, missed):
    tally = a_tally(Limits(tpot_p95_ms=100.0))
    flight = sent(tally, 0, 100.0)
    token(tally, flight, 1.0)
    assert tally.held == 0
    ended(tally, flight, 1.0 + decode_s, tokens=11)
    assert (tally.missed, tally.held) == (missed, 1 - missed)


def test_end_to_end_is_missed_while_still_running():
    tally = a_tally(Limits(e2e_p95_s=5.0))
    slow, fast = sent(tally, 0, 100.0), sent(tally, 1, 100.5)
    for flight in (slow, fast):
        token(tally, flight, 0.1)
    assert tally.next_deadline_s() == pytest.approx(105.001)
    ended(tally, fast, 4.0)
    tally.advance(105.1)
    assert (tally.missed, tally.held) == (1, 1)
    assert tally.next_deadline_s() is None


def test_all_limits_must_accept_and_one_rejects():
    tally = a_tally(Limits(ttft_p95_s=2.0, tpot_p95_ms=100.0))
    flights = [sent(tally, i, 100.0 + i) for i in range(40)]
    for flight in flights:
        token(tally, flight, 0.1)
    assert tally.verdict() is None
    for flight in flights[:38]:
        ended(tally, flight, 1.0)
    assert tally.verdict() == "accept"
    for flight in flights[38:]:
        ended(tally, flight, 9.0)
    assert tally.tpot is not None
    for index in range(40, 44):
        tally.tpot.expect(index)
        tally.tpot.decide(index, missed=True)
    assert tally.verdict() == "reject"


def test_fast_answers_are_not_accepted_ahead_of_undecided_ones():
    """36 hits accept, but not while the oldest request may still be a miss."""
    test = LimitTest(Sprt())
    for index in range(41):
        test.expect(index)
    for index in range(1, 41):
        test.decide(index, missed=False)
    assert test.verdict() is None
    test.decide(0, missed=False)
    assert test.verdict() == "accept"


def test_misses_reject_without_waiting_for_older_ones():
    test = LimitTest(Sprt())
    for index in range(5):
        test.expect(index)
    test.decide(3, missed=True)
    test.decide(4, missed=True)
    assert test.verdict() == "reject"


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=120))
def test_counts_always_equal_the_decisions(decisions):
    """In any order, with repeats: a miss stays a miss, strangers are ignored, nobody is counted twice."""
    test, known = LimitTest(Sprt()), {}
    for index in range(25):
        test.expect(index)
    for index, missed in decisions:
        test.decide(index, missed=missed)
        if index < 25:
            known[index] = known.get(index, False) or missed
    head = next((i for i in range(25) if i not in known), 25)
    assert (test.hits, test.misses) == (sum(not m for m in known.values()), sum(known.values()))
    assert test._closed_misses == sum(known[i] for i in range(head))
    assert test._closed_hits == head - test._closed_misses


def test_the_report_of_a_level():
    tally = a_tally()
    records = []
    for i in range(20):
        flight = sent(tally, i, 100.0 + i)
        token(tally, flight, 0.1 * (i + 1))
        records.append(ended(tally, flight, 0.1 * (i + 1) + 1.0))
    tally.end_s, tally.verdict_word = 120.0, "holds"
    level = tally.report(records, 130.0, 90.0)
    assert (level.start_s, level.duration_s, level.requests, level.misses, level.errors) == (10.0, 20.0, 20, 0, 0)
    assert (level.ttft_p50_s, level.ttft_p95_s) == (pytest.approx(1.0), pytest.approx(1.9))
    assert level.tpot_p50_ms == pytest.approx(100.0)
    assert level.output_tokens_per_s == pytest.approx(11 * sum(r.done_s <= 120.0 for r in records) / 20.0)
    assert (level.kind, level.verdict) == ("open", "holds")


def test_p95_is_none_when_more_than_five_percent_had_no_token():
    tally = a_tally()
    for i in range(20):
        flight = sent(tally, i, 100.0)
        if i > 1:
            token(tally, flight, 0.5)
    tally.advance(200.0)
    level = tally.report([], 200.0, 0.0)
    assert (level.ttft_p50_s, level.ttft_p95_s, level.requests, level.misses) == (0.5, None, 20, 2)
    assert tally.nearest_miss_s(200.0) == 100.0


@pytest.mark.parametrize(
    ("rate", "limit_s", "waiting", "rings"), [(2.0, 2.0, 12, False), (2.0, 2.0, 13, True), (0.1, 2.0, 4, False)]
)
def test_more_wait_than_littles_law_allows_rings(rate, limit_s, waiting, rings):
    assert BacklogAlarm(rate, limit_s, 10.0, 0.0).rings(1.0, waiting) is rings


@pytest.mark.parametrize(
    ("lows", "rings"),
    [((1, 5, 9), True), ((5, 5, 9), False), ((1, 2, 3), False), ((9, 5, 6), False), ((0, 0, 0), False)],
)
def test_a_backlog_that_grows_block_by_block_rings(lows, rings):
    alarm, now_s = BacklogAlarm(1.0, None, 10.0, 0.0), 0.0
    rang = []
    for low in lows:
        for extra in (3, 0):
            now_s += 5.0
            rang.append(alarm.rings(now_s, low + extra))
        now_s += 0.001
    assert any(rang) is rings


def test_a_stable_queue_never_rings():
    alarm = BacklogAlarm(4.0, 5.0, 5.0, 0.0)
    assert not any(alarm.rings(t * 0.5, round(3 + 3 * math.sin(t))) for t in range(1000))
