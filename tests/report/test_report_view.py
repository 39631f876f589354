"""The live view: what each event changes, and the text of the screen at 80 and 200 columns."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.problems import a_config

from tuner.report.screen import screen, text_of
from tuner.report.view import KEPT, View, seen
from tuner.study.budget import Used
from tuner.study.events import (
    Best,
    Closing,
    ConfirmStarted,
    Ledger,
    PoolClosed,
    SearchStopped,
    StopOffered,
    StudyOpened,
    TrialEnded,
    TrialStage,
    TrialStarted,
)
from tuner.study.problem import Budget

BEST, OTHER = a_config(), a_config(running=64)
LEDGER = Ledger(
    Used(12, 6_840, 30.4, 63.86),
    Used(30, 17_280, 74.9, 157.26),
    Budget(30, 86_400, 160, 400),
    {"ttft_p95_s": 5.0, "error_rate": 0.005},
    Best(17, BEST, 1.43, 3.43, 4.27),
)


def ended(number=7, **changes):
    fields = {"number": number, "trial_id": f"demo-{number}", "config": OTHER, "state": "measured", "counted": 5}
    return TrialEnded(**fields | changes)


def started(number, config=OTHER, **changes):
    return TrialStarted(number, f"demo-{number}", config, "sampler", 1, **changes)


def after(*events, view=None, now_s=100.0):
    return reduce(lambda v, event: seen(v, event, now_s), events, view or View())


STORY = (
    StudyOpened("glm52-mi355x", "u", resumed=False, counted=0),
    ended(17, config=BEST, usd_per_million_output_tokens=1.43, capacity_req_per_s=3.43, ttft_p95_s=4.27, best=True),
    ended(18, state="pruned"),
    ended(19, state="failed", failure="out of accelerator memory while loading weights; " + "lower it, " * 12),
    LEDGER,
    started(20),
    TrialStage(20, "demo-20", "loading weights 43 %"),
    started(21, BEST),
    TrialStage(21, "demo-21", "level 2.10 req/s: p95 1.20 s, holds"),
)

NARROW = """\
glm52-mi355x                                                           searching

                used   expected   budget
trials            12         30       30  ━━━━━━━━━━━━━───────────────────  40%
hours            2.0        4.8     24.0  ━━━───                             8%
GPU-hours       30.4       74.9    160.0  ━━━━━━─────────                   19%
USD            63.86     157.26   400.00  ━━━━━────────                     16%

best       $1.43 per million output tokens  trial 17, not confirmed yet
           TTFT p95 4.27 s of 5 s allowed, capacity 3.43 req/s
           mi355x tp8 max-running-requests=128 mem-fraction-static=0.84
           speculation=off weights=fp8

2 running
trial 20     4 min  loading weights 43 %
                    max-running-requests=64
trial 21     4 min  level 2.10 req/s: p95 1.20 s, holds
                    mi355x tp8 off fp8

last verdicts
trial 19   failed    out of accelerator memory while loading weights; lower it,
                     lower it, lower it, lower it, lower it, lower it, lower …
