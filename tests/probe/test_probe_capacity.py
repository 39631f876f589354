from __future__ import annotations

import statistics

import pytest
from support.queue_engine import QueueEngine, VirtualRun

from tuner.probe.capacity import CapacitySearch, ProbeSettings
from tuner.probe.events import (
    ClosedLoop,
    EngineDied,
    Finished,
    FirstToken,
    Hold,
    OpenLoop,
    RequestRecord,
    Sent,
    Stop,
    Tick,
)
from tuner.probe.outcome import Outcome
from tuner.probe.plan import RequestStream
from tuner.space.workload import Length, Limits, Workload

SEEDS = range(10)

# Engine, answer lengths, and the true capacity at TTFT p95 <= 2 s: bisection over open loops of 20,000 requests each.
PREFILL_FIRST = QueueEngine()
MIXED = QueueEngine(prefill_first=False)
FEW_SLOTS = QueueEngine(slots=96, step_s=0.03)
ENGINES = {
    "prefill-first": (PREFILL_FIRST, Length.fixed(1000), 4.485),
    "mixed-chunks": (MIXED, Length.fixed(1000), 4.343),
    "few-slots": (FEW_SLOTS, Length.fixed(1000), 1.851),
    "varied-answers": (PREFILL_FIRST, Length("uniform", 500, 1500), 4.499),
}


def a_stream(seed: int = 0, output: Length | None = None) -> RequestStream:
    return RequestStream(Workload(Length.fixed(20000), output or Length.fixed(1000), 0.6, 32), seed)


def settings(**kwargs) -> ProbeSettings:
    fields = {"limits": Limits(ttft_p95_s=2.0), "mean_output_tokens": 1000.0, "max_running": 256}
    return ProbeSettings(**(fields | kwargs))


def run(engine: QueueEngine, seed: int = 0, output: Length | None = None, run_kwargs=None, **kwargs) -> Outcome:
    search = CapacitySearch(settings(max_running=kwargs.pop("max_running", engine.slots), **kwargs))
    outcome = VirtualRun(search, engine, a_stream(seed, output), **(run_kwargs or {})).run()
    assert search.handle(Tick(1e9)) == []
    assert search.wake_at_s is None
    return outcome


# --- how true and how dear


@pytest.mark.parametrize("name", ENGINES)
def test_the_capacity_found_is_the_true_one(name):
    engine, output, truth = ENGINES[name]
    outcomes = [run(engine, seed, output) for seed in SEEDS]
    assert {o.state for o in outcomes} == {"measured"}
    found = [o.capacity_low_req_per_s / truth for o in outcomes]
    assert statistics.mean(found) == pytest.approx(1.0, abs=0.06)
    assert max(found) <= 1.06
    assert statistics.mean(o.duration_s for o in outcomes) <= 300
    assert all(
        o.capacity_low_req_per_s < o.capacity_high_req_per_s <= 1.0501 * o.capacity_low_req_per_s for o in outcomes
    )


@pytest.mark.parametrize("name", ENGINES)
def test_a_loser_is_dropped_soon(name):
    engine, output, truth = ENGINES[name]
    outcomes = [run(engine, seed, output, incumbent_req_per_s=1.15 * truth) for seed in SEEDS]
    assert {o.state for o in outcomes} == {"pruned"}
    assert statistics.mean(o.duration_s for o in outcomes) <= 130
    assert all(truth <= o.bound_req_per_s <= 1.25 * truth for o in outcomes)


def test_a_winner_is_not_dropped():
    engine, output, truth = ENGINES["prefill-first"]
    outcome = run(engine, 1, output, incumbent_req_per_s=0.8 * truth)
    assert outcome.state == "measured"


def test_a_capacity_far_below_saturation_is_found():
    """A tight limit with mixed chunks: first tokens are late long before the slots are full."""
    outcome = run(MIXED, limits=Limits(ttft_p95_s=0.5))
    assert outcome.state == "measured"
    assert outcome.capacity_low_req_per_s < 0.85 * outcome.saturation_req_per_s


