"""What a search will take: sums that add up, budgets that end it, pools that work side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.spaces import small_space

from tuner.launch.spaces import open_space
from tuner.study.assemble import Where, problem_of
from tuner.study.forecast import forecast, trial_seconds
from tuner.study.points import evaluate
from tuner.study.problem import Budget, ConfirmPlan
from tuner.trial.spec import Deadlines

B200 = """\
  b200:
    accelerator: b200
    engine: {kind: sglang, version: "0.5.16"}
    image: x
    usd_per_gpu_hour: 4.20
    max_nodes: 3
workload:
"""
NO_CONFIRMATION = ConfirmPlan(top=0)


def planned(folder, *edits, **changes):
    points = evaluate(open_space(str(small_space(folder, *edits))))
    problem = problem_of(points, name="s", where=Where(simulated=False), trials=None, deadlines=Deadlines())
    return points, replace(problem, **changes)


def test_hours_gpu_hours_and_money_are_those_of_all_trials(tmp_path):
    expected = forecast(*planned(tmp_path, confirm=NO_CONFIRMATION))
    assert (4, 0, 1, "trials") == (expected.trials, expected.confirmations, expected.nodes, expected.ends_by)
    assert expected.wall_s == pytest.approx(4 * expected.trial_s)
    assert expected.gpu_hours == pytest.approx(8 * expected.wall_s / 3600)
    assert expected.usd == pytest.approx(2.10 * expected.gpu_hours)


def test_confirmations_come_on_top_and_take_their_minutes(tmp_path):
    plain = forecast(*planned(tmp_path, confirm=NO_CONFIRMATION))
    short, long = (forecast(*planned(tmp_path, confirm=ConfirmPlan(2, 3, minutes))) for minutes in (1, 11))
    assert (6, plain.trials) == (short.confirmations, short.trials)
    assert short.wall_s > plain.wall_s
    assert long.wall_s - short.wall_s == pytest.approx(6 * 600)


def test_more_nodes_shorten_the_time_and_cost_the_same(tmp_path):
    one = forecast(*planned(tmp_path))
    four = forecast(*planned(tmp_path, ("2.10\n", "2.10\n    max_nodes: 4\n")))
    assert (4, one.usd) == (four.nodes, pytest.approx(four.usd))
    assert one.wall_s == pytest.approx(4 * four.wall_s)


def test_a_search_without_a_budget_ends_when_every_point_is_tried(tmp_path):
    outside = ("seeds:\n", "seeds:\n  d: {weights: fp8, only: [model, tp]}\n")
    points, problem = planned(tmp_path, outside, budget=Budget())
    expected = forecast(points, problem)
    assert (len(points.valid) + 1, "space_exhausted") == (expected.trials, expected.ends_by)
    assert "space_exhausted" == forecast(points, replace(problem, budget=Budget(trials=10_000))).ends_by


@pytest.mark.parametrize(
    ("name", "field", "share"), [("wall_s", "wall", 3600), ("gpu_hours", "gpu_hours", 1), ("usd", "usd", 1)]
)
def test_whichever_budget_is_spent_first_ends_it(tmp_path, name, field, share):
    points, problem = planned(tmp_path, confirm=NO_CONFIRMATION, budget=Budget(trials=12))
    whole = forecast(points, problem)
    half = Budget(trials=12, **{name: getattr(whole, name) / 2})
    expected = forecast(points, replace(problem, budget=half))
    assert (6, field) == (expected.trials, expected.ends_by)
    assert getattr(expected, name) == pytest.approx(getattr(whole, name) / 2)


def test_the_confirmations_share_is_kept_from_the_budget(tmp_path):
    points, problem = planned(tmp_path, confirm=NO_CONFIRMATION, budget=Budget(usd=40))
    assert forecast(points, replace(problem, confirm=ConfirmPlan(3, 2, 10))).trials < forecast(points, problem).trials


def test_pools_work_side_by_side_and_the_slower_one_does_fewer_trials(tmp_path):
    points, problem = planned(tmp_path, ("workload:\n", B200), confirm=NO_CONFIRMATION, budget=Budget(trials=12))
    both = forecast(points, problem)
    assert 4 == both.nodes
    alone = {}
    for pool in ("mi355x", "b200"):
        mine = tuple(p for p in points.valid if p.config.pool == pool)
        alone[pool] = forecast(replace(points, valid=mine), problem)
    assert [1, 3] == [alone[pool].nodes for pool in ("mi355x", "b200")]
    rates = {pool: alone[pool].nodes / alone[pool].trial_s for pool in alone}
    assert both.wall_s == pytest.approx(12 / sum(rates.values()))
    share = rates["b200"] / sum(rates.values())
    hourly = both.usd / (both.gpu_hours / 8)
    assert hourly == pytest.approx(8 * (2.10 * (1 - share) + 4.20 * share))


def test_a_trial_is_longer_than_its_start_and_grows_with_the_answers(tmp_path):
    points, _ = planned(tmp_path)
    longer, _ = planned(tmp_path, ("output_tokens: 200", "output_tokens: 2000"))
    assert 300 < trial_seconds(points, points.valid[0]) < trial_seconds(longer, longer.valid[0]) < 24 * 3600
