"""SIGKILL between any two database writes loses nothing, runs nothing twice at once and tells nothing twice."""

from __future__ import annotations

import optuna
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from support.fake_runtime import FakeCluster
from support.problems import a_config, a_problem, measured

from tuner.study.confirm import sibling
from tuner.study.problem import Budget, ConfirmPlan
from tuner.study.search import search
from tuner.study.storage import open_storage
from tuner.study.summary import read_summary

WRITES = 22
"""Database writes of one search trial, its confirmation, and opening and ending the study."""


class Killed(BaseException):
    """The controller is gone: nothing of ours may catch this."""


class KillAt:
    """Raises at the n-th write, counted from 1, before or after it; remembers the names it saw."""

    def __init__(self, when: str, n: int) -> None:
        self.when, self.left, self.names = when, n, []

    def __call__(self, name: str) -> None:
        self.names.append(name)
        when, _, _ = name.partition(" ")
        if when == self.when:
            self.left -= 1
            if self.left == 0:
                raise Killed(name)


class KillAtSecond:
    """Raises at the second write of a name: that of the second trial."""

    def __init__(self, name: str) -> None:
        self.name, self.left = name, 2

    def __call__(self, name: str) -> None:
        self.left -= name == self.name
        if name == self.name and self.left == 0:
            raise Killed(name)


def small_problem(**changes):
    return a_problem(**{"budget": Budget(trials=1), "confirm": ConfirmPlan(top=1, repeats=1, minutes=10)} | changes)


def run(problem, database, cluster, on_write):
    return search(problem, database, cluster.controller(), on_write=on_write, poll_s=1e4)


def all_trials(database, name="demo"):
    storage = open_storage(database)
    try:
        known = optuna.get_all_study_names(storage.backend)
        return [
            trial
            for study in (name, sibling(name))
            if study in known
            for trial in optuna.load_study(study_name=study, storage=storage.backend).trials
        ]
    finally:
        storage.close()


def test_the_number_of_writes_is_known(database):
    """The enumeration below covers every write: adding one must extend it."""
    names = []
    assert run(small_problem(), database, FakeCluster(measured), names.append).exit_reason == "confirmed"
    assert sum(name.startswith("before ") for name in names) == WRITES
    assert names[::2] == [name.replace("after", "before") for name in names[1::2]]


# What a kill leaves differs only by which side of a runtime call it falls on; together both columns cover both kinds
# of runtime at every state of the database.
@pytest.mark.parametrize("n", range(1, WRITES + 1))
@pytest.mark.parametrize(("when", "survives"), [("before", True), ("after", False)])
def test_a_kill_at_any_write_is_survived(database, when, survives, n):
    cluster = FakeCluster(measured, survives=survives)
    kill = KillAt(when, n)
    with pytest.raises(Killed):
        run(small_problem(), database, cluster, kill)
    lost = len(cluster.started) - kill.names.count("after result")
    names = []
    outcome = run(small_problem(), database, cluster, names.append)
    assert (outcome.exit_reason, outcome.counted) == ("confirmed", 1)
    assert cluster.overlaps == []
    assert cluster.live == {}
    trials = all_trials(database)
    assert all(trial.state.is_finished() for trial in trials)
    told = [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]
    assert [trial.user_attrs["origin"] for trial in told] == ["seed:engine-default", "confirm"]
    assert all(set(t.constraints) == {"ttft_p95_s", "error_rate", "failure"} for t in told)
    assert all(
        {"result", "state", "usd_per_million_output_tokens", "capacity_req_per_s", "ttft_p95_s"} <= set(t.user_attrs)
        for t in told
    )
    # What ran on is harvested, what died with the controller runs again, what is stored is never run again.
    assert len(cluster.started) == 2 + (0 if survives else lost)
    tells = [*kill.names, *names].count("before tell")
    assert tells <= len(trials) + (kill.names[-1] == "before tell")


RECHECK = ["ask", "spec", "result", "tell"]


@pytest.mark.parametrize("write", ["ask", "spec"])
def test_a_kill_before_a_trial_starts_leaves_its_like_as_it_would_have_been(tmp_path, write):
    """Same configuration, same attempt, same traffic: a trial that never ran is no earlier attempt."""
    told = []
    for name, killed in (("whole", False), ("broken", True)):
        problem, database = small_problem(budget=Budget(trials=3), seeds=[]), str(tmp_path / name)
        cluster = FakeCluster(measured, survives=False)
        if killed:
            with pytest.raises(Killed):
                run(problem, database, cluster, KillAtSecond(f"after {write}"))
        run(problem, database, cluster, None)
        told.append(
            [
                (t.user_attrs["fingerprint"], t.user_attrs["spec"]["seed"], t.user_attrs["state"])
                + (() if write == "spec" else (t.user_attrs["attempt"],))
                for t in all_trials(database)
                if t.user_attrs.get("state") != "abandoned"
            ]
        )
    assert told[0] == told[1]


