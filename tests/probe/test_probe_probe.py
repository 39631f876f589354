"""The whole probe against a small engine over loopback sockets. Real time, so limits are loose and figures are not."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from support.crowds import left_alone
from support.loopback_engine import LoopbackEngine

from tuner.probe.driver import DriveReport
from tuner.probe.gates import Invalid, Offered
from tuner.probe.measurement import Level
from tuner.probe.outcome import Outcome
from tuner.probe.probe import ProbeReport, Watch, doubt, probe, run
from tuner.probe.throttling import Throttled
from tuner.space.workload import Length, Limits, Sampling, Workload

LIMITS = Limits(ttft_p95_s=1.0)

PREPARATION = 16
"""Requests before the load: two for lengths, two to warm up, four prefixes, eight to check the cached share."""


def a_workload(**kwargs) -> Workload:
    fields = {
        "input_tokens": Length.fixed(200), "output_tokens": Length.fixed(20), "cached_fraction": 0.6,
        "prefix_groups": 4,
    }  # fmt: skip
    return Workload(**(fields | kwargs))


def a_probe(engine: LoopbackEngine, use=None, workload: Workload | None = None, **kwargs) -> ProbeReport:
    """A probe of `engine`; `use` runs beside it and may hurt the engine."""

    async def main():
        async with engine:
            fields = {
                "workload": workload or a_workload(),
                "limits": LIMITS,
                "seed": 1,
                "tolerance": 0.5,
                "probe_s": 60.0,
            }
            fields["watch"] = Watch(engine_alive=lambda: not engine.dead)
            beside = asyncio.create_task(use(engine)) if use else None
            report = await probe(engine.url, **(fields | kwargs))
            if beside is not None:
                beside.cancel()
                await asyncio.gather(beside, return_exceptions=True)
            return report

    return run(main())


def crowded(report: ProbeReport) -> bool:
    """The probe says that the machine was too busy, and does not blame the engine."""
    return report.invalid is not None or report.outcome.kind == "undecided"


def test_a_capacity_is_found_over_real_sockets():
    report = left_alone(lambda: a_probe(LoopbackEngine(token_s=0.01)), lambda r: r.outcome.state == "measured", crowded)
    figures = report.measurement
    # 8 slots of at least 0.19 s each; on a busy machine everything takes longer.
    assert 0.0 < figures.capacity_req_per_s < 42.0
    assert figures.output_tokens_per_s == pytest.approx(20 * figures.capacity_req_per_s)
    assert figures.offered_cached_share == pytest.approx(0.6)
    assert figures.achieved_cached_share == pytest.approx(0.6, abs=0.03)
    assert figures.error_rate == 0.0


def test_what_a_probe_tells_meanwhile_is_what_it_reports():
    """Whether it finds a capacity or not."""
    levels, said = [], []
    watch = Watch(on_level=levels.append, on_progress=said.append)
    report = a_probe(LoopbackEngine(token_s=0.01), watch=watch, probe_s=4.0)
    # Requests of a level that end after it still complete its figures.
    assert [(lv.level, lv.verdict) for lv in levels] == [(lv.level, lv.verdict) for lv in report.levels]
    assert all(isinstance(level, Level) for level in levels)
    assert report.effective["version"] == "0.5.23"
    assert "api_key" not in report.effective
    assert report.effective["num_retracted_reqs"] == 2.0
    assert report.client["token_mismatches"] == 0
    assert report.client["requests"] == report.outcome.requests
    assert report.warnings == ()
    assert said[0] == "learning the tokenizer"
    assert len(said) == len(set(said))


def test_every_prompt_is_new_as_long_as_planned_and_shares_its_prefix():
    engine = LoopbackEngine()
    a_probe(engine, watch=Watch(stop_requested=lambda: engine.requests > PREPARATION + 60))
    chats = [b["messages"][0]["content"].split() for b in engine.bodies[PREPARATION:]]
    assert len(chats) > 50
    assert {len(words) + engine.overhead for words in chats} == {200}
    assert len({" ".join(words) for words in chats}) == len(chats)
    assert len({" ".join(words[:120]) for words in chats}) == 4


def test_a_rate_is_confirmed():
    limits = Limits(ttft_p95_s=30.0)
    report = a_probe(LoopbackEngine(), limits=limits, confirm_rate_req_per_s=60.0, confirm_duration_s=1.5)
    assert report.outcome.state == "measured"
    assert report.measurement.capacity_req_per_s == 60.0


def test_completions_without_prefix_or_fixed_length():
    workload = a_workload(cached_fraction=0.0, endpoint="completions", sampling=Sampling(ignore_eos=False))
    engine = LoopbackEngine(reported_slots=None)
    report = a_probe(engine, workload=workload, incumbent_req_per_s=1e5)
    assert report.outcome.state == "pruned"
    assert report.outcome.bound_req_per_s < 1e5
    assert "prompt" in engine.bodies[0]
    assert report.measurement is None


def test_an_engine_that_dies_under_load_ends_it_at_once():
    async def kill(engine: LoopbackEngine) -> None:
        while engine.requests < 60:  # noqa: ASYNC110 - the engine counts, nobody tells
            await asyncio.sleep(0.01)
        engine.die()

    report = a_probe(LoopbackEngine(token_s=0.01), kill)
    assert (report.outcome.state, report.outcome.kind) == ("failed", "engine_died")
    assert report.outcome.duration_s < 60  # as long as the whole probe may take
    assert report.invalid is None


def test_an_engine_that_dies_while_it_is_prepared():
    async def kill(engine: LoopbackEngine) -> None:
        while engine.requests < 3:  # noqa: ASYNC110 - the engine counts, nobody tells
            await asyncio.sleep(0.001)
        engine.die()

    report = a_probe(LoopbackEngine(token_s=0.05), kill)
    assert (report.outcome.state, report.outcome.kind) == ("failed", "engine_died")


def test_broken_connections_of_a_living_engine_are_errors_not_its_death():
    engine = LoopbackEngine(fault=lambda n: "reset" if n > 30 and n % 3 == 0 else "")
    report = a_probe(engine)
    assert (report.outcome.state, report.outcome.kind) == ("infeasible", "error_rate")
    assert set(report.outcome.errors) == {"reset"}


@pytest.mark.parametrize("fault", ["500", "error_event"])
def test_an_engine_that_fails_every_request_under_load(fault):
    report = a_probe(LoopbackEngine(fault=lambda n: fault if n > PREPARATION else ""))
    assert (report.outcome.state, report.outcome.kind) == ("failed", "all_failed")
    assert report.measurement is None


def test_an_engine_whose_first_request_fails():
    report = a_probe(LoopbackEngine(fault=lambda n: "500"))
    assert (report.outcome.state, report.outcome.kind) == ("failed", "first_requests")
    assert "http_500" in report.outcome.reason
    assert '"message":"no"' in report.outcome.reason


def test_an_engine_that_counts_no_tokens():
    report = a_probe(LoopbackEngine(tokenizes=False))
    assert (report.outcome.state, report.outcome.kind) == ("failed", "no_tokenizer")


def test_an_engine_that_never_answers_a_warm_up():
    report = a_probe(LoopbackEngine(prefill_s=60.0), probe_s=0.4)
    assert (report.outcome.state, report.outcome.kind) == ("failed", "hang")


@pytest.mark.parametrize("after", [0, 60])
def test_a_stop_from_outside_ends_it_with_an_outcome(after):
    engine = LoopbackEngine(prefill_s=0.02 if after else 0.5)
    report = a_probe(engine, watch=Watch(stop_requested=lambda: engine.requests > after))
    assert report.outcome.state == "failed"
    assert report.outcome.kind == ("interrupted" if after == 0 else "undecided")


def test_a_cache_that_cannot_be_flushed_or_shared_is_a_warning():
    engine = LoopbackEngine(flushes=False, caches=False)
    report = a_probe(engine, probe_s=6.0)
    assert [w.split(",")[0] for w in report.warnings] == [
        "the prefix cache could not be flushed before the measurement",
        "cached share of the first 8 requests is 0.00",
    ]
    assert report.invalid is None or report.invalid.kind == "client_bound"


def test_a_client_that_stalls_says_that_its_figures_are_its_own():
    """A loop blocked for 60 ms every quarter of a second: late sends, and TTFT from the schedule shows them."""
    engine = LoopbackEngine()

    def block() -> bool:
        if engine.requests > PREPARATION:
            time.sleep(0.06)
        return True

    report = a_probe(engine, watch=Watch(engine_alive=block), probe_s=8.0)
    assert report.invalid.kind == "client_bound"
    assert report.client["send_lag_p99_ms"] > 20


def test_a_mistake_of_our_own_is_raised_not_blamed_on_the_engine():
    def wrong(level: Level) -> None:
        raise RuntimeError(f"a caller's mistake at level {level.level}")

    with pytest.raises(RuntimeError, match="a caller's mistake at level 0"):
        a_probe(LoopbackEngine(), watch=Watch(on_level=wrong))


def test_every_scheduler_is_primed():
    engine = LoopbackEngine()
    info = {"dp_size": 3, "max_running_requests": 8}
    engine.answers["/server_info"] = info
    a_probe(engine, watch=Watch(stop_requested=lambda: engine.requests > 32))
    primers = [b for b in engine.bodies if b["max_tokens"] == 1][2 : 2 + 12]
    groups = [" ".join(b["messages"][0]["content"].split()[:100]) for b in primers]
    assert [groups.count(g) for g in dict.fromkeys(groups)] == [3, 3, 3, 3]
    assert all(len(set(groups[i : i + 3])) == 1 for i in range(0, 12, 3))


def a_report(**kwargs) -> DriveReport:
    fields = {
        "outcome": None, "interrupted": False, "requests": 1000, "planned_input_tokens": 1, "planned_prefix_tokens": 0,
        "send_lag_p99_s": 0.0, "loop_lag_p99_s": 0.0, "cpu_share": 0.1, "token_mismatches": 0, "duration_s": 60.0,
    }  # fmt: skip
    return DriveReport(**(fields | kwargs))


@pytest.mark.parametrize(
    ("limit_s", "report", "kind"),
    [
        (2.0, {}, None),
        (2.0, {"send_lag_p99_s": 0.019}, None),
        (2.0, {"send_lag_p99_s": 0.021}, "client_bound"),
        (0.1, {"send_lag_p99_s": 0.0021}, "client_bound"),
        (None, {"send_lag_p99_s": 0.0021}, "client_bound"),
        (0.1, {"loop_lag_p99_s": 0.0051}, "client_bound"),
        (0.1, {"loop_lag_p99_s": 0.0049}, None),
        (2.0, {"cpu_share": 0.71}, "client_bound"),
        (2.0, {"token_mismatches": 10}, None),
        (2.0, {"token_mismatches": 11}, "token_count"),
        (2.0, {"throttled": Throttled(0, 0.0)}, None),
        (2.0, {"throttled": Throttled(3, 0.29)}, None),
        (2.0, {"throttled": Throttled(3, 0.31)}, "client_bound"),
        (2.0, {"bodies_late": 11}, "client_bound"),
    ],
)
def test_when_a_measurement_is_not_the_engines(limit_s, report, kind):
    outcome = Outcome("measured", "", requests=1000)
    found = doubt(outcome, a_report(**report), limit_s)
    assert [f.kind for f in found] == ([kind] if kind else [])


@pytest.mark.parametrize(("counted", "tripped"), [(0.6, False), (0.581, False), (0.579, True), (0.621, True)])
def test_another_cached_share_than_offered_is_another_workload(counted, tripped):
    found = doubt(Outcome("measured", "", requests=1000), a_report(), 2.0, Offered(0.6, counted))
    assert [f.kind for f in found] == (["cached_share"] if tripped else [])


def test_every_gate_that_trips_is_told():
    outcome = Outcome("measured", "", requests=1000, errors={"token_count": 60})
    found = doubt(outcome, a_report(cpu_share=0.9, send_lag_p99_s=1.0), 2.0, Offered(0.6, 0.1))
    assert [f.kind for f in found] == ["cached_share", "token_count", "client_bound", "client_bound"]


def test_wrong_answer_lengths_are_no_failure_of_the_engine():
    outcome = Outcome("infeasible", "", requests=100, errors={"token_count": 60})
    assert doubt(outcome, a_report(requests=100), 1.0) == (
        Invalid("token_count", "60 of 100 requests had another number of tokens than planned"),
    )


def test_a_failed_engine_is_not_blamed_on_the_client():
    outcome = Outcome("failed", "", requests=100)
    assert doubt(outcome, a_report(cpu_share=0.99), 1.0) == ()
    assert doubt(replace(outcome, state="pruned"), a_report(cpu_share=0.99), 1.0) != ()
