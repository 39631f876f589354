"""When the baseline is measured again, and what its measurements say of nodes."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from support.fake_runtime import FakeCluster
from support.problems import a_problem, config_of, measured, true_capacity

from tuner.report.table import print_summary
from tuner.space.config import Layout, ServingConfig
from tuner.study.events import BaselineDeviates
from tuner.study.history import PastTrial
from tuner.study.recheck import Deviation, Recheck, deviations, due
from tuner.study.search import search
from tuner.study.summary import read_summary

BASE = ServingConfig("lab", Layout(8), (("max-running", 64),))
SEEDS = [("engine-default", ServingConfig("lab", Layout(4), ())), ("baseline", BASE)]


def _trial(number, *, node="", state="measured", base=False, origin="sampler", cost=1.0, pool="lab"):
    return PastTrial(
        number,
        state,
        state in ("measured", "pruned"),
        BASE.fingerprint if base else f"other{number}",
        origin,
        {"pool": pool},
        {},
        {},
        result={"node": node},
        usd_per_million=cost if state == "measured" else None,
    )


def _history(*trials):
    return [_trial(number, **trial) for number, trial in enumerate(trials)]


OTHER, FIRST = {}, {"base": True, "origin": "seed:baseline"}


@pytest.mark.parametrize(
    ("history", "every", "wanted"),
    [
        pytest.param([FIRST, OTHER, OTHER, OTHER], 3, Recheck(BASE), id="after so many trials"),
        pytest.param([FIRST, OTHER, OTHER], 3, None, id="not before"),
        pytest.param([FIRST, OTHER, OTHER, OTHER], None, None, id="never unless asked"),
        pytest.param([OTHER] * 5, 3, None, id="not before it was measured at all"),
        pytest.param([{**FIRST, "state": "pruned"}, *[OTHER] * 5], 3, None, id="not when it misses the limits"),
        pytest.param([FIRST, *[OTHER] * 3, {**FIRST, "state": "running"}], 3, None, id="not twice at once"),
        pytest.param(
            [FIRST, *[OTHER] * 3, {**FIRST, "origin": "recheck"}, OTHER], 3, None, id="counted from the last one"
        ),
        pytest.param([FIRST, *[{"state": "failed"}] * 5], 3, None, id="lost trials do not count"),
        pytest.param([FIRST, *[{"pool": "elsewhere"}] * 5], 3, None, id="nor those of another pool"),
        pytest.param(
            [{**FIRST, "node": "a"}, {"node": "b"}, {"node": "a"}], 9, Recheck(BASE, "b"), id="once on every new node"
        ),
        pytest.param(
            [{**FIRST, "node": "a"}, {"node": "b"}, {**FIRST, "node": "b"}], 9, None, id="and only once on each"
        ),
        pytest.param([FIRST, {"node": "b"}], 9, None, id="a single known node is no other node"),
    ],
)
def test_the_baseline_is_due(history, every, wanted):
    assert due(SEEDS, _history(*history), "lab", every) == wanted


def test_a_node_that_could_not_be_had_is_asked_for_once():
    """The scheduler put the baseline elsewhere: to ask again and again would spend the budget on it."""
    history = _history({**FIRST, "node": "a"}, {"node": "b"}, {**FIRST, "node": "a", "origin": "recheck"})
    asked = replace(history[-1], spec={"context": {"node": "b"}})
    assert due(SEEDS, history, "lab", 9) == Recheck(BASE, "b")
    assert due(SEEDS, [*history[:-1], asked], "lab", 9) is None


def test_without_a_baseline_nothing_is_due():
    assert due(SEEDS[:1], _history(FIRST, *[OTHER] * 9), "lab", 3) is None


def _base(node, cost):
    return {"base": True, "origin": "recheck", "node": node, "cost": cost}


@pytest.mark.parametrize(
    ("history", "wanted"),
    [
        pytest.param([_base("a", 1.0), _base("b", 1.1)], [], id="within the noise"),
        pytest.param([_base("a", 1.0), _base("b", 1.3)], [("b", 1.3)], id="of two nodes the dearer"),
        pytest.param([_base("a", 1.3), _base("b", 1.0)], [("a", 1.3)], id="whichever was first"),
        pytest.param(
            [_base("a", 1.0), _base("b", 1.02), _base("c", 0.7)], [("c", 0.69)], id="of three the odd one, also cheaper"
        ),
        pytest.param([_base("a", 1.0), _base("a", 1.01), _base("a", 1.4)], [("", 1.4)], id="a node that has changed"),
        pytest.param([_base("", 1.0), _base("", 1.4)], [("", 1.4)], id="a pool whose nodes are not known"),
        pytest.param([{"base": True, "cost": 1.0}, OTHER, OTHER], [], id="measured once"),
    ],
)
def test_what_is_off_by_more_than_the_noise_is_named(history, wanted):
    found = deviations(_history(*history))
    assert [(d.node, pytest.approx(d.ratio, rel=0.02)) for d in found] == wanted


def test_a_deviation_says_who_by_how_much_and_what_to_do():
    assert str(Deviation("lab", "n7", 1.14, 2)).startswith(
        "node n7 now measures the baseline 14% dearer than the other"
    )
    assert "pool lab now measures the baseline 20% cheaper than at the first" in str(Deviation("lab", "", 0.8, 2))


def test_a_search_measures_its_baseline_again_and_tells_a_pool_that_became_slow(database):
    """From the eighth trial on everything is a third slower."""
    started, events = [], []

    def slows_down(spec):
        started.append(spec.fingerprint)
        return measured(spec, true_capacity(config_of(spec)) * (0.75 if len(started) > 8 else 1.0))

    problem = a_problem()
    baseline = problem.candidates[-1].config
    problem = replace(
        problem,
        seeds=[("baseline", baseline)],
        budget=replace(problem.budget, trials=12, recheck_every=4),
        confirm=replace(problem.confirm, top=0),
    )
    search(problem, database, FakeCluster(slows_down).controller(), on_event=events.append, poll_s=1e4)
    assert started.count(baseline.fingerprint) == 3
    assert any(isinstance(event, BaselineDeviates) and event.ratio > 1.2 for event in events)
    summary = read_summary(database, problem.name)
    assert [figures.fingerprint for figures in summary.ranked].count(baseline.fingerprint) == 1
    shown = io.StringIO()
    print_summary(summary, shown)
    assert "measures the baseline 33% dearer than at the first measurement" in " ".join(shown.getvalue().split())
