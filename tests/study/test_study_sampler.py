"""What is tried next: seeds, the model's best, then a sampler that never proposes an invalid or a tried point."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.problems import ENGINE_DEFAULT, a_config, a_problem, candidates, dimensions

from tuner.study.alternatives import nearest
from tuner.study.history import PastTrial
from tuner.study.params import distributions, snap
from tuner.study.problem import coordinates
from tuner.study.sampler import MODEL_PICKS, choose, strata, trial_seed

PROBLEM = a_problem(seeds=[])
VALID = {c.config.fingerprint: c for c in PROBLEM.candidates}


def a_past(number, config, state="measured", cost=2.0, dims=PROBLEM.dimensions):
    counted = state in ("measured", "pruned", "infeasible")
    bad = {"ttft_p95_s": 0.4 if state == "infeasible" else -0.1, "failure": 0.0}
    params = coordinates(config, dims) or {}
    return PastTrial(
        number=number,
        state=state,
        counted=counted,
        fingerprint=config.fingerprint,
        origin="sampler",
        config_json=config.as_json(),
        params={name: params[name] for name in distributions(dims) if name in params},
        constraints=bad if counted else {},
        usd_per_million=cost if state == "measured" else None,
        bound_usd_per_million=cost if state == "pruned" else None,
    )


def pick(problem, history, method="tpe", number=None, pool="mi355x", seed=3):
    return choose(
        problem, history, number=len(history) if number is None else number, seed=seed, pool=pool, method=method
    )


def after_the_model(states=("measured",) * 5):
    """A history in which every stratum's best has been tried."""
    best = [c.config for c in strata(PROBLEM.candidates)]
    more = [a_config(running=n) for n in (32, 64)]
    return [a_past(i, c, states[i % len(states)], 2.0 + i) for i, c in enumerate([*best, *more])]


def test_seeds_come_first_in_their_order():
    problem = a_problem()
    assert pick(problem, []).origin == "seed:engine-default"
    history = [a_past(0, ENGINE_DEFAULT)]
    assert pick(problem, history).origin == "seed:baseline"
    assert pick(problem, [*history, a_past(1, a_config())]).origin == "model"


def test_a_seed_that_never_started_is_still_due():
    problem = a_problem()
    assert pick(problem, [a_past(0, ENGINE_DEFAULT, "abandoned")]).origin == "seed:engine-default"


def test_the_models_best_are_of_distinct_strata_and_at_most_five():
    history = []
    while (chosen := pick(PROBLEM, history)).origin == "model":
        history.append(a_past(len(history), chosen.config))
    tried = [trial.config for trial in history]
    assert len(tried) == min(MODEL_PICKS, len(strata(PROBLEM.candidates))) == 4
    assert len({(c.layout, c.get("weights")) for c in tried}) == len(tried)
    costs = [VALID[c.fingerprint].predicted_usd_per_million for c in tried]
    assert costs == sorted(costs)
    assert all(VALID[c.fingerprint].margin_gib >= 0 for c in tried)


def test_a_space_without_weights_is_stratified_by_its_bundles():
    bare = [replace(c, config=replace(c.config, values=c.config.values[:3])) for c in candidates()[:24]]
    assert len(strata(bare)) == 2  # off, mtp


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_the_same_history_chooses_the_same(method):
    history = after_the_model()
    assert pick(PROBLEM, history, method) == pick(PROBLEM, history, method)


