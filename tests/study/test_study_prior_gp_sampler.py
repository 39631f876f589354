"""The default sampler: what it learns from each kind of trial, what it proposes, and that it remembers nothing."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_runtime import FakeCluster
from support.problems import ENGINE_DEFAULT, a_config, a_problem, failed, infeasible, measured, raced_out
from support.worlds import World, duration_s
from threadpoolctl import ThreadpoolController, threadpool_limits

from tuner.errors import UsageError
from tuner.study import alternatives
from tuner.study.converged import expected_gain
from tuner.study.events import StopOffered
from tuner.study.history import PastTrial
from tuner.study.incumbent import by_posterior, cost_to_beat
from tuner.study.params import distributions
from tuner.study.prior_gp import acquisition, beliefs, proposal
from tuner.study.prior_gp.observations import observe
from tuner.study.prior_gp.proposal import propose
from tuner.study.prior_gp.sampler import PriorGPSampler
from tuner.study.prior_gp.table import table_of, tabulate
from tuner.study.problem import Budget, ConfirmPlan, coordinates
from tuner.study.sampler import choose
from tuner.study.search import search
from tuner.study.storage import open_storage
from tuner.study.summary import read_summary

PROBLEM = a_problem(seeds=[])
STATES = ["measured", "pruned", "infeasible", "failed", "invalid", "running", "abandoned"]


def a_past(number, config, state="measured", cost=2.0, problem=PROBLEM):
    params = coordinates(config, problem.dimensions) or {}
    return PastTrial(
        number=number,
        state=state,
        counted=state in ("measured", "pruned", "infeasible", "failed"),
        fingerprint=config.fingerprint,
        origin="sampler",
        config_json=config.as_json(),
        params={name: params[name] for name in distributions(problem.dimensions) if name in params},
        constraints={"failure": 1.0} if state == "failed" else {"failure": 0.0},
        usd_per_million=cost if state == "measured" else None,
        bound_usd_per_million=cost if state == "pruned" else None,
    )


def measured_with(problem, log_cost_of, count, noise=0.0, seed=0):
    """A history of random candidates whose log cost is a function of table and row."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(problem.candidates), count, replace=False)
    return [
        a_past(
            n,
            problem.candidates[i].config,
            cost=math.exp(log_cost_of(problem.candidates[i]) + noise * rng.normal()),
            problem=problem,
        )
        for n, i in enumerate(rows)
    ]


def costing_of(problem, history):
    table = tabulate(problem)
    return table, beliefs.cost_beliefs(table, observe(history, table.index).costs)


def prior_of(candidate):
    return math.log(candidate.predicted_usd_per_million)


def test_before_any_trial_the_engine_models_best_that_fits_is_proposed():
    chosen = propose(PROBLEM, [], number=0, seed=1)
    fitting = [c for c in PROBLEM.candidates if c.margin_gib > 0]
    assert chosen.origin == "model"
    assert chosen.candidate.predicted_usd_per_million == min(c.predicted_usd_per_million for c in fitting)


def blas_threads():
    return [pool["num_threads"] for pool in ThreadpoolController().info() if pool["user_api"] == "blas"]


def test_the_sampler_thinks_with_one_blas_thread_and_gives_the_others_back(monkeypatch):
    seen = []

    def watched(*args):
        seen.append(blas_threads())
        return observe(*args)

    monkeypatch.setattr(proposal, "observe", watched)
    monkeypatch.setattr(beliefs, "observe", watched)
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        propose(PROBLEM, [], number=0, seed=1)
        beliefs.measured_posterior(table_of(PROBLEM), [])
        assert before == blas_threads() == [2] * len(before), "as many as there were"
    assert seen == [[1] * len(before)] * 2


def test_an_engine_model_that_is_right_is_believed_with_its_offset_and_slope():
    """Costs are 1.5 x the prediction to the power of 0.8: both figures are recovered and the rest is predicted."""
    truth = lambda c: 0.4 + 0.8 * prior_of(c)  # noqa: E731
    table, costing = costing_of(PROBLEM, measured_with(PROBLEM, truth, 16, noise=0.01))
    assert costing.weight > 0.9
    assert costing.informed.slope == pytest.approx(0.8, abs=0.15)
    mean, _ = costing.mixed(np.arange(len(table)))
    assert np.abs(mean - [truth(c) for c in PROBLEM.candidates]).max() < 0.15


