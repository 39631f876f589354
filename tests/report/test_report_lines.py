"""What a running search prints: one line per event, in words a person can act on; JSON for machines."""

from __future__ import annotations

import io
import json

import pytest
from support.problems import a_config

from tuner.report.counting import Counting
from tuner.report.log import JsonLog
from tuner.report.progress import ProgressLines
from tuner.report.words import differing, duration, money, rate, seconds, several, shared
from tuner.study.budget import Used
from tuner.study.events import (
    Best,
    Closing,
    ConfirmEnded,
    ConfirmStarted,
    Ledger,
    PoolClosed,
    SearchStopped,
    StudyOpened,
    TrialEnded,
    TrialStage,
    TrialStarted,
)
from tuner.study.problem import Budget

CONFIG = a_config()


def ended(**changes):
    fields = {"number": 7, "trial_id": "demo-7", "config": CONFIG, "state": "measured", "counted": 5} | changes
    return TrialEnded(**fields)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (StudyOpened("demo", "u", resumed=False, counted=0), "study demo (new)"),
        (StudyOpened("demo", "u", resumed=True, counted=12), "study demo (resumed with 12 trials)"),
        (
            ended(state="pruned", same_as=3),
            "[5/30] trial 7 dropped: cannot beat the best so far; its engine ran the same settings as trial 3",
        ),
        (TrialStarted(3, "demo-3", CONFIG, "model", 1), f"trial 3 starts (model): {CONFIG.describe()}"),
        (TrialStarted(3, "d", CONFIG, "model", 2), f"trial 3 starts (model, attempt 2): {CONFIG.describe()}"),
        (
            TrialStarted(3, "d", CONFIG, "model", 1, adopted=True),
            f"trial 3 starts (found running): {CONFIG.describe()}",
        ),
        (TrialStage(3, "d", "loading weights 43 %"), "trial 3: loading weights 43 %"),
        (TrialStage(0, "d", "warming up", confirmation=True), "confirmation 0: warming up"),
        (
            ended(usd_per_million_output_tokens=1.834, capacity_req_per_s=2.41, ttft_p95_s=2.2, best=True),
            "[5/30] trial 7 measured: $1.83 per million output tokens, 2.41 req/s, TTFT p95 2.2 s  <- best so far",
        ),
        (
            ended(state="infeasible", ttft_p95_s=9.5),
            "[5/30] trial 7 misses the limits at every rate (best TTFT p95 9.5 s)",
        ),
        (ended(state="pruned"), "[5/30] trial 7 dropped: cannot beat the best so far"),
        (ended(state="failed", failure="out of memory"), "[5/30] trial 7 failed: out of memory"),
        (ended(confirmation=True, ttft_p95_s=2.5), "confirmation 7 holds, TTFT p95 2.5 s"),
        (PoolClosed("mi355x", "image pull"), "pool mi355x is closed for now: image pull"),
        (SearchStopped("gpu_hours", 9), "searching ends after 9 trials: the GPU-hour budget is spent"),
        (
            ConfirmStarted(CONFIG, 1, 2.29, 2),
            f"confirming candidate 1 at 2.29 req/s, 2 runs: {CONFIG.describe()}",
        ),
        (ConfirmEnded(CONFIG, 1, holds=True), "candidate 1 holds the limits"),
        (ConfirmEnded(CONFIG, 1, holds=False), "candidate 1 does not hold: next"),
        (ConfirmEnded(CONFIG, 2, holds=False, undecided=True), "candidate 2 could not be measured again: next"),
    ],
)
def test_every_event_is_one_line(event, line):
    out = io.StringIO()
    ProgressLines(out, 30)(event)
    assert line + "\n" == out.getvalue()


def test_a_confirmation_run_is_announced_by_its_candidate_and_not_again():
    out = io.StringIO()
    ProgressLines(out, 30)(TrialStarted(0, "c", CONFIG, "confirm", 1, confirmation=True))
    assert not out.getvalue()