def test_another_seed_or_number_chooses_otherwise():
    history = after_the_model()
    chosen = {pick(PROBLEM, history, "random", number=n, seed=s).config for n in (10, 11) for s in (1, 2, 3)}
    assert len(chosen) > 1
    assert trial_seed(1, 2) != trial_seed(1, 3) != trial_seed(1, 3, phase=1)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_sampler_ever_proposes_an_invalid_or_a_tried_point(data):
    method = data.draw(st.sampled_from(["tpe", "random"]))
    size = data.draw(st.integers(0, len(PROBLEM.candidates)))
    order = data.draw(st.permutations(range(len(PROBLEM.candidates))))
    states = data.draw(
        st.lists(st.sampled_from(["measured", "pruned", "infeasible", "failed", "invalid", "running"]), min_size=1)
    )
    tried = [PROBLEM.candidates[i].config for i in order[:size]]
    history = [a_past(i, c, states[i % len(states)], 1.0 + i % 7) for i, c in enumerate(tried)]
    chosen = pick(PROBLEM, history, method)
    if size == len(PROBLEM.candidates):
        assert chosen is None
    else:
        assert chosen.config.fingerprint in VALID
        assert chosen.config not in tried


def test_tpe_exploits_what_was_measured():
    """Of many measured points those with mxfp4 are cheap: most proposals have it."""
    history = [
        a_past(i, c.config, cost=1.0 if "mxfp4" in c.config.describe() else 5.0)
        for i, c in enumerate(PROBLEM.candidates[::3])
    ]
    chosen = [pick(PROBLEM, history, number=100 + n).config for n in range(12)]
    assert sum("mxfp4" in config.describe() for config in chosen) >= 9


def test_points_outside_the_grid_do_not_disturb_tpe():
    history = after_the_model()
    outside = [*history, a_past(len(history), ENGINE_DEFAULT)]
    assert pick(PROBLEM, outside, number=50) == pick(PROBLEM, history, number=50)


def test_each_pool_gets_its_own_points():
    problem = a_problem(seeds=[], pools=("mi355x", "b200"))
    history = []
    for number in range(14):
        pool = ("mi355x", "b200")[number % 2]
        chosen = pick(problem, history, pool=pool)
        assert chosen.config.pool == pool
        history.append(a_past(number, chosen.config, cost=2 + number % 3, dims=problem.dimensions))
    assert len({trial.fingerprint for trial in history}) == 14


def test_nearest_prefers_the_predicted_feasible_then_few_differences():
    fits, doubtful = candidates()[0], candidates()[2]
    assert (fits.margin_gib > 0) > (doubtful.margin_gib > 0)
    points = [("a", 1), ("a", 2)]
    assert nearest([fits, doubtful], points, [("a", 2)]) is fits
    assert nearest([fits, replace(doubtful, margin_gib=1.0)], points, [("a", 2)]).margin_gib == 1.0


def test_parameters_are_stored_as_readable_values():
    point = coordinates(a_config(), dimensions())
    assert point == {
        "pool": "mi355x",
        "layout": "tp8",
        "weights": "fp8",
        "speculation": "off",
        "max-running-requests": 128,
        "mem-fraction-static": 0.84,
    }
    assert "pool" not in distributions(dimensions())
    assert coordinates(ENGINE_DEFAULT, dimensions()) is None
    assert coordinates(a_config(running=100), dimensions()) is None


@pytest.mark.parametrize(
    ("value", "values", "snapped"),
    [
        (90, (32, 64, 128, 256), 64),
        (91, (32, 64, 128, 256), 128),
        (0.83, (0.8, 0.84, 0.88), 0.84),
        (0, (-1, 5), -1),
        ("tp8", ("tp8",), "tp8"),
        (True, (True, False), True),
    ],
)
def test_a_proposal_snaps_to_the_nearest_value_of_its_dimension(value, values, snapped):
    assert snap(value, values) == snapped


def test_kinds_of_dimensions():
    kinds = distributions(
        {"a": (1, 2, 16), "b": (0.1, 0.2), "c": ("x", "y"), "d": (True, False), "e": (0, 9), "f": (1,)}
    )
    assert {name: type(kind).__name__[:3] for name, kind in kinds.items()} == {
        "a": "Int",
        "b": "Flo",
        "c": "Cat",
        "d": "Cat",
        "e": "Int",
    }
    assert kinds["a"].log
    assert not kinds["e"].log
