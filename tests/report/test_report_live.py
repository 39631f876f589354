"""The view on a terminal and from a database: drawn where it can be redrawn, else lines; the terminal left clean."""

from __future__ import annotations

import io
import re

import optuna
import pytest
from support.fake_runtime import FakeCluster
from support.problems import a_config, a_problem, measured

from tuner.errors import UsageError
from tuner.report.live import LiveView, wants_view
from tuner.report.screen import screen, text_of
from tuner.report.watch import print_running, view_of, watch, watch_study
from tuner.study.events import StudyOpened, TrialEnded, TrialStage, TrialStarted
from tuner.study.problem import Budget, ConfirmPlan
from tuner.study.replay import replay, replay_or_none
from tuner.study.search import search
from tuner.study.storage import open_storage

CONFIG = a_config()
ENTER, LEAVE, HIDE, SHOW = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25l", "\x1b[?25h"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "env", "wanted"),
    [
        (Terminal(), {"TERM": "xterm-256color"}, True),
        (io.StringIO(), {"TERM": "xterm-256color"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {}, False),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, True),
    ],
)
def test_only_a_terminal_that_can_be_redrawn_gets_the_view(stream, env, wanted):
    assert wanted is wants_view(stream, env)


@pytest.fixture
def _terminal(monkeypatch):
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.mark.usefixtures("_terminal")
@pytest.mark.parametrize("fault", [None, KeyboardInterrupt])
def test_the_terminal_is_left_as_it_was(fault):
    out = Terminal()
    try:
        with LiveView(out, simulated=True) as view:
            view(StudyOpened("demo", "u", resumed=False, counted=0))
            view(TrialStarted(1, "demo-1", CONFIG, "model", 1))
            view(TrialEnded(1, "demo-1", CONFIG, "failed", 0, failure="[red]bad[/red] \x1b[2J bell\x07"))
            view.show(view.view)
            if fault:
                raise fault
    except KeyboardInterrupt:
        pass
    text = out.getvalue()
    assert [1, 1] == [text.count(code) for code in (ENTER, LEAVE)]
    assert text.index(ENTER) < text.index("demo") < text.index(LEAVE)
    assert text.rindex(SHOW) > text.rindex(HIDE)
    # What engines and space files say is text, neither markup nor terminal codes.
    assert "[red]bad[/red]" in text
    assert "\x1b[2J bell" not in text
    assert "\x07" not in text


# --- from the database


def searched(tmp_path, on_poll=lambda: None, **changes):
    database = f"sqlite:///{tmp_path}/study.db"
    runtime = FakeCluster(measured, slots={"mi355x": 2}).controller()
    runtime.on_poll = on_poll
    problem = a_problem(**{"budget": Budget(trials=4), "confirm": ConfirmPlan(top=1, repeats=1, minutes=1)} | changes)
    search(problem, database, runtime, poll_s=1e4)
    return database


def read(database):
    storage = open_storage(database)
    try:
        return replay(storage)
    finally:
        storage.close()


def shown(view, width=120):
    return "\n".join(text_of(line) for line in screen(view, width, 40, 0.0))


def test_the_database_tells_what_the_running_search_would(tmp_path):
    """Read while the search runs, by whoever has the address: stages, ledger, verdicts."""
    seen = []

    def look():
        seen.append(read(f"sqlite:///{tmp_path}/study.db"))

    searched(tmp_path, on_poll=look)
    views = [view_of(each, each.written_at + 12) for each in seen]
    middle = next(view for view in views if len(view.running) == 2)
    assert {"starting", "running"} >= {trial.stage for trial in middle.running}
    assert middle.phase == "searching; heard of 12 s ago"
    assert middle.live
    confirming = next(view for view in views if any(trial.confirmation for trial in view.running))
    assert confirming.phase.startswith("confirming")


