"""Exactly the chosen configurations, each to its end: in the study itself or in a new one."""

from __future__ import annotations

import pytest
from support.fake_runtime import FakeCluster
from support.problems import a_config, a_problem, failed, measured, raced_out

from tuner.errors import UsageError
from tuner.study.again import only_these
from tuner.study.problem import Budget, ConfirmPlan
from tuner.study.search import search
from tuner.study.summary import read_summary

PLAN = ConfirmPlan(top=1, repeats=1, minutes=1)


def raced(spec):
    return raced_out(spec) if spec.incumbent_req_per_s else measured(spec)


def begun(database, script=raced):
    search(a_problem(budget=Budget(trials=5), confirm=PLAN), database, FakeCluster(script).controller(), poll_s=1e4)
    return read_summary(database)


def again(database, numbers, script=raced, **changes):
    problem = only_these(a_problem(**{"budget": Budget(trials=5), "confirm": PLAN} | changes), database, numbers)
    outcome = search(problem, database, FakeCluster(script).controller(), poll_s=1e4)
    return outcome, read_summary(database)


def test_dropped_trials_are_measured_to_their_end_and_nothing_else_is_run(database):
    before = begun(database)
    dropped = [f.trial for f in before.trials_in_order if f.state == "pruned"][:2]
    outcome, after = again(database, dropped)
    assert outcome.stopped_by == "chosen"
    new = after.trials_in_order[len(before.trials_in_order) :]
    assert [f.origin for f in new] == [f"again:{n}" for n in dropped]
    assert [f.state for f in new] == ["measured", "measured"]
    assert all(f.spec["incumbent_req_per_s"] is None for f in new)
    fingerprints = {f.trial: f.fingerprint for f in before.trials_in_order}
    assert [f.fingerprint for f in new] == [fingerprints[n] for n in dropped]


def test_the_same_command_again_runs_nothing_more(database):
    dropped = [f.trial for f in begun(database).trials_in_order if f.state == "pruned"][:1]
    _, once = again(database, dropped)
    _, twice = again(database, dropped)
    assert len(once.trials_in_order) == len(twice.trials_in_order)


def test_a_lost_one_is_tried_again_and_no_other(database):
    dropped = [f.trial for f in begun(database).trials_in_order if f.state == "pruned"][:1]
    lost = []

    def script(spec):
        if not lost and spec.confirm is None:
            lost.append(spec)
            return failed(spec, "infrastructure", "evicted")
        return measured(spec)

    _, after = again(database, dropped, script)
    assert [f.origin for f in after.trials_in_order[-2:]] == [f"again:{dropped[0]}", "retry"]
    assert after.trials_in_order[-1].state == "measured"


def test_a_new_study_runs_the_old_ones_trials_and_ends(database, tmp_path):
    old = begun(database)
    url = f"sqlite:///{tmp_path}/new.db"
    problem = only_these(a_problem(name="new", confirm=PLAN), url, [3, 4], old=("demo", database))
    outcome = search(problem, url, FakeCluster(measured).controller(), poll_s=1e4)
    new = read_summary(url)
    assert [f.origin for f in new.trials_in_order] == ["seed:demo-3", "seed:demo-4"]
    assert [f.fingerprint for f in new.trials_in_order] == [f.fingerprint for f in old.trials_in_order[3:5]]
    assert (outcome.exit_reason, outcome.stopped_by) == ("confirmed", "chosen")


def test_a_new_study_goes_on_with_other_trials_of_the_old_one(database, tmp_path):
    """What one comparison leaves undecided, the next command runs in the study that the first began."""
    begun(database)
    url = f"sqlite:///{tmp_path}/new.db"
    for numbers in ([3, 4], [1], [1]):
        problem = only_these(a_problem(name="new", confirm=PLAN), url, numbers, old=("demo", database))
        outcome = search(problem, url, FakeCluster(measured).controller(), poll_s=1e4)
        assert outcome.stopped_by == "chosen"
    origins = [f.origin for f in read_summary(url).trials_in_order]
    assert origins == ["seed:demo-3", "seed:demo-4", "seed:demo-1"]


def test_one_that_was_cut_off_is_still_owed(database):
    dropped = [f.trial for f in begun(database).trials_in_order if f.state == "pruned"][:1]

    def script(spec):
        return failed(spec, "infrastructure", "evicted") if spec.confirm is None else measured(spec)

    _, lost = again(database, dropped, script)
    problem = only_these(a_problem(budget=Budget(trials=5), confirm=PLAN), database, dropped)
    assert problem.budget.trials == lost.counted + 1


def test_no_baseline_is_measured_again_between_the_chosen_ones(database):
    dropped = [f.trial for f in begun(database).trials_in_order if f.state == "pruned"][:2]
    before = len(read_summary(database).trials_in_order)
    _, after = again(database, dropped, budget=Budget(trials=5, recheck_every=1))
    assert [f.origin for f in after.trials_in_order[before:]] == [f"again:{n}" for n in dropped]


@pytest.mark.parametrize(
    ("numbers", "changes", "words"),
    [
        ([99], {}, "--only 99: study demo has no such trial"),
        ([2], {"candidates": []}, "no point of this space any more"),
    ],
)
def test_what_cannot_be_run_again_is_said(database, numbers, changes, words):
    begun(database)
    with pytest.raises(UsageError, match=words):
        only_these(a_problem(**changes), database, numbers)


def test_a_trial_keeps_what_the_model_predicted_of_it(database):
    summary = begun(database)
    assert all(f.spec["context"].get("predicted_req_per_s") for f in summary.trials_in_order[1:])
    assert "predicted_req_per_s" not in summary.trials_in_order[0].spec["context"]  # outside the grid
    space = summary.plan["space"]
    assert space["valid"] == len(a_problem().candidates)
    assert space["predicted_usd_per_million"] == sorted(space["predicted_usd_per_million"])
    assert a_config().fingerprint in {f.fingerprint for f in summary.trials_in_order}