@pytest.mark.parametrize("claimed", [None, 4000])
def test_the_true_cap_is_found_by_filling(claimed):
    """Whether the engine hides it, or its KV pool holds fewer than it claims: the queue behind it stays short."""
    known, unknown = run(FEW_SLOTS, 3), run(FEW_SLOTS, 3, max_running=claimed)
    assert unknown.state == "measured"
    assert unknown.capacity_low_req_per_s == pytest.approx(known.capacity_low_req_per_s, rel=0.06)
    assert unknown.duration_s < 300
    assert unknown.levels[0].concurrency <= 1.2 * FEW_SLOTS.slots


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_tiny_engines_are_measured_too(slots):
    engine = QueueEngine(slots=slots)
    outcome = run(engine, max_duration_s=40_000.0, limits=Limits(ttft_p95_s=20.0))
    assert outcome.state == "measured"
    assert outcome.capacity_low_req_per_s <= outcome.saturation_req_per_s


def test_answers_of_one_token_are_measured():
    outcome = run(QueueEngine(slots=16), output=Length.fixed(1), mean_output_tokens=1.0)
    assert outcome.state == "measured"
    assert 5.0 < outcome.capacity_low_req_per_s < 11.6e-6**-1 / 8000


@pytest.mark.parametrize(
    ("limits", "share"),
    [
        (Limits(ttft_p95_s=2.0, tpot_p95_ms=35.0), 0.77),
        (Limits(tpot_p95_ms=35.0), 0.75),
        (Limits(e2e_p95_s=40.0), 0.85),
        (Limits(), 1.0),
    ],
)
def test_other_limits_bind(limits, share):
    """A time per token of 35 ms is reached well below saturation, where it is 53 ms."""
    outcome = run(PREFILL_FIRST, limits=limits)
    assert outcome.state == "measured"
    assert outcome.capacity_low_req_per_s <= share * outcome.saturation_req_per_s


# --- verdicts that are not a capacity


def test_an_engine_that_is_too_slow_for_anyone_is_infeasible():
    outcome = run(QueueEngine(slots=32, prefill_s_per_token=5e-4))
    assert (outcome.state, outcome.kind) == ("infeasible", "floor")
    assert outcome.nearest_miss_ttft_p95_s == pytest.approx(4.0, rel=0.1)
    assert outcome.bound_req_per_s is not None
    assert outcome.capacity_low_req_per_s is None


def test_an_engine_that_holds_only_one_at_a_time_is_infeasible():
    """The floor holds, every open loop above 2 % of saturation misses."""
    outcome = run(QueueEngine(slots=64, prefill_s_per_token=2.3e-4), max_duration_s=20_000.0, poisson=False)
    floors = [lv for lv in outcome.levels if lv.concurrency == 1]
    assert [lv.verdict for lv in floors] == ["holds"]
    assert outcome.levels[-1].kind == "open"
    assert outcome.levels[-1].rate_req_per_s < 0.5 * outcome.saturation_req_per_s


def test_an_engine_that_holds_only_a_trickle_is_measured_at_it():
    """Prefill takes 1.84 of the 2 s permitted: whoever meets another request is late, so one in twenty may."""
    outcome = run(QueueEngine(slots=64, prefill_s_per_token=2.3e-4), max_duration_s=20_000.0)
    assert outcome.state == "measured"
    assert outcome.capacity_low_req_per_s == pytest.approx(0.05 / 1.84, rel=0.25)


@pytest.mark.parametrize("word", ["http_500", "reset", "timeout"])
def test_when_every_request_fails_it_says_so(word):
    outcome = run(QueueEngine(fail=lambda index, now_s: word))
    assert (outcome.state, outcome.kind) == ("failed", "all_failed")
    assert word in outcome.reason
    assert outcome.errors[word] >= 20
    assert outcome.duration_s < 60


def test_too_many_errors_are_infeasible_wherever_they_come():
    outcome = run(QueueEngine(fail=lambda index, now_s: "http_500" if index % 10 == 0 else None))
    assert (outcome.state, outcome.kind) == ("infeasible", "error_rate")
    assert "permitted: 0.50%" in outcome.reason


def test_one_failed_request_does_not_fail_a_trial():
    outcome = run(QueueEngine(fail=lambda index, now_s: "http_500" if index == 40 else None))
    assert outcome.state == "measured"
    assert outcome.errors == {"http_500": 1}