def test_a_misleading_engine_model_loses_its_say():
    world = World(3, "misleading")
    problem = world.problem(40, 0)
    rng = np.random.default_rng(5)
    works = [i for i in world.valid if np.isfinite(world.cost[i])]
    by_name = world.index
    configs = {c.config.fingerprint: c.config for c in problem.candidates}
    names = [name for name, i in by_name.items() if i in set(works)]
    history = [
        a_past(n, configs[name], cost=float(world.cost[by_name[name]]), problem=problem)
        for n, name in enumerate(rng.choice(names, 30, replace=False))
    ]
    _, costing = costing_of(problem, history)
    assert costing.weight < 0.5 or costing.informed.slope < 0.3


def test_a_bound_lifts_the_expectation_of_its_like_and_is_less_sure_than_a_measurement():
    best = min(PROBLEM.candidates, key=prior_of)
    others = measured_with(PROBLEM, prior_of, 8)
    bound = a_past(90, best.config, "pruned", cost=1.6 * best.predicted_usd_per_million)
    sure = a_past(90, best.config, "measured", cost=1.6 * best.predicted_usd_per_million)
    (before,), (bounded,), (known,) = (
        zip(
            *costing_of(PROBLEM, [*others, *more])[1].mixed(
                np.array([list(tabulate(PROBLEM).index).index(best.config.fingerprint)])
            ),
            strict=True,
        )
        for more in ([], [bound], [sure])
    )
    assert bounded[0] > before[0] + 0.1
    assert before[1] > bounded[1] > known[1]


def test_running_trials_are_believed_not_repeated_and_do_not_move_the_mean():
    table = table_of(PROBLEM)
    seen = observe(measured_with(PROBLEM, prior_of, 8), table.index)
    costing = beliefs.cost_beliefs(table, seen.costs)
    rows = np.setdiff1d(np.arange(len(table)), seen.costs.which)
    believed = beliefs.believing(costing, rows[:2])
    (before, sd_before), (after, sd_after) = costing.mixed(rows), believed.mixed(rows)
    assert np.allclose(before, after, atol=1e-6)
    assert (sd_after <= sd_before + 1e-6).all()
    assert (sd_after[:2] < 0.7 * sd_before[:2]).all()


def test_a_crash_makes_its_like_less_likely_and_a_success_more_likely():
    table = table_of(PROBLEM)
    config = a_config(running=64)
    like, unlike = table.index[a_config(running=32).fingerprint], table.index[PROBLEM.candidates[-4].config.fingerprint]
    rows = np.array([like, unlike])
    nothing, crashed, served = (
        beliefs.log_feasible(table, observe(history, table.index), rows)
        for history in ([], [a_past(0, config, "failed")], [a_past(0, config)])
    )
    assert crashed[0] < nothing[0] < served[0]
    assert nothing[0] - crashed[0] > nothing[1] - crashed[1]


def test_many_crashes_at_first_do_not_blind_the_classifier():
    """Where the model was sure and wrong, Newton's method must still converge."""
    table = table_of(PROBLEM)
    history = [a_past(n, c.config, "failed") for n, c in enumerate(PROBLEM.candidates[:6])]
    history += [a_past(10 + n, c.config) for n, c in enumerate(PROBLEM.candidates[-8:])]
    chance = beliefs.log_feasible(table, observe(history, table.index), np.arange(len(table)))
    assert np.exp(chance[-10:]).min() > 0.4
    assert np.exp(chance[:6]).max() < 0.4