trial 18   dropped   cannot beat the best so far
trial 17   new best  $1.43 per million, 3.43 req/s, TTFT p95 4.27 s
"""


def shown(view, width, height=30, now_s=340.0, **how):
    return "".join(f"{text_of(line)}\n" for line in screen(view, width, height, now_s, **how))


def test_the_screen_at_80_columns():
    assert NARROW == shown(after(*STORY), 80)


def test_the_screen_at_200_columns_has_one_line_for_each_trial():
    lines = shown(after(*STORY), 200).splitlines()
    (loading,) = [line for line in lines if line.startswith("trial 20")]
    assert "loading weights 43 %" in loading
    assert loading.endswith("max-running-requests=64")
    assert "mi355x tp8 max-running-requests=128 mem-fraction-static=0.84 speculation=off weights=fp8" in "\n".join(
        lines
    )


@given(width=st.integers(20, 250), height=st.integers(8, 60), running=st.integers(0, 12), simulated=st.booleans())
def test_the_screen_fits_every_terminal(width, height, running, simulated):
    view = after(*STORY, *(started(30 + i) for i in range(running)), PoolClosed("mi355x", "no image " * 30))
    lines = screen(replace(view, simulated=simulated), width, height, 1e5)
    assert len(lines) <= height
    assert all(len(text_of(line)) <= max(40, width) for line in lines)


def test_more_trials_than_lines_are_counted():
    text = shown(after(*STORY, *(started(30 + i) for i in range(20))), 80, height=24)
    assert "22 running" in text
    assert "more\n" in text


def test_before_anything_is_known_nothing_is_invented():
    text = shown(after(StudyOpened("demo", "u", resumed=False, counted=0)), 80)
    assert "nothing measured yet" in text
    assert "nothing is running" in text
    assert "last verdicts" not in text


def test_simulated_figures_are_marked_and_have_no_wall_clock():
    text = shown(replace(after(*STORY), simulated=True), 80)
    assert "SIMULATED, nothing is measured" in text.splitlines()[0]
    assert "4 min" not in text


def test_hours_go_on_between_two_trials_of_a_running_search_only():
    view = after(*STORY)
    assert "hours            2.9 " in shown(view, 80, now_s=100 + 3600)
    assert "hours            1.9 " in shown(replace(view, live=False), 80, now_s=100 + 3600)


def test_without_a_budget_the_bar_is_that_of_the_forecast():
    book = replace(LEDGER, budget=Budget(), expected=None)
    assert "━" not in shown(after(book), 80)
    assert "━" in shown(after(replace(book, expected=LEDGER.expected)), 80)


def test_bars_are_drawn_without_unicode_where_there_is_none():
    text = shown(after(*STORY), 80, ascii_only=True)
    assert "━" not in text
    assert "####" in text
    assert text.isascii()


@pytest.mark.parametrize(
    ("event", "phase"),
    [
        (StudyOpened("d", "u", resumed=True, counted=3), "searching"),
        (SearchStopped("trials", 30), "choosing what to confirm"),
        (ConfirmStarted(BEST, 2, 2.2, 1), "confirming candidate 2, 1 run"),
        (Closing(1), "interrupted: ending 1 running trial"),
        (Closing(2), "interrupted: ending 2 running trials"),
    ],
)
def test_the_phase_follows_the_events(event, phase):
    assert phase == after(event).phase


@pytest.mark.parametrize(
    ("standing", "words"),
    [
        ("holds", "confirmed"),
        ("missed", "refuted"),
        ("undecided", "not confirmed yet"),
        ("open", "not confirmed yet"),
        (None, "not confirmed yet"),
    ],
)
def test_what_the_confirmation_says_of_the_best_stands_beside_it(standing, words):
    book = replace(LEDGER, best=replace(LEDGER.best, standing=standing))
    assert f"trial 17, {words}\n" in shown(after(*STORY, book), 80)


def test_a_terminal_without_unicode_gets_ascii_only():
    story = after(*STORY, ended(20, state="failed", failure="Speicher voll: größer " * 9))
    for width in (40, 80, 200):
        lines = screen(story, width, 30, 100.0, ascii_only=True)
        assert all(text_of(line).isascii() for line in lines)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (ended(state="infeasible", ttft_p95_s=9.5), "trial 7    missed    best TTFT p95 9.5 s"),
        (ended(state="invalid", failure="the client was late"), "trial 7    invalid   the client was late"),
        (ended(state="failed"), "trial 7    failed    no reason given"),
        (ended(confirmation=True, ttft_p95_s=2.0), "confirm 7  holds     TTFT p95 2 s"),
        (ended(confirmation=True, state="infeasible", ttft_p95_s=6.0), "confirm 7  misses    TTFT p95 6 s"),
    ],
)
def test_every_verdict_says_what_and_why(event, line):
    assert line in shown(after(event), 80).splitlines()


def test_notices_stay_until_others_come():
    view = after(PoolClosed("a", "x"), StopOffered(0.012, 20))
    assert "pool a is closed for now: x" in shown(view, 80)
    assert "save 1.2% at most" in shown(view, 80)


def test_an_ended_trial_runs_no_more_and_an_adopted_one_stands_once():
    view = after(started(3), started(3, adopted=True), started(4))
    assert [3, 4] == [t.number for t in view.running]
    assert [4] == [t.number for t in seen(view, ended(3), 0.0).running]


def test_old_verdicts_are_forgotten():
    view = after(*(ended(i) for i in range(KEPT + 10)))
    assert (KEPT, KEPT + 9) == (len(view.verdicts), view.verdicts[0].number)
