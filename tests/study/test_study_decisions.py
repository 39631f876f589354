"""Budget, retries, confirmation order and identity differences: tables of pure decisions."""

from __future__ import annotations

import pytest
from support.problems import a_config

from tuner.study.budget import Used, forecast, per_trial, reserve, spent, used, without
from tuner.study.confirm import next_step, standing
from tuner.study.events import exit_code
from tuner.study.history import PastTrial, differences, measured_by_cost, repriced
from tuner.study.problem import Budget, ConfirmPlan
from tuner.study.retry import due, nodes_to_avoid


def a_trial(number=0, state="measured", counted=None, config=None, cost=2.0, recognised=True, node="n1", gpu_s=28_800):
    config = config or a_config()
    lost = state == "failed" and counted is False
    failure = {"class": "infrastructure" if lost else "configuration", "kind": "crash", "recognised": recognised}
    return PastTrial(
        number=number,
        state=state,
        counted=state in ("measured", "pruned", "infeasible", "failed") if counted is None else counted,
        fingerprint=config.fingerprint,
        origin="sampler",
        config_json=config.as_json(),
        params={},
        constraints={},
        spec={"id": f"demo-{number}", "gpus": 8, "usd_per_hour": 16.0},
        result=None
        if state == "running"
        else {
            "gpu_seconds": gpu_s,
            "node": node,
            "start_up_s": 600,
            "capacity_req_per_s": 2.0,
            "failure": failure if state in ("failed", "invalid") else None,
        },
        usd_per_million=cost if state == "measured" else None,
    )


LOST = {"state": "failed", "counted": False}
CRASH = {"state": "failed", "recognised": False}


@pytest.mark.parametrize(
    ("past", "sure", "again"),
    [
        ([{}], True, False),
        ([LOST], False, True),
        ([LOST, LOST], False, True),
        ([LOST, LOST, LOST], False, False),
        ([LOST, {"state": "running"}], True, False),
        ([{"state": "invalid"}], False, True),
        ([{"state": "invalid"}, {"state": "invalid"}], False, False),
        ([{"state": "failed"}], True, False),
        ([CRASH], True, True),
        ([CRASH], False, False),
        ([CRASH, CRASH], True, False),
        ([CRASH, LOST], True, True),
        ([{"state": "infeasible"}], True, False),
        ([{"state": "pruned"}], True, False),
        ([{"state": "abandoned", "counted": False}], True, False),
    ],
)
def test_what_is_tried_again(past, sure, again):
    history = [a_trial(i, **kind) for i, kind in enumerate(past)]
    assert (due(history, "mi355x", 2, lambda _: sure) is not None) is again
    assert due(history, "b200", 2, lambda _: sure) is None


def test_a_retry_avoids_the_nodes_that_failed():
    history = [a_trial(0, node="ok"), a_trial(1, **LOST, node="bad"), a_trial(2, state="invalid", node="")]
    assert nodes_to_avoid(history) == ["bad"]


HOLDS, MISSED, RUNNING = {}, {"state": "infeasible"}, {"state": "running", "counted": False}


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        ([], "open"),
        ([HOLDS], "open"),
        ([HOLDS, HOLDS], "holds"),
        ([HOLDS, MISSED], "missed"),
        ([MISSED, RUNNING], "missed"),
        ([{"state": "failed"}], "missed"),
        ([LOST] * 2, "open"),
        ([LOST] * 3, "undecided"),
    ],
)
def test_what_confirmations_say(runs, says):
    assert standing([a_trial(i, **run) for i, run in enumerate(runs)], repeats=2, retries=1) == says


def test_confirmation_goes_down_the_list_until_one_holds():
    ranked = [a_trial(i, config=a_config(running=n)) for i, n in enumerate((32, 64, 128, 256))]
    plan = ConfirmPlan(top=3, repeats=2)

    def runs(*outcomes):
        return [a_trial(n, config=ranked[i].config, **kind) for n, (i, kind) in enumerate(outcomes)]

    def step(*outcomes):
        return next_step(ranked, runs(*outcomes), plan, 2)

    assert (step().candidate, step().rank, step().missing) == (ranked[0], 1, 2)
    assert step((0, HOLDS)).missing == 1
    assert step((0, HOLDS), (0, RUNNING)).missing == 0
    assert step((0, HOLDS), (0, HOLDS)).winner == ranked[0]
    assert step((0, MISSED)).candidate == ranked[1]
    refuted = [(0, MISSED), (1, MISSED), (2, MISSED)]
    assert step(*refuted).candidate is None  # the fourth is beyond `top`
    assert next_step(ranked, [], ConfirmPlan(repeats=0), 2).winner is None
    assert next_step(ranked, [], ConfirmPlan(top=0), 2).candidate is None


