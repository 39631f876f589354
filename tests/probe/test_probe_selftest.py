"""The self-test's judgement, its server's schedule, and one step of it for real."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from support.cli import tuner

from tuner.probe import selftest as module
from tuner.probe.driver import DriveReport
from tuner.probe.paced_server import CONTENT, Schedule
from tuner.probe.selftest import Run, Step, highest, judged, selftest


def a_run(lateness_s=0.0001, ttft_s=0.2, **report) -> Run:
    fields = {
        "outcome": None, "interrupted": False, "requests": 100, "planned_input_tokens": 1, "planned_prefix_tokens": 0,
        "send_lag_p99_s": 0.0, "loop_lag_p99_s": 0.0, "cpu_share": 0.3, "token_mismatches": 0, "duration_s": 4.0,
        "chunks": 40_000, "cpu_s": 0.6,
    }  # fmt: skip
    truth = {"lateness_p99_s": lateness_s, "ttft_p95_s": 0.2, "chunk_gap_p95_s": 0.01, "tpot_p50_s": 0.01}
    return Run(DriveReport(**(fields | report)), truth, ttft_s, ttft_s, 0.01, 0.01, 10_000.0)


@pytest.mark.parametrize(
    ("run", "verdict"),
    [
        (a_run(), "true"),
        (a_run(ttft_s=0.2019), "true"),
        (a_run(ttft_s=0.2021), "lies"),
        (a_run(ttft_s=0.19), "lies"),
        (a_run(cpu_share=0.71), "lies"),
        (a_run(send_lag_p99_s=0.003), "lies"),
        (a_run(lateness_s=0.0011), "void"),
        (a_run(lateness_s=0.0011, ttft_s=0.3), "void"),
    ],
)
def test_a_step_is_true_or_lies_and_a_late_server_proves_neither(run, verdict):
    step = judged(run)
    assert step.verdict == verdict
    assert bool(step.reasons) == (verdict == "lies" or run.ttft_p95_s > 0.25)
    assert step.cpu_ms_per_1k_chunks == pytest.approx(15.0)


def test_the_highest_true_step_counts():
    def step(chunks_per_s, verdict) -> Step:
        return Step(chunks_per_s, 0.1, 9.0, 0.0, 0.0, 0.0, 0.0, verdict)

    assert highest((step(1.0, "true"), step(3.0, "lies"), step(2.0, "true"))) == 2.0
    assert highest((step(1.0, "void"),)) is None


class Listener:
    """A connection that only counts."""

    def __init__(self) -> None:
        self.closed, self.chunks = False, 0

    def write(self, data: bytes) -> None:
        self.chunks += data == CONTENT


def test_a_server_that_was_held_up_still_writes_in_the_order_things_are_due():
    noted = []

    class Noting(Schedule):
        def _write(self, stream) -> None:
            noted.append(stream.due_s)
            super()._write(stream)

    schedule = Noting(ttft_s=0.02, interval_s=0.01, tokens_per_chunk=1)
    listeners = [Listener() for _ in range(3)]
    schedule._running = True  # held up: nothing is written yet
    for listener, ago_s in zip(listeners, (10.0, 9.975, 9.96), strict=True):
        schedule.begin(listener, b'{"max_tokens": 5}', time.perf_counter() - ago_s)
    schedule._write_due()
    assert noted == sorted(noted)
    assert [listener.chunks for listener in listeners] == [5, 5, 5]
    truth = schedule.truth()
    assert (truth["requests"], truth["chunks"]) == (3, 15)
    assert truth["lateness_p99_s"] > 9.0


def test_the_self_test_loads_a_server_of_its_own_and_tells_every_step(monkeypatch):
    """Figures are this machine's; that there are some, and a verdict on each, is not."""
    monkeypatch.setattr(module, "STEP_S", 1.0)
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    told: list[Step] = []
    steps = asyncio.run(selftest(told.append, steps=(500,)))
    assert tuple(told) == steps
    assert len(steps) == 1
    assert steps[0].chunks_per_s > 0
    assert (highest(steps) is not None) == (steps[0].verdict == "true")
    assert not any("tokens" in reason for step in told for reason in step.reasons)


def test_the_command_says_what_this_machine_takes(monkeypatch):
    monkeypatch.setattr(module, "STEP_S", 0.5)
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    monkeypatch.setattr(module, "STEPS_CHUNKS_PER_S", (500,))
    said = tuner("probe", "--selftest", "--json")
    document = json.loads(said.out)
    assert said.code in (0, 4), said.err
    assert len(document["steps"]) >= 1