@pytest.mark.parametrize("write", RECHECK)
@pytest.mark.parametrize(("when", "survives"), [("before", True), ("after", False)])
def test_a_recheck_whose_controller_is_killed_is_done_once(database, when, survives, write):
    """The baseline, one other configuration, and the baseline again: killed while it is chosen, begun and recorded."""
    problem = small_problem(
        seeds=[("baseline", a_config())],
        budget=Budget(trials=3, recheck_every=1),
        confirm=ConfirmPlan(top=0, repeats=1, minutes=10),
    )
    cluster = FakeCluster(measured, survives=survives)
    kill = KillAtThird(f"{when} {write}")
    with pytest.raises(Killed):
        run(problem, database, cluster, kill)
    assert run(problem, database, cluster, None).counted == 3
    assert (cluster.overlaps, cluster.live) == ([], {})
    trials = all_trials(database)
    told = [trial.user_attrs["origin"] for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]
    assert told == ["seed:baseline", "sampler", "recheck"]
    abandoned = [trial.user_attrs["failure"] for trial in trials if trial.state.name == "FAIL"]
    assert abandoned in ([], ["abandoned before start"])
    assert bool(abandoned) is (f"{when} {write}" in ("after ask", "before spec"))


class KillAtThird:
    """Raises at the third write of this name: that of the third trial."""

    def __init__(self, name: str) -> None:
        self.name, self.left = name, 3

    def __call__(self, name: str) -> None:
        self.left -= name == self.name
        if self.left == 0:
            raise Killed(name)


@pytest.mark.parametrize("survives", [True, False])
@pytest.mark.parametrize("stride", [9, 31])
def test_controllers_killed_again_and_again_still_finish(database, survives, stride):
    """Every controller dies after a few writes more; two trials run at once."""
    problem = small_problem(budget=Budget(trials=4), confirm=ConfirmPlan(top=2, repeats=2, minutes=10))
    cluster = FakeCluster(measured, survives=survives, slots={"mi355x": 2})
    outcome, n = None, stride
    while outcome is None:
        try:
            outcome = run(problem, database, cluster, KillAt("after", n))
        except Killed:
            n += stride if n < 400 else 0
    assert (outcome.exit_reason, outcome.counted) == ("confirmed", 4)
    assert cluster.overlaps == []
    assert cluster.live == {}
    counted = [t for t in all_trials(database) if t.state.name == "COMPLETE"]
    assert len(counted) == 4 + 2
    assert len({t.user_attrs["fingerprint"] for t in counted}) == 4


@pytest.mark.parametrize(("when", "survives"), [("before", True), ("after", False)])
def test_a_kill_while_noting_what_a_running_trial_has_shown_is_survived(database, when, survives):
    problem = small_problem(budget=Budget(trials=4))
    cluster = FakeCluster(
        measured,
        survives=survives,
        slots={"mi355x": 2},
        duration_s=lambda spec: 600.0 + 100 * (spec.seed % 3),
        shown=lambda _spec, result, elapsed_s: result.capacity_req_per_s if elapsed_s >= 300 else None,
    )
    kill = KillAtSecond(f"{when} shown")
    with pytest.raises(Killed):
        run(problem, database, cluster, kill)
    assert kill.left == 0
    outcome = run(problem, database, cluster, None)
    assert (outcome.exit_reason, outcome.counted) == ("confirmed", 4)
    assert (cluster.overlaps, cluster.live) == ([], {})
    assert all(trial.state.is_finished() for trial in all_trials(database))


class KillInside:
    """Raises before the n-th change within a write: a commit of many changes is cut short at each of them."""

    def __init__(self, write: str, n: int) -> None:
        self.write, self.left, self.inside = write, n, False

    def __call__(self, name: str) -> None:
        when, _, write = name.partition(" ")
        self.inside = (when, write) == ("before", self.write)

    def change(self, _connection, _cursor, statement, *_args) -> None:
        if self.inside and not statement.startswith("SELECT"):
            self.left -= 1
            if self.left == 0:
                raise Killed(statement)


@pytest.mark.parametrize("write", ["ask", "tell"])
def test_a_kill_inside_a_commit_leaves_nothing_of_it(database, write):
    """At every single change in it, one controller after the other, until there is none left to be killed at."""
    cluster = FakeCluster(measured)
    kills = 0
    while True:
        kill = KillInside(write, kills + 1)
        event.listen(Engine, "before_cursor_execute", kill.change)
        try:
            outcome = run(small_problem(confirm=ConfirmPlan(top=0)), database, cluster, kill)
        except Killed:
            kills += 1
        else:
            break
        finally:
            event.remove(Engine, "before_cursor_execute", kill.change)
        trials = all_trials(database)
        assert [t.state.name for t in trials] == ([] if write == "ask" else ["RUNNING"])
        assert all({"spec", "result"} <= set(t.user_attrs) and not t.constraints for t in trials)
        assert all("state" not in t.user_attrs for t in trials)
    assert kills > 3
    assert (outcome.counted, len(cluster.started), cluster.live) == (1, 1, {})


def test_a_kill_inside_one_of_optunas_own_writes_is_survived(database):
    """`ask` writes a trial and then its parameters one by one: a trial with half of them never ran."""
    storage = open_storage(database)
    cluster = FakeCluster(measured)
    with pytest.raises(Killed):
        run(small_problem(), database, cluster, KillAt("before", 8))
    study = optuna.load_study(study_name="demo", storage=storage.backend)
    half = study.ask()
    half.suggest_categorical("weights", ["fp8", "mxfp4"])
    storage.close()
    outcome = run(small_problem(), database, cluster, None)
    assert (outcome.exit_reason, outcome.counted) == ("confirmed", 1)
    first = all_trials(database)[0]
    assert (first.state.name, first.user_attrs["failure"]) == ("FAIL", "abandoned before start")
    assert read_summary(database).trials["abandoned"] == 1
