"""A search that is asked to stop: between two steps, at once or when the running trials have ended."""

from __future__ import annotations

import pytest
from support.fake_runtime import FakeCluster
from support.problems import a_problem, measured

from tuner.errors import UsageError
from tuner.study.problem import Budget
from tuner.study.search import search
from tuner.study.stored import image_digests, read_study
from tuner.study.summary import read_summary


@pytest.mark.parametrize(("wish", "told", "running"), [("stop", 0, 2), ("drain", 2, 0)])
def test_a_stop_leaves_trials_running_and_draining_waits_for_them(database, wish, told, running):
    cluster = FakeCluster(measured, slots={"mi355x": 2})
    problem = a_problem(budget=Budget(trials=6))
    outcome = search(
        problem, database, cluster.controller(), poll_s=1.0, stopping=lambda: wish if len(cluster.started) >= 2 else ""
    )
    assert (outcome.exit_reason, outcome.exit_code) == ("interrupted", 130)
    assert (outcome.counted, len(cluster.live), len(cluster.started)) == (told, running, 2)
    again = search(problem, database, cluster.controller(), poll_s=1e4)
    assert again.counted == 6
    assert len({trial_id for trial_id, _ in cluster.started[: 6 + 0]}) == 6, "what ran on was adopted"


def test_draining_ends_between_confirmations_too(database):
    cluster = FakeCluster(measured)
    problem = a_problem(budget=Budget(trials=2))
    confirming = lambda: "drain" if len(cluster.started) > 2 else ""  # noqa: E731
    outcome = search(problem, database, cluster.controller(), poll_s=1e4, stopping=confirming)
    assert (outcome.exit_reason, outcome.counted, len(cluster.started)) == ("interrupted", 2, 3)


def test_single_trials_are_read_by_number_and_by_id(database):
    cluster = FakeCluster(measured)
    search(a_problem(budget=Budget(trials=2)), database, cluster.controller(), poll_s=1e4)
    name = read_summary(database).study
    stored = read_study(database, name)
    assert stored.trial("1").number == 1
    assert stored.trial(stored.trials[1].spec["id"]).number == 1
    assert stored.trial("c0").spec["confirm"] is not None
    for asked in ("2", "c9", "nobody"):
        with pytest.raises(UsageError, match="has no trial"):
            stored.trial(asked)
    with pytest.raises(UsageError, match="no study other"):
        read_study(database, "other")
    assert image_digests(database, "other") == {}
    document = stored.stored("1").document
    assert document["state"] == "measured"
    assert "no pod any more" in stored.stored("1").ending