def test_budget_is_summed_over_trials_confirmations_and_sessions():
    history = [a_trial(0), a_trial(1, **LOST), a_trial(2, state="running")]
    attrs = {"session:1": {"wall_s": 100.0}, "session:2": {"wall_s": 50.0}, "uid": "x"}
    assert used(history, [a_trial(0)], attrs) == Used(trials=1, wall_s=150.0, gpu_hours=24.0, usd=48.0)
    assert per_trial(history) == Used(1, 3600.0, 8.0, 16.0)
    assert per_trial([]) == Used()


@pytest.mark.parametrize(
    ("budget", "in_flight", "why"),
    [
        (Budget(), 5, None),
        (Budget(trials=11), 0, None),
        (Budget(trials=10), 0, "trials"),
        (Budget(trials=11), 1, "trials"),
        (Budget(wall_s=1000), 0, "wall"),
        (Budget(gpu_hours=81), 0, None),
        (Budget(gpu_hours=80), 0, "gpu_hours"),
        (Budget(gpu_hours=81), 1, "gpu_hours"),
        (Budget(usd=170), 0, None),
        (Budget(usd=170), 1, "usd"),
        (Budget(trials=10, usd=1), 0, "trials"),
    ],
)
def test_whichever_limit_is_reached_first_ends_the_search(budget, in_flight, why):
    so_far = Used(trials=10, wall_s=1000, gpu_hours=80, usd=160)
    assert spent(budget, so_far, in_flight, Used(1, 3600, 8, 16)) == why


def test_confirmation_is_reserved_from_the_budget_but_never_eats_it():
    plan = ConfirmPlan(top=3, repeats=2, minutes=10)
    kept = reserve(plan, a_trial())
    assert kept == Used(0, 6 * 1200.0, pytest.approx(16.0), pytest.approx(32.0))
    left = without(Budget(trials=40, gpu_hours=160, usd=30, wall_s=86_400), kept)
    assert left == Budget(40, 86_400 - 7200.0, pytest.approx(144.0), pytest.approx(20.0))
    assert reserve(plan, None) == Used()
    assert without(Budget(), kept) == Budget()


@pytest.mark.parametrize(
    ("budget", "trials", "wall_s"),
    [
        (Budget(trials=10), 10, 2000 + 5 * 3600 / 2),
        (Budget(trials=100, gpu_hours=80), 10, 2000 + 5 * 3600 / 2),
        (Budget(trials=3), 5, 2000),
        (Budget(), 5, 2000),
    ],
)
def test_the_forecast_is_what_the_mean_trial_says(budget, trials, wall_s):
    got = forecast(budget, Used(5, 2000, 40, 80), Used(1, 3600, 8, 16), Used(gpu_hours=4), slots=2)
    assert (got.trials, got.wall_s) == (trials, wall_s)
    assert got.gpu_hours == 40 + 8 * (trials - 5) + 4


def test_prices_rescore_and_do_not_remeasure():
    trial = a_trial(cost=2.0)
    again = repriced(trial, {trial.fingerprint: 8.0})
    assert (again.usd_per_million, again.usd) == (1.0, 16.0)  # what it cost then was paid then
    assert repriced(trial, {"other": 8.0}) is trial


def test_of_several_measurements_of_one_configuration_the_latest_counts():
    trials = [a_trial(0, cost=1.0), a_trial(1, cost=3.0), a_trial(2, cost=2.0, config=a_config(running=32))]
    assert [trial.number for trial in measured_by_cost(trials)] == [2, 1]


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, ["a.c: 2 -> 3"]),
        ({"a": 1}, {}, ["a: 1 -> (absent)"]),
        ({}, {"a": None}, ["a: (absent) -> null"]),
        ({"a": [1, 2]}, {"a": (1, 3)}, ["a[1]: 2 -> 3"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a: [1] -> [1, 2]"]),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, ["a: 1 -> 2", "b: 1 -> 2"]),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {"a": True}, ["a: 1 -> true"]),
        ({"a": "x" * 500}, {"a": "y"}, [f'a: "{"x" * 119}... -> "y"']),
    ],
)
def test_differences_name_the_path_the_old_and_the_new(old, new, lines):
    assert differences(old, new) == lines


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("confirmed", 0),
        ("nothing_feasible", 3),
        ("no_confirmed_winner", 4),
        ("budget", 4),
        ("runtime_unusable", 5),
        ("interrupted", 130),
    ],
)
def test_exit_codes(reason, code):
    assert exit_code(reason) == code