def test_a_finished_study_shows_its_verdicts_best_and_end(tmp_path):
    now = read(searched(tmp_path))
    view = view_of(now, 0.0)
    text = shown(view)
    assert "ended with a confirmed winner" in text.splitlines()[0]
    assert "SIMULATED" in text.splitlines()[0]
    assert len(view.verdicts) == 5
    assert "new best" in text
    assert "confirm 0" in text
    assert "nothing is running" in text
    assert (4, 4) == (view.ledger.used.trials, view.ledger.budget.trials)
    assert view.ledger.expected.gpu_hours == pytest.approx(view.ledger.used.gpu_hours)


def test_a_study_nobody_told_of_is_shown_without_stages(tmp_path):
    database = searched(tmp_path)
    storage = open_storage(database)
    study = optuna.load_study(study_name="demo", storage=storage.backend)
    study.set_user_attr("bulletin", {})
    study.set_user_attr("exit_reason", None)
    storage.close()
    assert view_of(read(database), 0.0).phase == "searching, or killed from outside"


def test_an_unknown_study_is_named_with_those_there_are(tmp_path):
    database = searched(tmp_path)
    storage = open_storage(database)
    try:
        with pytest.raises(UsageError, match=r"no study 'other'; it holds: demo"):
            replay(storage, "other")
    finally:
        storage.close()


def test_a_database_that_does_not_answer_is_waited_for(tmp_path):
    database = searched(tmp_path)
    storage = open_storage(database)
    try:
        assert replay_or_none(storage).study == "demo"
        with storage.backend.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE trials RENAME TO away")
        storage.backend.remove_session()
        assert replay_or_none(storage, "demo") is None
    finally:
        storage.close()


def test_watching_ends_with_the_search_and_prints_only_what_changed(tmp_path):
    seen = []
    searched(tmp_path, on_poll=lambda: seen.append(read(f"sqlite:///{tmp_path}/study.db")))
    end = read(f"sqlite:///{tmp_path}/study.db")
    answers = iter([seen[0], None, seen[0], seen[2], end])
    out, slept = io.StringIO(), []
    watch(lambda: next(answers), out, sleep=slept.append, now_s=lambda: 1e9)
    assert len(slept) == 4
    assert len(re.findall(r"^demo ", out.getvalue(), re.MULTILINE)) == 3


@pytest.mark.usefixtures("_terminal")
def test_watching_on_a_terminal_redraws_and_says_when_the_database_is_away(tmp_path):
    seen = []
    searched(tmp_path, on_poll=lambda: seen.append(read(f"sqlite:///{tmp_path}/study.db")))
    answers = iter([seen[0], None, read(f"sqlite:///{tmp_path}/study.db")])
    out = Terminal()
    drawn = []

    def sleep(_s):
        drawn.append(out.getvalue())

    watch(lambda: next(answers), out, sleep=sleep, now_s=lambda: 1e9)
    assert len(drawn) == 2
    assert out.getvalue().endswith((LEAVE + SHOW, SHOW, LEAVE))


def test_ctrl_c_ends_watching_quietly(tmp_path):
    first = read(searched(tmp_path))
    running = first.__class__(first.study, first.events, first.simulated, None, None, None)

    def interrupted(_s):
        raise KeyboardInterrupt

    watch(lambda: running, io.StringIO(), sleep=interrupted)


def test_an_address_is_enough_to_watch(tmp_path):
    database = searched(tmp_path)
    out = io.StringIO()
    watch_study(database, None, out)
    print_running(database, "demo", out)
    assert out.getvalue().count("last verdicts") == 2


def test_a_running_trials_stage_is_the_one_last_told(tmp_path):
    seen = []
    searched(tmp_path, on_poll=lambda: seen.append(read(f"sqlite:///{tmp_path}/study.db")))
    stages = [(event.number, event.text) for _, event in seen[0].events if isinstance(event, TrialStage)]
    assert [(0, "starting"), (1, "starting")] == stages
