"""The client in virtual time: what it sends, when, and what it tells the search."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest

from tuner.probe.events import ClosedLoop, EngineDied, Finished, FirstToken, Hold, OpenLoop, Sent, Stop, Tick
from tuner.probe.outcome import Outcome
from tuner.probe.plan import RequestStream
from tuner.runtime.virtual import TICK_S, VirtualLoad
from tuner.simulator.assemble import simulated_engine
from tuner.simulator.events import Trap
from tuner.space.workload import Length, Workload

ARGV = ["--model-path", "amd/GLM-5.2-MXFP4", "--tp-size", "8", "--mem-fraction-static", "0.84"]
ARGV += ["--kv-cache-dtype", "fp8_e4m3", "--chunked-prefill-size", "16384", "--max-running-requests"]


@dataclass
class Script:
    """A search that gives its commands at their times, hears everything, and ends at `until_s`."""

    commands: list
    until_s: float
    outcome: Outcome | None = None
    wakes: list = field(default_factory=list)
    heard: list = field(default_factory=list)
    ended_levels: tuple = ()

    @property
    def wake_at_s(self):
        return min((at for at in self.wakes if at > self.now_s), default=None)

    @property
    def now_s(self):
        return self.heard[-1].at_s if self.heard else 0.0

    def start(self, now_s):
        self.began_s = now_s
        return self.due(now_s)

    def handle(self, event):
        assert self.outcome is None, "nothing is told after the end"
        self.heard.append(event)
        if event.at_s >= self.until_s or isinstance(event, EngineDied):
            self.interrupt("over")
            return [Stop()]
        return self.due(event.at_s)

    def due(self, now_s):
        given = [command for at, command in self.commands if at <= now_s]
        self.commands = [(at, command) for at, command in self.commands if at > now_s]
        return given

    def interrupt(self, why):
        self.outcome = Outcome("failed", why)

    def of(self, kind):
        return [event for event in self.heard if isinstance(event, kind)]


def an_engine(running=8, trap=None, extra=()):
    """GLM-5.2 on eight GPUs, without noise."""
    made = simulated_engine(
        [*ARGV, str(running), *extra], accelerator="mi355x", architecture="glm-5.2", world=0, seed=1, noise_sd=0.0
    )
    for replica in made.engine._replicas:
        replica.trap = trap
    return made.engine


def a_load(engine=None, first_token_s=600.0, seed=1, **workload):
    values = {"input_tokens": Length.fixed(1000), "output_tokens": Length.fixed(20), "cached_fraction": 0.0} | workload
    stream = RequestStream(Workload(**values), seed)
    return VirtualLoad(engine or an_engine(), stream, first_token_s=first_token_s)


def run(load, *commands, until_s=10.0, wakes=()):
    script = Script(list(commands), until_s, wakes=list(wakes))
    load.run(script)
    return script


def test_time_goes_on_in_ticks_and_at_the_moments_the_search_asks_for():
    script = run(a_load(), (0.0, Hold(0)), until_s=3.5, wakes=[0.25, 2.6])
    times = [event.at_s for event in script.of(Tick)]
    assert {0.25, 2.6} <= set(times)
    assert times == sorted(times)
    assert max(b - a for a, b in zip([0.0, *times], times, strict=False)) <= TICK_S


def test_an_open_loop_sends_exactly_when_requests_are_due():
    script = run(a_load(), (0.0, OpenLoop(1, 5.0)), until_s=40.0)
    sent = script.of(Sent)
    assert all(event.at_s == event.scheduled_s for event in sent)
    assert [event.index for event in sent] == list(range(len(sent)))
    assert {event.level for event in sent} == {1}
    assert 150 < len(sent) < 250


def test_every_request_gets_a_first_token_and_ends_once():
    script = run(a_load(), (0.0, OpenLoop(1, 2.0)), (10.0, Hold(1)), until_s=30.0)
    indexes = {event.index for event in script.of(Sent)}
    assert {event.index for event in script.of(FirstToken)} == indexes
    assert Counter(event.record.index for event in script.of(Finished)) == dict.fromkeys(indexes, 1)
    for event in script.of(Finished):
        record = event.record
        assert (record.error, record.input_tokens, record.output_tokens) == (None, 1000, 20)
        assert record.scheduled_s <= record.sent_s < record.first_token_s < record.done_s
        assert record.tpot_s > 0


def test_a_closed_loop_keeps_its_number_in_flight():
    script = run(a_load(), (0.0, ClosedLoop(1, 3)), until_s=20.0)
    in_flight, seen = 0, set()
    for event in script.heard:
        in_flight += isinstance(event, Sent) - isinstance(event, Finished)
        if isinstance(event, Tick):
            seen.add(in_flight)
    assert seen == {3}


def test_a_staggered_first_wave_has_residual_answers_and_what_follows_whole_ones():
    script = run(a_load(), (0.0, ClosedLoop(1, 6, stagger=True)), until_s=20.0)
    lengths = {event.record.index: event.record.output_tokens for event in script.of(Finished)}
    assert len({lengths[index] for index in range(6)}) > 1
    assert {tokens for index, tokens in lengths.items() if index >= 6} == {20}


def test_holding_sends_nothing_more_while_what_runs_goes_on():
    script = run(a_load(), (0.0, ClosedLoop(1, 4)), (2.0, Hold(1)), until_s=20.0)
    last_sent_s = max(event.at_s for event in script.of(Sent))
    assert last_sent_s <= 2.0 + TICK_S
    assert len(script.of(Finished)) == len(script.of(Sent))


def test_a_new_command_takes_over_from_the_former():
    script = run(a_load(), (0.0, OpenLoop(1, 20.0)), (5.0, ClosedLoop(2, 1)), until_s=15.0, wakes=[5.0])
    assert all(event.level == (1 if event.at_s <= 5.0 else 2) for event in script.of(Sent))


def test_a_client_that_has_waited_too_long_gives_the_request_up():
    """One runs at a time, so the others wait; those that do for longer than the deadline end with `timeout`."""
    engine = an_engine(running=1)
    script = run(a_load(engine, first_token_s=2.0), (0.0, ClosedLoop(1, 40)), (0.5, Hold(1)), until_s=60.0)
    words = Counter(event.record.error for event in script.of(Finished))
    assert words[None] > 0
    assert words["timeout"] > 0
    assert words.total() == len(script.of(Sent))
    assert all(event.record.first_token_s is None for event in script.of(Finished) if event.record.error)
    assert not engine.busy, "given up means aborted in the engine, too"


def test_what_the_engine_refuses_is_an_error():
    """A queue for two more, and fifty at once."""
    engine = an_engine(running=1, extra=["--max-queued-requests", "2"])
    script = run(a_load(engine), (0.0, ClosedLoop(1, 50)), (0.5, Hold(1)), until_s=30.0)
    words = Counter(event.record.error for event in script.of(Finished))
    assert words["error_event"] > 0
    assert words[None] > 0


def test_the_death_of_the_engine_ends_the_load():
    script = run(a_load(an_engine(trap=Trap("crash", 500))), (0.0, OpenLoop(1, 5.0)), until_s=100.0)
    assert isinstance(script.heard[-1], EngineDied)
    assert script.outcome is not None
    assert script.heard[-1].at_s < 10.0


def test_an_engine_that_hangs_is_only_noticed_by_its_silence():
    load = a_load(an_engine(trap=Trap("hang", 500)), first_token_s=5.0)
    script = run(load, (0.0, OpenLoop(1, 5.0)), until_s=30.0)
    assert not script.of(EngineDied)
    assert {event.record.error for event in script.of(Finished)} == {"timeout"}
    assert load.engine.hung


@pytest.mark.parametrize(("primed", "share"), [(True, 0.5), (False, 0.0)])
def test_priming_puts_every_groups_prefix_into_the_cache(primed, share):
    load = a_load(cached_fraction=0.5, prefix_groups=4)
    if primed:
        load.prime()
        assert load.now_s > 0
    began_s = load.now_s
    script = run(load, (0.0, ClosedLoop(1, 1)), until_s=began_s + 30.0)
    first = {}
    for event in script.of(Finished):
        group = load.stream.request(event.record.index).prefix_group
        first.setdefault(group, event.record.cached_tokens / event.record.input_tokens)
    assert set(first) == {0, 1, 2, 3}
    assert list(first.values()) == pytest.approx([share] * 4, abs=0.07)


def test_without_shared_prefixes_there_is_nothing_to_prime():
    load = a_load()
    load.prime()
    assert load.now_s == 0.0
    assert load.engine.counters().finished == 0


@pytest.mark.parametrize("kind", ["crash", "hang"])
def test_priming_an_engine_that_dies_or_hangs_ends(kind):
    load = a_load(an_engine(trap=Trap(kind, 400)), first_token_s=5.0, cached_fraction=0.5, prefix_groups=4)
    load.prime()
    assert load.engine.dead == (kind == "crash")
    script = run(load, (0.0, OpenLoop(1, 5.0)), until_s=load.now_s + 20.0)
    assert bool(script.of(EngineDied)) == (kind == "crash")


def test_the_same_seed_gives_the_same_load_and_another_one_another():
    def events(seed):
        return run(a_load(seed=seed), (0.0, OpenLoop(1, 5.0))).heard

    assert events(1) == events(1)
    assert events(1) != events(2)