def test_an_error_rate_just_above_the_limit_fails_at_the_end():
    outcome = run(QueueEngine(fail=lambda index, now_s: "http_500" if index % 70 == 7 else None))
    assert (outcome.state, outcome.kind) == ("infeasible", "error_rate")
    assert outcome.capacity_low_req_per_s is None


def test_refusals_under_overload_are_misses_of_the_level_not_faults_of_the_trial():
    outcome = run(QueueEngine(fail=lambda index, now_s: "http_503" if index > 256 and now_s < 30 else None))
    assert outcome.state == "measured"
    assert outcome.errors["http_503"] > 0


def test_an_engine_that_hangs_is_noticed():
    outcome = run(QueueEngine(prefill_s_per_token=1.0))
    assert (outcome.state, outcome.kind) == ("failed", "hang")
    assert outcome.duration_s < 310


@pytest.mark.parametrize("at_s", [0.5, 20.0, 60.0, 79.0, 85.0, 110.0])
def test_a_death_in_any_phase_ends_it_at_once(at_s):
    outcome = run(PREFILL_FIRST, 1, run_kwargs={"dies_at_s": at_s})
    assert (outcome.state, outcome.kind) == ("failed", "engine_died")
    assert outcome.duration_s <= at_s + 1.0


@pytest.mark.parametrize("max_duration_s", [5.0, 30.0, 79.0, 85.0, 100.0, 150.0])
def test_the_deadline_always_holds_and_an_undecided_level_is_no_pass(max_duration_s):
    outcome = run(PREFILL_FIRST, 1, max_duration_s=max_duration_s)
    assert outcome.duration_s <= max_duration_s + 1.0
    held = [lv.rate_req_per_s for lv in outcome.levels if lv.verdict == "holds" and lv.kind == "open"]
    assert outcome.capacity_low_req_per_s == (max(held) if held else None)
    assert outcome.state == ("measured" if held else "failed")
    if not held:
        assert outcome.kind == "undecided"


def test_a_bracket_cut_short_stays_wide():
    """It held at one rate and missed at another: both ends are reported as they are."""
    outcome = run(FEW_SLOTS, 4, max_duration_s=125.0)
    whole = run(FEW_SLOTS, 4)
    assert outcome.state in ("measured", "failed")
    if outcome.state == "measured":
        assert outcome.capacity_high_req_per_s >= whole.capacity_low_req_per_s


@pytest.mark.parametrize("name", ENGINES)
def test_levels_say_what_the_capacity_is_not_above_ever_more_tightly(name):
    engine, output, truth = ENGINES[name]
    for seed in range(3):
        outcome = run(engine, seed, output)
        shown = [level.capacity_at_most_req_per_s for level in outcome.levels]
        assert None not in shown
        assert shown == sorted(shown, reverse=True)
        assert 1.3 * truth >= shown[-1] >= outcome.capacity_low_req_per_s
        missed = [lv.rate_req_per_s for lv in outcome.levels if lv.verdict == "misses" and lv.kind == "open"]
        assert shown[-1] <= min(missed, default=shown[0])


def test_levels_are_bounded():
    outcome = run(FEW_SLOTS, 4, max_levels=2)
    assert outcome.state in ("failed", "measured")
    assert len(outcome.levels) <= 2


def test_out_of_time_against_an_incumbent_is_pruned_with_what_was_shown():
    """Too short to step down to a rate that holds, long enough to know that the incumbent is not beaten."""
    outcomes = [run(FEW_SLOTS, 3, incumbent_req_per_s=1.9, max_duration_s=t) for t in (60.0, 400.0)]
    assert [o.state for o in outcomes] == ["failed", "pruned"]
    assert outcomes[-1].bound_req_per_s <= 1.9 * 1.02


@pytest.mark.parametrize("at_s", [10.0, 50.0, 100.0])
def test_a_sleep_of_this_process_voids_the_level_not_the_search(at_s):
    outcome = run(PREFILL_FIRST, 1, run_kwargs={"sleeps": ((at_s, 60.0),)})
    assert outcome.state == "measured"
    assert outcome.capacity_low_req_per_s / 4.485 == pytest.approx(1.0, abs=0.12)