def test_memory_margin_decides_before_anything_is_known():
    table = table_of(PROBLEM)
    chance = beliefs.log_feasible(table, observe([], table.index), np.arange(len(table)))
    doubtful = np.array([c.margin_gib < 0 for c in PROBLEM.candidates])
    assert chance[doubtful].max() < chance[~doubtful].min()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_candidate_is_proposed_twice_and_the_same_history_proposes_the_same(data):
    order = data.draw(st.permutations(range(len(PROBLEM.candidates))))
    size = data.draw(st.sampled_from([0, 1, 2, 5, 20, len(PROBLEM.candidates)]))
    states = data.draw(st.lists(st.sampled_from(STATES), min_size=1, max_size=8))
    tried = [PROBLEM.candidates[i].config for i in order[:size]]
    history = [a_past(n, c, states[n % len(states)], 1.0 + n % 7) for n, c in enumerate(tried)]
    taken = {t.fingerprint for t in history if t.state != "abandoned"}
    first, again = (propose(PROBLEM, history, number=size, seed=7, pool="mi355x") for _ in range(2))
    if len(taken) == len(PROBLEM.candidates):
        assert first is None
    else:
        assert first == again
        assert first.candidate.config.fingerprint not in taken
        assert all(math.isfinite(value) for value in first.reasons.values())
        assert 0 <= first.reasons["probability_feasible"] <= 1
        assert 0 <= first.reasons["prior_weight"] <= 1


def test_trials_that_never_started_change_no_proposal():
    history = measured_with(PROBLEM, prior_of, 6)
    lost = replace(a_past(6, a_config(), "abandoned"), counted=False)
    assert propose(PROBLEM, history, number=6, seed=1) == propose(PROBLEM, [*history, lost], number=7, seed=1)


def test_points_outside_the_grid_are_no_candidates_but_their_cost_is_one_to_beat():
    history = measured_with(PROBLEM, prior_of, 6)
    cheap = a_past(6, ENGINE_DEFAULT, cost=0.01)
    assert propose(PROBLEM, [*history, cheap], number=7, seed=1).reasons["expected_improvement"] < 1e-6
    assert cost_to_beat(PROBLEM, [*history, cheap]) == pytest.approx(0.01)


def test_expected_improvement_is_right_near_and_finite_far_away():
    mean, variance = np.array([0.0, 0.5, 5.0, 1e4]), np.array([1.0, 0.04, 1e-4, 1e-8])
    found = acquisition.log_expected_improvement(mean, variance, 0.0)
    draws = np.random.default_rng(0).normal(size=400_000)
    for i in range(2):
        gain = np.maximum(0.0 - (mean[i] + math.sqrt(variance[i]) * draws), 0).mean()
        assert math.exp(found[i]) == pytest.approx(gain, rel=0.1)
    assert np.isfinite(found).all()
    assert (np.diff(found) < 0).all()
    z = -np.geomspace(0.9, 0.99e5, 2000)
    assert (np.diff(acquisition.log_expected_improvement(-z, np.ones_like(z), 0.0)) < 0).all()


def test_a_lucky_measurement_is_neither_raced_against_nor_confirmed_first():
    """Twelve of its like cost 2.0; one reading of 1.5 is mostly luck."""
    history = measured_with(PROBLEM, prior_of, 24, noise=0.02, seed=4)
    cheapest = min(history, key=lambda t: t.usd_per_million)
    lucky = max(history, key=lambda t: t.usd_per_million)
    luck = 0.97 * cheapest.usd_per_million
    told = [replace(t, usd_per_million=luck) if t is lucky else t for t in history]
    beat = cost_to_beat(PROBLEM, told)
    assert beat > luck
    assert by_posterior(PROBLEM, history)[0].usd_per_million < 1.1 * cheapest.usd_per_million
    assert [t.number for t in by_posterior(PROBLEM, told)] != sorted(
        [t.number for t in told], key=lambda n: next(t.usd_per_million for t in told if t.number == n)
    )


