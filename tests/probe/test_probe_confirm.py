from __future__ import annotations

import pytest
from support.queue_engine import QueueEngine, VirtualRun

from tuner.probe.confirm import ConfirmSettings, RateConfirmation
from tuner.probe.events import ClosedLoop, EngineDied, Stop, Tick
from tuner.probe.outcome import Outcome
from tuner.probe.plan import RequestStream
from tuner.space.workload import Length, Limits, Workload

ENGINE = QueueEngine()
TRUTH = 4.485  # see test_probe_capacity.py


def confirm(
    rate: float, *, engine: QueueEngine = ENGINE, seed: int = 0, duration_s: float = 600.0, run_kwargs=None, **kwargs
) -> Outcome:
    fields = {"limits": Limits(ttft_p95_s=2.0), "max_running": engine.slots} | kwargs
    search = RateConfirmation(ConfirmSettings(rate_req_per_s=rate, duration_s=duration_s, **fields))
    stream = RequestStream(Workload(Length.fixed(20000), Length.fixed(1000), 0.6, 32), seed)
    outcome = VirtualRun(search, engine, stream, **(run_kwargs or {})).run()
    assert search.handle(Tick(1e9)) == []
    assert search.wake_at_s is None
    assert [lv.level for lv in search.ended_levels] == [lv.level for lv in outcome.levels]
    return outcome


@pytest.mark.parametrize("max_running", [256, None])
@pytest.mark.parametrize("seed", range(3))
def test_a_rate_below_capacity_holds(seed, max_running):
    outcome = confirm(0.93 * TRUTH, seed=seed, max_running=max_running)
    assert outcome.state == "measured"
    assert outcome.capacity_low_req_per_s == outcome.capacity_high_req_per_s == 0.93 * TRUTH
    assert len(outcome.ttft) == pytest.approx(600 * 0.93 * TRUTH, rel=0.1)
    assert [lv.verdict for lv in outcome.levels] == ["holds"]
    assert "holds" in outcome.reason
    assert "5% permitted" in outcome.reason


@pytest.mark.parametrize("seed", range(3))
def test_a_rate_above_capacity_misses_and_is_ended_early(seed):
    outcome = confirm(1.15 * TRUTH, seed=seed)
    assert (outcome.state, outcome.kind) == ("infeasible", "missed")
    assert outcome.bound_req_per_s == 1.15 * TRUTH
    assert outcome.levels[-1].duration_s == pytest.approx(300, abs=5)
    assert outcome.nearest_miss_ttft_p95_s > 2.0


def test_too_few_requests_run_on_and_then_are_not_enough():
    longer = confirm(0.1, duration_s=60.0)
    assert longer.state == "measured"
    assert longer.levels[-1].duration_s > 500
    short = confirm(0.1, duration_s=60.0, max_duration_s=400.0)
    assert (short.state, short.kind) == ("failed", "undecided")
    assert "59 are needed" in short.reason


def test_a_deadline_with_enough_requests_is_a_verdict():
    assert confirm(0.9 * TRUTH, duration_s=6000.0, max_duration_s=400.0).state == "measured"


def test_a_pool_that_never_fills_its_slots_does_not_hold_it_up():
    """The cap says 4096, the engine admits 64 at a time."""
    outcome = confirm(1.0, engine=QueueEngine(slots=64), max_running=4096, duration_s=100.0)
    assert outcome.state == "measured"
    assert outcome.duration_s < 1200


@pytest.mark.parametrize("at_s", [1.0, 40.0, 90.0, 300.0])
def test_a_death_in_any_phase_ends_it(at_s):
    outcome = confirm(0.9 * TRUTH, run_kwargs={"dies_at_s": at_s})
    assert (outcome.state, outcome.kind) == ("failed", "engine_died")
    assert outcome.duration_s <= at_s + 1.0


def test_a_sleep_of_this_process_confirms_nothing():
    outcome = confirm(0.9 * TRUTH, run_kwargs={"sleeps": ((200.0, 60.0),)})
    assert (outcome.state, outcome.kind) == ("failed", "undecided")


def test_failing_requests_end_it():
    outcome = confirm(1.0, engine=QueueEngine(fail=lambda index, now_s: "reset"))
    assert (outcome.state, outcome.kind) == ("failed", "all_failed")


def test_an_interrupt_confirms_nothing():
    search = RateConfirmation(ConfirmSettings(Limits(), 1.0, 60.0))
    assert search.start(0.0) == [ClosedLoop(0, 16, stagger=True)]
    search.interrupt("stopped")
    search.interrupt("again")
    assert (search.outcome.state, search.outcome.reason) == ("failed", "stopped")
    assert search.handle(EngineDied(1.0)) == []
    other = RateConfirmation(ConfirmSettings(Limits(), 1.0, 60.0))
    other.start(0.0)
    assert other.handle(EngineDied(1.0)) == [Stop()]
