from __future__ import annotations

import pytest
from support.queue_engine import QueueEngine, VirtualRun

from tuner.probe.events import ClientStalled, ClosedLoop, EngineDied, Hold, OpenLoop, Tick
from tuner.probe.plan import RequestStream
from tuner.probe.steady import SteadyLoad, SteadySettings
from tuner.space.workload import Length, Workload

ENGINE = QueueEngine(slots=8)


def run(settings: SteadySettings, engine: QueueEngine = ENGINE, **kwargs) -> SteadyLoad:
    search = SteadyLoad(settings)
    virtual = VirtualRun(search, engine, RequestStream(Workload(Length.fixed(200), Length.fixed(20)), 0), **kwargs)
    virtual.run()
    return search


def test_a_rate_is_held_and_every_request_awaited():
    search = run(SteadySettings(30.0, rate_req_per_s=4.0))
    outcome = search.outcome
    assert (outcome.state, outcome.capacity_low_req_per_s) == ("measured", 4.0)
    assert outcome.requests == len(search.records) == pytest.approx(120, abs=35)
    assert outcome.duration_s >= 30.0
    assert search.sent_for_s == pytest.approx(30.0, abs=0.01)
    assert outcome.shown_level == 0


def test_a_concurrency_gives_the_rate_it_reached():
    outcome = run(SteadySettings(30.0, concurrency=4)).outcome
    assert outcome.capacity_low_req_per_s == pytest.approx(outcome.requests / 30.0, rel=0.05)


def test_errors_do_not_end_it_unless_everything_fails():
    some = run(SteadySettings(30.0, rate_req_per_s=4.0), QueueEngine(fail=lambda i, _: "reset" if i % 2 else None))
    assert some.outcome.state == "measured"
    assert some.outcome.errors["reset"] > 40
    every = run(SteadySettings(30.0, rate_req_per_s=4.0), QueueEngine(fail=lambda i, _: "reset"))
    assert (every.outcome.state, every.outcome.kind) == ("failed", "all_failed")


def test_a_dead_engine_ends_it():
    assert run(SteadySettings(30.0, rate_req_per_s=4.0), dies_at_s=5.0).outcome.kind == "engine_died"


def test_an_engine_that_never_answers_ends_it_in_time():
    outcome = run(SteadySettings(5.0, rate_req_per_s=1.0, max_duration_s=20.0), QueueEngine(prefill_s_per_token=1e3))
    assert outcome is not None


@pytest.mark.parametrize("event", [ClientStalled(3.0, 0.3), Tick(30.0)])
def test_a_client_that_stood_still_spoils_the_level(event):
    search = SteadyLoad(SteadySettings(60.0, rate_req_per_s=1.0))
    search.start(0.0)
    search.handle(event)
    search.interrupt("stop")
    (level,) = search.ended_levels
    assert level.verdict == "invalid"
    assert "stood still" in level.invalid_reason


def test_commands_in_order():
    search = SteadyLoad(SteadySettings(1.0, concurrency=2))
    assert search.start(0.0) == [ClosedLoop(0, 2)]
    commands = search.handle(Tick(1.0))
    assert commands[0] == Hold(0)
    assert search.handle(Tick(2.0)) == []
    assert search.wake_at_s is None
    open_ended = SteadyLoad(SteadySettings(1.0, rate_req_per_s=2.0))
    assert open_ended.start(0.0) == [OpenLoop(0, 2.0)]
    assert open_ended.wake_at_s == 1.0
    open_ended.handle(EngineDied(0.5))
    assert open_ended.outcome.state == "failed"


@pytest.mark.parametrize("settings", [SteadySettings(1.0), SteadySettings(1.0, 1.0, 1)])
def test_one_load_and_only_one(settings):
    with pytest.raises(ValueError, match="not both"):
        SteadyLoad(settings)