def test_optunas_ask_and_tell_with_the_sampler_finds_the_best_and_stores_its_reasons():
    sampler = PriorGPSampler(PROBLEM, seed=3)
    study = optuna.create_study(sampler=sampler, direction="minimize")
    by_point = {tuple(coordinates(c.config, PROBLEM.dimensions).values()): c for c in PROBLEM.candidates}
    waiting = study.ask(sampler.distributions)
    seen = [waiting.params]
    for n in range(12):
        trial = study.ask(sampler.distributions)
        assert trial.params not in seen
        seen.append(trial.params)
        point = tuple({"pool": "mi355x", **trial.params}[name] for name in PROBLEM.dimensions)
        if n == 3:
            trial.set_constraint("failure", 1.0)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif n == 4:
            trial.report(9.0, 0)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif n == 5:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, by_point[point].predicted_usd_per_million)
    attrs = study.trials[-1].user_attrs
    assert attrs["origin"] == "sampler"
    assert {"predicted_usd_per_million", "predicted_sd", "probability_feasible", "prior_weight"} <= set(
        attrs["proposal"]
    )
    best = sorted(c.predicted_usd_per_million for c in PROBLEM.candidates)
    assert study.best_value <= best[6]


def test_optunas_ask_for_another_space_says_what_to_do():
    study = optuna.create_study(sampler=PriorGPSampler(PROBLEM))
    with pytest.raises(ValueError, match=r"sampler\.distributions"):
        study.ask().suggest_int("colour", 0, 3)


def test_each_pool_gets_its_own_candidates_and_learns_from_the_other():
    problem = a_problem(seeds=[], pools=("mi355x", "b200"))
    history = [
        a_past(n, c.config, cost=3 * c.predicted_usd_per_million, problem=problem)
        for n, c in enumerate(problem.candidates[:60:4])
    ]
    pick = choose(problem, history, number=20, seed=1, pool="b200", method="prior-gp")
    assert pick.config.pool == "b200"
    untouched = min(c.predicted_usd_per_million for c in problem.candidates)
    assert pick.reasons["predicted_usd_per_million"] > 1.3 * untouched


def proposed_with(gain, weight=0.9, slope=1.0):
    return {"expected_improvement": gain, "prior_weight": weight, "prior_slope": slope}


@pytest.mark.parametrize(
    ("trials", "proposals", "gain"),
    [
        (14, [proposed_with(g) for g in (0.2, 0.004, 0.002, 0.003)], 0.004),
        (13, [proposed_with(0.001)] * 3, None),
        (14, [proposed_with(0.001)] * 2, None),
        (14, [proposed_with(g) for g in (0.004, 0.02, 0.003)], None),
        (14, [*[proposed_with(0.001)] * 2, proposed_with(0.001, weight=0.4)], None),
        (14, [*[proposed_with(0.001)] * 2, proposed_with(0.001, slope=0.4)], None),
    ],
)
def test_a_stop_is_offered_when_three_proposals_in_a_row_promised_little(trials, proposals, gain):
    history = [a_past(n, PROBLEM.candidates[n].config) for n in range(trials)]
    late = [replace(t, proposal=p) for t, p in zip(history[-len(proposals) :], proposals, strict=True)]
    assert expected_gain([*history[: -len(proposals)], *late]) == gain


@pytest.mark.parametrize("stop", [True, False])
def test_the_offered_stop_is_taken_on_request_only(database, stop):
    problem = a_problem(seeds=[], budget=Budget(trials=22), confirm=ConfirmPlan(top=0))
    events = []
    outcome = search(
        problem,
        database,
        FakeCluster(measured).controller(),
        poll_s=1e4,
        stop_when_converged=stop,
        on_event=events.append,
    )
    offers = [event for event in events if isinstance(event, StopOffered)]
    assert outcome.stopped_by == ("converged" if stop else "trials")
    assert (outcome.counted < 22) is stop
    assert len(offers) == (0 if stop else 1)


class Killed(BaseException):
    pass


def mixed_results(spec):
    """Every kind of outcome, decided by the configuration alone, with the trial's own noise."""
    kind = int(spec.fingerprint, 16) % 9
    if kind == 0 and spec.confirm is None:
        return failed(spec)
    if kind == 1 and spec.confirm is None:
        return infeasible(spec)
    if kind == 2 and spec.confirm is None:
        return raced_out(spec)
    result = measured(spec)
    noise = 1 + (spec.seed % 101 - 50) / 2000
    return replace(result, capacity_req_per_s=result.capacity_req_per_s * (1 if spec.confirm else noise))