def test_stages_are_told_half_a_minute_after_the_start_and_after_one_another():
    """A trial of a few seconds, as on the simulated engine, is two lines: its start and its verdict."""
    out, now = io.StringIO(), [100.0]
    lines = ProgressLines(out, None, now_s=lambda: now[0])
    lines(TrialStarted(1, "t1", CONFIG, "confirm", 1, confirmation=True))
    for step_s, text in ((2, "a"), (29, "b"), (10, "c"), (20.5, "d")):
        now[0] += step_s
        lines(TrialStage(1, "t1", text))
    lines(TrialStage(2, "t2", "x"))
    assert out.getvalue().splitlines() == ["trial 1: b", "trial 1: d", "trial 2: x"]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Ledger(Used(), None, Budget(), {}, None), ""),
        (Closing(0), ""),
        (Closing(2), "interrupted: ending 2 running trials\n"),
    ],
)
def test_lines_tell_of_the_end_and_leave_the_ledger_to_the_view(event, text):
    out = io.StringIO()
    ProgressLines(out, 30)(event)
    assert text == out.getvalue()


def test_json_lines_carry_the_ledger_whole():
    out = io.StringIO()
    best = Best(3, CONFIG, 1.5, 2.0, 1.0)
    JsonLog(out, study="demo")(Ledger(Used(trials=2), Used(trials=9), Budget(trials=9), {"ttft_p95_s": 5.0}, best))
    line = json.loads(out.getvalue())
    assert ("ledger", 2, 9, 9) == (
        line["event"], line["used"]["trials"], line["expected"]["trials"], line["budget"]["trials"]
    )  # fmt: skip
    assert CONFIG.as_json() == line["best"]["config"]


def test_json_lines_carry_name_time_study_and_fields():
    out = io.StringIO()
    log = JsonLog(out, study="demo")
    log(ended(usd_per_million_output_tokens=1.5))
    log(SearchStopped("trials", 30))
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert ("trial.ended", "demo", 1.5) == (first["event"], first["study"], first["usd_per_million_output_tokens"])
    assert CONFIG.as_json() == first["config"]
    assert first["timestamp"].endswith("Z")
    assert ("search.stopped", "trials", 30) == (second["event"], second["why"], second["counted"])


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_counting_is_silent_for_two_seconds_then_one_line_a_second():
    out, now = io.StringIO(), [0.0]
    counting = Counting(out, "checking", now_s=lambda: now[0])
    for at_s in (0.5, 1.9, 2.1, 2.5, 3.2):
        now[0] = at_s
        counting(int(at_s * 10), 100)
    counting(100, 100)
    assert out.getvalue().splitlines() == ["checking: 21 of 100", "checking: 32 of 100", "checking: 100 of 100"]


def test_counting_that_ends_early_prints_nothing():
    out = io.StringIO()
    counting = Counting(out, "checking", now_s=lambda: 0.0)
    counting(100, 100)
    assert not out.getvalue()


def test_counting_rewrites_its_line_on_a_terminal():
    out, now = Terminal(), [0.0]
    counting = Counting(out, "checking", now_s=lambda: now[0])
    now[0] = 3.0
    counting(1, 2)
    counting(2, 2)
    assert out.getvalue() == "\rchecking: 1 of 2\rchecking: 2 of 2\n"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (money(None), "-"),
        (money(1234.5), "$1,234.50"),
        (money(0.01234), "$0.01234"),
        (seconds(None), "-"),
        (seconds(0.6234), "0.623 s"),
        (rate(None), "-"),
        (rate(2.414), "2.41 req/s"),
        (duration(45), "45 s"),
        (duration(720), "12 min"),
        (duration(7200), "2.0 h"),
    ],
)
def test_numbers_as_people_read_them(shown, expected):
    assert expected == shown


def test_a_count_has_its_plural():
    assert ("1 node", "2 nodes", "1,000 nodes") == tuple(several(n, "node") for n in (1, 2, 1000))


def test_what_configurations_share_is_said_once():
    one, other = a_config(running=64), a_config(running=128)
    common = shared([one, other])
    assert set(dict(one.values)) - {"max-running-requests"} == set(common)
    assert "mi355x tp8 max-running-requests=64" == differing(one, common)
    assert not shared([one])
    assert one.describe() == differing(one, shared([one]))


class Gone(io.StringIO):
    def write(self, _text):
        raise BrokenPipeError


def test_progress_that_nobody_reads_any_more_stops_nothing():
    now = [0.0]
    counting = Counting(Gone(), "checking", now_s=lambda: now[0])
    now[0] = 5.0
    counting(1, 2)
    ProgressLines(Gone(), 30)(ended())
    JsonLog(Gone(), study="demo")(ended())
