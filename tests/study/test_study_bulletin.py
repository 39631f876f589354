"""What the controller tells whoever reads the database: seldom, and never at the cost of the search."""

from __future__ import annotations

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from support.fake_runtime import FakeCluster
from support.problems import a_config, a_problem, measured

from tuner.study.budget import Used, expected
from tuner.study.bulletin import BULLETIN, EVERY_S, Bulletin, posted
from tuner.study.events import Closing, TrialEnded, TrialStage, TrialStarted
from tuner.study.lock import OwnershipLost
from tuner.study.problem import Budget, ConfirmPlan
from tuner.study.replay import replay
from tuner.study.search import search
from tuner.study.storage import open_storage

CONFIG = a_config()


class Owner:
    lost = False

    def check(self):
        if self.lost:
            raise OwnershipLost("another controller has it")


@pytest.fixture
def study():
    return optuna.create_study()


@pytest.fixture
def clock():
    return [1000.0]


@pytest.fixture
def board(study, clock):
    return Bulletin(study, Owner(), slots=2, now_s=lambda: clock[0], at=lambda: 5e8 + clock[0])


def started(number):
    return TrialStarted(number, f"t{number}", CONFIG, "model", 1)


def test_stages_are_written_at_most_every_few_seconds(study, clock, board):
    board.note(started(1))
    board.write_when_due()
    board.note(TrialStage(1, "t1", "warming"))
    board.write_when_due()
    assert posted(study.user_attrs).stages == {"t1": "starting"}
    clock[0] += EVERY_S
    board.write_when_due()
    told = posted(study.user_attrs)
    assert (told.stages, told.slots, told.at) == ({"t1": "warming"}, 2, 5e8 + clock[0])
    assert told.since == {"t1": 5e8 + 1000.0}


def test_nothing_new_is_not_written(study, clock, board):
    board.note(Closing(1))
    board.write_when_due()
    assert BULLETIN not in study.user_attrs
    board.note(started(1))
    board.write_when_due()
    study.set_user_attr(BULLETIN, "mark")
    clock[0] += 10 * EVERY_S
    board.write_when_due()
    assert study.user_attrs[BULLETIN] == "mark"


def test_an_ended_trial_is_left_out(study, clock, board):
    for event in (started(1), started(2), TrialEnded(1, "t1", CONFIG, "measured", 1)):
        board.note(event)
    board.write_when_due()
    assert list(posted(study.user_attrs).stages) == ["t2"]


def test_a_database_that_is_away_costs_the_search_nothing(board):
    class Away:
        def set_user_attr(self, _key, _value):
            raise StorageInternalError("away")

    board.study = Away()
    board.note(started(1))
    board.write_when_due()


def test_a_lost_study_is_not_written_to(study, board):
    board.owner.lost = True
    board.note(started(1))
    with pytest.raises(OwnershipLost):
        board.write_when_due()
    assert BULLETIN not in study.user_attrs


def test_a_study_without_one_has_an_empty_one():
    told = posted({})
    assert (told.at, told.slots, told.stages) == (None, 1, {})


@pytest.mark.parametrize("limits", [Budget(), Budget(trials=5)])
def test_nothing_is_foretold_before_a_trial_ended_or_without_a_budget(limits):
    assert expected(limits, Used(), [], [], ConfirmPlan(), 1) is None


@pytest.mark.postgres
def test_another_machine_sees_the_running_search_through_postgresql(postgres_url):
    seen = []
    runtime = FakeCluster(measured, slots={"mi355x": 2}).controller()

    def look():
        storage = open_storage(postgres_url)
        try:
            seen.append(replay(storage, "watched"))
        finally:
            storage.close()

    runtime.on_poll = look
    problem = a_problem(name="watched", budget=Budget(trials=2), confirm=ConfirmPlan(top=0))
    search(problem, postgres_url, runtime, poll_s=1e4)
    stages = [event.text for _, event in seen[0].events if isinstance(event, TrialStage)]
    assert stages == ["starting", "starting"]
    assert seen[0].written_at is not None
    assert seen[0].exit_reason is None