def fingerprints(database):
    return [(t.fingerprint, t.usd_per_million_output_tokens) for t in read_summary(database).trials_in_order]


@pytest.mark.parametrize("n", [9, 15, 32])
def test_a_killed_search_proposes_after_resume_what_it_would_have_proposed(tmp_path, n):
    """One worker, a deterministic runtime, a kill at a numbered write."""
    problem = a_problem(budget=Budget(trials=8), confirm=ConfirmPlan(top=0))
    whole, broken = (f"sqlite:///{tmp_path}/{name}.db" for name in ("whole", "broken"))
    search(problem, whole, FakeCluster(mixed_results).controller(), poll_s=1e4)
    left = [n]

    def kill(name):
        left[0] -= name.startswith("before")
        if not left[0]:
            left[0] = -1
            raise Killed

    cluster = FakeCluster(mixed_results)
    with pytest.raises(Killed):
        search(problem, broken, cluster.controller(), poll_s=1e4, on_write=kill)
    search(problem, broken, cluster.controller(), poll_s=1e4)
    assert fingerprints(broken) == fingerprints(whole)


def test_the_reasons_are_stored_with_the_trial(database):
    problem = a_problem(budget=Budget(trials=4), confirm=ConfirmPlan(top=0))
    search(problem, database, FakeCluster(measured).controller(), poll_s=1e4)
    storage = open_storage(database)
    trials = optuna.load_study(study_name="demo", storage=storage.backend).trials
    storage.close()
    assert [t.user_attrs["origin"] for t in trials[:2]] == ["seed:engine-default", "seed:baseline"]
    assert all("proposal" not in t.user_attrs for t in trials[:2])
    assert all(t.user_attrs["proposal"]["predicted_usd_per_million"] > 0 for t in trials[2:])


@pytest.mark.parametrize(("parallel", "seeds"), [(1, range(4)), (1, range(4, 8)), (4, range(2))])
def test_over_eight_worlds_the_search_finds_nearly_the_best_with_a_good_model(tmp_path, parallel, seeds):
    """Loose bounds: tests/benchmarks/search.py prints the real figures."""
    regrets = []
    for seed in seeds:
        world = World(seed, "good")
        cluster = FakeCluster(world.run, duration_s=duration_s, slots={"lab": parallel})
        url = f"sqlite:///{tmp_path}/{seed}.db"
        search(world.problem(12, 0), url, cluster.controller(), seed=seed, poll_s=1e5)
        summary = read_summary(url)
        assert cluster.overlaps == []
        regrets.append(world.regret([summary.ranked[0].fingerprint]))
    assert statistics.median(regrets) < 0.15


@pytest.mark.parametrize("method", ["tpe", "nsga2"])
def test_alternatives_learn_from_every_outcome_behind_the_same_filter(method):
    history = [a_past(n, c.config, STATES[n % 4], 1.0 + n % 5) for n, c in enumerate(PROBLEM.candidates[::7])]
    untried = [c for c in PROBLEM.candidates if c.config.fingerprint not in {t.fingerprint for t in history}]
    chosen = {alternatives.proposed(PROBLEM, history, untried, seed, method).fingerprint for seed in range(3)}
    assert chosen <= {c.config.fingerprint for c in untried}


def test_what_reads_complete_trials_only_is_shown_failures_as_the_worst_cost():
    history = [a_past(n, c.config, STATES[n % 4], 1.0 + n) for n, c in enumerate(PROBLEM.candidates[:8])]
    space = distributions(PROBLEM.dimensions)
    view = alternatives.view_of(history, space, alternatives.ALTERNATIVES["nsga2"], 1)
    assert [t.value for t in view.trials] == [1.0, 2.0, 6.0, 6.0, 5.0, 6.0, 6.0, 6.0]
    assert [max(t.constraints.values()) > 0 for t in view.trials] == [False, False, False, True] * 2


def test_optunas_gaussian_process_without_torch_says_what_to_do():
    try:
        import torch  # noqa: F401
    except ImportError:
        with pytest.raises(UsageError, match="torch"):
            alternatives.check_installed("gp")
    alternatives.check_installed("tpe")
