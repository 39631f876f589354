"""Trials against a real fake-engine process, with the load scripted: what comes out for what happens."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from support.trials import a_spec, alive, read_pids

from tuner.probe.measurement import Level, Measurement
from tuner.probe.outcome import Outcome
from tuner.probe.probe import Invalid, ProbeReport
from tuner.trial.hooks import Hooks
from tuner.trial.host_memory import OomCounts
from tuner.trial.runner import run_trial
from tuner.trial.spec import Confirm, Deadlines

DATA = Path(__file__).parent / "data"
LEVEL = Level(0, "open", 2.0, None, 0.0, 5.0, 10, 0, 0, 0.1, 0.2, 5.0, 6.0, 80.0, "holds")
FIGURES = Measurement(
    2.0, 2.1, 80.0, 320.0, 0.0, 0.1, 0.2, 0.3, 0.15, 0.25, 0.2, 5.0, 6.0, 1.0, 7.0, 0.0, 0.0, 0.0, 100
)
MEASURED = ProbeReport(Outcome("measured", "found", 2.0, 2.1), FIGURES, (LEVEL,), {"send_lag_p99_ms": 0.1}, {"seen": 1})


def reporting(report, asked=None):
    """A load that generates once, finishes one level and reports."""

    async def probe(base_url, **settings):
        if asked is not None:
            asked.update(settings)
        async with httpx.AsyncClient(base_url=base_url, trust_env=False) as client:
            answer = await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2})
            assert answer.json()["usage"]["completion_tokens"] == 2
        settings["watch"].on_level(LEVEL)
        settings["watch"].on_progress("loaded")
        return report

    return probe


def until_dead(kind="engine_died"):
    """A load that goes on until the engine is dead, as the client sees it."""

    async def probe(base_url, **settings):
        settings["watch"].on_level(LEVEL)
        async with httpx.AsyncClient(base_url=base_url, trust_env=False) as client:
            try:
                while True:
                    await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
            except httpx.HTTPError:
                outcome = Outcome("failed", "the engine died", kind=kind)
                return ProbeReport(outcome, None, (LEVEL,), {"requests": 1}, {})

    return probe


async def endless(base_url, **settings):
    settings["watch"].on_level(LEVEL)
    await asyncio.sleep(600)


class SkippingClock:
    """Real time until the load begins, then 100 s per look."""

    def __init__(self):
        self.ahead_s = 0.0
        self.skipping = False

    def __call__(self):
        self.ahead_s += 100.0 if self.skipping else 0.0
        return time.monotonic() + self.ahead_s

    def then_skip(self, probe):
        async def skipping(base_url, **settings):
            self.skipping = True
            return await probe(base_url, **settings)

        return skipping


class Watcher:
    def __init__(self, stop_at=""):
        self.stages, self.levels, self.checkpoints = [], [], []
        self.stop_at = stop_at
        self.engine = None

    def stop_reason(self):
        return "received SIGTERM" if self.stop_at and self.stop_at in self.stages else ""

    def hooks(self):
        return Hooks(
            progress=self.stages.append,
            on_level=self.levels.append,
            checkpoint=self.checkpoints.append,
            stop_reason=self.stop_reason,
            on_engine=lambda engine: setattr(self, "engine", engine),
        )


def run(tmp_path, *switches, probe=None, watcher=None, oom_counts=OomCounts, now_s=time.monotonic, **changes):
    spec = a_spec(*switches, "--pids", tmp_path / "pids", **changes)
    watcher = watcher or Watcher()
    result = run_trial(
        spec,
        workdir=tmp_path / "trial",
        hooks=watcher.hooks(),
        probe=probe or reporting(MEASURED),
        oom_counts=oom_counts,
        now_s=now_s,
    )
    assert not any(alive(pid) for pid in read_pids(tmp_path / "pids")), "the engine outlived its trial"
    return result


def test_a_measured_trial_carries_figures_levels_and_where_they_come_from(tmp_path):
    watcher = Watcher()
    result = run(tmp_path, watcher=watcher, engine_version="0.5.16", gpus=4)
    assert result.state == "measured"
    assert (result.capacity_req_per_s, result.ttft_p95_s, result.output_tokens_per_s) == (2.0, 0.2, 80.0)
    assert result.measurement == FIGURES
    assert result.levels == (LEVEL,)
    assert result.versions["engine"] == "0.5.23"
    assert result.versions["engine_expected"] == "0.5.16"
    assert result.effective["max_running_requests"] == 16
    assert result.effective["seen"] == 1
    assert "api_key" not in result.effective
    assert result.client == {"send_lag_p99_ms": 0.1}
    assert result.node
    assert not result.simulated
    assert 0 < result.start_up_s < result.gpu_seconds / 4


def test_progress_goes_from_start_to_stop_and_every_phase_is_checkpointed(tmp_path):
    watcher = Watcher()
    result = run(tmp_path, watcher=watcher, engine_version="0.5.16")
    stages = watcher.stages
    assert stages[0] == "starting the engine"
    assert stages[-1] == "stopping the engine"
    assert {"loading weights", "fired up", "generates; preparing the load", "loaded"} <= set(stages)
    assert any("is version 0.5.23, the pool says 0.5.16" in stage for stage in stages)
    assert watcher.levels == [LEVEL]
    *partial, last = watcher.checkpoints
    assert [checkpoint.failure.kind for checkpoint in partial] == ["interrupted"] * 4
    assert partial[-1].levels == (LEVEL,)
    assert replace(last, gpu_seconds=result.gpu_seconds) == result


def test_the_load_is_told_what_the_specification_says(tmp_path):
    asked = {}
    run(tmp_path, probe=reporting(MEASURED, asked), incumbent_req_per_s=1.5, seed=7, context={"guess_req_per_s": 3.0})
    assert (asked["incumbent_req_per_s"], asked["guess_req_per_s"], asked["seed"]) == (1.5, 3.0, 7)
    assert "confirm_rate_req_per_s" not in asked


def test_a_confirmation_holds_its_rate(tmp_path):
    asked = {}
    run(tmp_path, probe=reporting(MEASURED, asked), confirm=Confirm(1.25, 30.0))
    assert (asked["confirm_rate_req_per_s"], asked["confirm_duration_s"]) == (1.25, 30.0)


def test_a_simulated_engine_marks_the_result_whatever_the_specification_says(tmp_path):
    assert run(tmp_path, "--simulated").simulated
    assert run(tmp_path, simulated=True).simulated


def test_warnings_of_the_load_are_kept(tmp_path):
    result = run(tmp_path, probe=reporting(replace(MEASURED, warnings=("the cache could not be flushed",))))
    assert result.client["warnings"] == ["the cache could not be flushed"]


@pytest.mark.parametrize("state", ["pruned", "infeasible"])
def test_bounds_and_the_nearest_miss_are_kept(tmp_path, state):
    outcome = Outcome(state, "bound", bound_req_per_s=1.5, nearest_miss_ttft_p95_s=1.2)
    result = run(tmp_path, probe=reporting(ProbeReport(outcome, None, (LEVEL,), {}, {})))
    assert (result.state, result.bound_req_per_s, result.ttft_p95_s) == (state, 1.5, 1.2)
    assert result.capacity_req_per_s is None


def test_doubtful_figures_are_invalid_whatever_the_outcome_says(tmp_path):
    report = replace(MEASURED, invalid=Invalid("client_bound", "the client was late"))
    result = run(tmp_path, probe=reporting(report))
    assert result.state == "invalid"
    assert (result.failure.failure_class, result.failure.kind) == ("measurement", "client_bound")
    assert result.capacity_req_per_s is None


def test_a_load_without_a_verdict_is_invalid_and_no_fault_of_the_engine(tmp_path):
    outcome = Outcome("failed", "the load client stood still for 9 s", kind="undecided")
    result = run(tmp_path, probe=reporting(ProbeReport(outcome, None, (LEVEL,), {}, {})))
    assert (result.state, result.failure.failure_class, result.failure.kind) == ("invalid", "measurement", "undecided")


@pytest.mark.parametrize(
    ("when", "capture", "code", "kind"),
    [
        ("start", "unknown_flag", 2, "bad_flag"),
        ("weights", "model_not_found", 1, "checkpoint"),
        ("start", "tp3", -9, "invalid_combination"),
    ],
)
def test_an_engine_that_dies_while_starting_is_classified_at_once(tmp_path, when, capture, code, kind):
    """Long before its deadline."""
    death = ("--die-at", when, "--die-with", DATA / f"{capture}.log", "--die-code", code, "--die-after-requests", 1)
    result = run(tmp_path, *death, deadlines=Deadlines(ready_s=600.0))
    assert result.state == "failed"
    assert result.failure.kind == kind
    assert result.failure.log_tail
    assert result.start_up_s is None
    assert result.gpu_seconds < 300


def test_an_engine_that_dies_under_load_leaves_its_levels_and_its_reason(tmp_path):
    capture = DATA / "crash_out_of_vocab_token_server.log"
    result = run(
        tmp_path,
        "--die-at",
        "request",
        "--die-after-requests",
        5,
        "--die-with",
        capture,
        "--die-code",
        -9,
        probe=until_dead(),
    )
    assert (result.state, result.failure.kind, result.failure.recognised) == ("failed", "crash", False)
    assert "under load" in result.failure.message
    assert "IndexError" in result.failure.message
    assert result.levels == (LEVEL,)
    assert result.client == {"requests": 1}


def test_a_load_that_does_not_notice_the_engines_death_is_ended(tmp_path):
    async def blind(base_url, **settings):
        async with httpx.AsyncClient(base_url=base_url, trust_env=False) as client:
            with pytest.raises(httpx.HTTPError):
                await client.post("/v1/completions", json={"prompt": "a"})
        await asyncio.sleep(600)

    result = run(tmp_path, "--die-at", "request", "--die-code", 7, probe=blind)
    assert result.failure.kind == "crash"
    assert "exit code 7" in result.failure.message


def test_a_hanging_engine_is_a_hang(tmp_path):
    outcome = Outcome("failed", "no token for 60 s", kind="hang")
    clock = SkippingClock()
    result = run(
        tmp_path, "--ignore-term", now_s=clock, probe=clock.then_skip(reporting(ProbeReport(outcome, None, (), {}, {})))
    )
    assert result.failure.kind == "hang"


@pytest.mark.parametrize(("switches", "state"), [((), "infeasible"), (("--hang-after-requests", 1), "failed")])
def test_failed_requests_are_infeasible_only_if_the_engine_still_generates(tmp_path, monkeypatch, switches, state):
    """An engine that hangs fails requests by timeout; no load of any size would pass."""
    monkeypatch.setattr("tuner.trial.runner._RECOVER_S", 1.0)
    monkeypatch.setattr("tuner.trial.runner._SETTLE_S", 0.5)

    async def failing(base_url, **settings):
        async with httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=0.3) as client:
            for _ in range(2):
                with contextlib.suppress(httpx.TimeoutException):
                    await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
        return ProbeReport(Outcome("infeasible", "9 requests failed", kind="error_rate"), None, (LEVEL,), {"a": 1}, {})

    result = run(tmp_path, *switches, probe=failing)
    assert result.state == state
    assert result.levels == (LEVEL,)
    assert result.client == {"a": 1}
    assert result.failure is None or result.failure.kind == "hang"


def test_a_load_that_fails_for_its_own_reason_keeps_it(tmp_path):
    outcome = Outcome("failed", "all requests were refused: http_400", kind="rejected")
    clock = SkippingClock()
    report = ProbeReport(outcome, None, (LEVEL,), {}, {})
    result = run(tmp_path, now_s=clock, probe=clock.then_skip(reporting(report)))
    assert (result.failure.kind, result.failure.message) == ("rejected", "all requests were refused: http_400")


def test_never_ready_is_a_configuration_failure_that_says_how_far_it_came(tmp_path):
    watcher = Watcher()

    def late_once_warming_up() -> float:
        return time.monotonic() + 1000.0 * any("KV cache holds" in stage for stage in watcher.stages)

    deadlines = Deadlines(ready_s=500.0, stop_s=1.0)
    result = run(tmp_path, "--never-ready", watcher=watcher, now_s=late_once_warming_up, deadlines=deadlines)
    assert result.failure.kind == "not_ready"
    assert result.failure.failure_class == "configuration"
    assert "warming up" in result.failure.message


def test_a_command_that_cannot_be_started_is_a_configuration_failure(tmp_path):
    result = run(tmp_path, argv=("/no/such/engine", "--x"))
    assert result.failure.kind == "bad_command"
    assert "/no/such/engine" in result.failure.message


def test_the_containers_memory_limit_is_told_from_a_foreign_kill(tmp_path):
    counts = iter([OomCounts(0, 0), OomCounts(1, 1)])
    result = run(tmp_path, "--die-at", "weights", "--die-code", -9, oom_counts=lambda: next(counts))
    assert (result.failure.kind, result.failure.failure_class) == ("host_oom", "configuration")


@pytest.mark.parametrize(
    ("stop_at", "switches"), [("loading weights", ["--never-ready"]), ("generates; preparing the load", [])]
)
def test_a_stop_ends_the_engine_and_keeps_what_was_measured(tmp_path, stop_at, switches):
    result = run(tmp_path, *switches, "--ignore-term", "--family", probe=endless, watcher=Watcher(stop_at))
    assert (result.state, result.failure.kind, result.failure.failure_class) == (
        "failed",
        "interrupted",
        "infrastructure",
    )
    assert "received SIGTERM" in result.failure.message
    assert result.levels == ((LEVEL,) if stop_at != "loading weights" else ())


def test_a_load_that_overruns_its_deadline_by_far_is_ended(tmp_path):
    clock = SkippingClock()
    result = run(tmp_path, now_s=clock, probe=clock.then_skip(endless))
    assert result.failure.kind == "probe_overrun"


def test_a_fault_of_the_load_stops_the_engine_and_is_no_fault_of_the_configuration(tmp_path, capsys):
    async def broken(base_url, **settings):
        settings["watch"].on_level(LEVEL)
        raise ZeroDivisionError("a bug")

    result = run(tmp_path, probe=broken)
    assert (result.failure.failure_class, result.failure.kind) == ("infrastructure", "runner_fault")
    assert result.levels == (LEVEL,)
    assert result.gpu_seconds > 0
    assert "ZeroDivisionError: a bug" in capsys.readouterr().err