def test_a_process_that_keeps_sleeping_gives_up():
    sleeps = tuple((10.0 + 15.0 * i, 20.0) for i in range(10))
    outcome = run(PREFILL_FIRST, 1, run_kwargs={"sleeps": sleeps})
    assert (outcome.state, outcome.kind) == ("failed", "undecided")
    assert "stood still 6 times" in outcome.reason


def test_an_interrupt_reports_what_was_shown():
    search = CapacitySearch(settings())
    search.start(0.0)
    search.interrupt("stopped from outside")
    search.interrupt("again")
    assert search.outcome is not None
    assert search.outcome.reason.startswith("stopped from outside and no rate")


# --- the commands, step by step


def test_it_begins_with_a_few_and_fills_as_the_server_takes_them_in():
    search = CapacitySearch(settings(max_running=100))
    assert search.start(5.0) == [ClosedLoop(0, 16, stagger=True)]
    for index in range(16):
        assert search.handle(Sent(index, 0, 5.0, 5.0)) == []
    assert search.handle(FirstToken(0, 5.5)) == [ClosedLoop(0, 17, stagger=True)]


def test_nothing_is_sent_between_levels_while_anyone_waits():
    engine = VirtualRun(CapacitySearch(settings()), PREFILL_FIRST, a_stream(2))
    engine.run()
    kinds = [type(c) for c in engine.commands]
    assert kinds[-1] is Stop
    for before, after in zip(engine.commands, engine.commands[1:], strict=False):
        if isinstance(after, OpenLoop):
            assert isinstance(before, Hold)


def test_time_never_goes_back():
    """Events a little out of order, and a clock set back, change no verdict and raise nothing."""
    search = CapacitySearch(settings(max_running=4))
    search.start(100.0)
    search.handle(Sent(0, 0, 100.0, 100.0))
    search.handle(Tick(99.0))
    search.handle(FirstToken(0, 98.0))
    search.handle(Finished(RequestRecord(0, 0, 100.0, 100.0, 98.0, 97.0, 10, 10, 0)))
    assert search.outcome is None
    assert search.book.now_s == 100.0


def test_what_was_under_way_when_the_engine_died_has_failed():
    search = CapacitySearch(settings(max_running=4))
    search.start(0.0)
    for index in range(3):
        search.handle(Sent(index, 0, 0.0, 0.0))
    search.handle(FirstToken(0, 0.5))
    search.handle(Finished(RequestRecord(0, 0, 0.0, 0.0, 0.5, 1.0, 10, 10, 0)))
    search.handle(FirstToken(1, 1.5))
    assert search.handle(EngineDied(2.0)) == [Stop()]
    assert search.outcome.errors == {"engine_died": 2}
    assert [(r.index, r.first_token_s, r.done_s) for r in search.book.flights.records if r.error] == [
        (1, 1.5, 2.0),
        (2, None, 2.0),
    ]


def test_strangers_are_ignored():
    search = CapacitySearch(settings())
    search.start(0.0)
    search.handle(FirstToken(99, 1.0))
    search.handle(Finished(RequestRecord(99, 0, 0.0, 0.0, None, 1.0, 0, 0, 0, error="reset")))
    assert search.book.flights.failed == 0
    assert search.handle(EngineDied(2.0)) == [Stop()]
    assert search.handle(EngineDied(3.0)) == []


def test_a_full_server_that_serves_nothing_any_more_is_infeasible():
    """Ten quick answers, then silence for longer than the window the throughput is counted over."""
    search = CapacitySearch(ProbeSettings(Limits(ttft_p95_s=1.0), 10.0, max_running=1))
    search.start(0.0)
    for i in range(10):
        at_s = i / 100
        search.handle(Sent(i, 0, at_s, at_s))
        search.handle(FirstToken(i, at_s + 0.001))
        record = RequestRecord(i, 0, at_s, at_s, at_s + 0.001, at_s + 0.005, 10, 10, 0)
        search.handle(Finished(record))
    search.handle(Tick(6.0))
    assert search.outcome is not None
    assert (search.outcome.state, search.outcome.kind) == ("infeasible", "floor")
    assert "serves nothing" in search.outcome.reason
