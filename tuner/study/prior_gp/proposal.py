"""Which candidate is tried next and why: a few starting points, then the largest expected constrained improvement.

Pure function of problem, history, number and seed; keeps nothing. Never proposes what was tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tuner.study.history import PastTrial
from tuner.study.prior_gp.acquisition import blend, log_expected_improvement
from tuner.study.prior_gp.beliefs import Costing, believing, cost_beliefs, log_feasible, mix
from tuner.study.prior_gp.observations import Observations, observe
from tuner.study.prior_gp.table import CandidateTable, table_of
from tuner.study.problem import Candidate, Problem

Codes = NDArray[np.intp]
Floats = NDArray[np.float64]

START = ("model", "model", "random", "model", "random")
"""Where a study begins: the model's best of distinct strata, and points that ignore it, so that it can be found out.
Seeds inside the grid count as points that ignore it."""

_LIKELY = math.log(0.5)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate, where it comes from (`model`, `random`, `sampler`), and what was believed of it."""

    candidate: Candidate
    origin: str
    reasons: Mapping[str, float] = field(default_factory=dict)


def propose(
    problem: Problem, history: Sequence[PastTrial], *, number: int, seed: int, pool: str | None = None
) -> Proposal | None:
    """The next candidate, of one pool if it is named; None when all are tried."""
    table = table_of(problem)
    seen = observe(history, table.index)
    free = np.ones(len(table), dtype=bool)
    free[list(seen.tried)] = False
    if pool is not None:
        free &= table.pools == pool
    rows = np.flatnonzero(free)
    if not len(rows):
        return None
    lost = sum(trial.state == "abandoned" for trial in history)
    rng = np.random.default_rng([seed, number - lost])
    view = _look(table, seen, rows)
    origin = next_start(history)
    if origin == "model":
        at = _models_best(view, seen)
        if at is not None:
            return _explain(view, at, origin)
    if origin == "random":
        return _explain(view, _random(view, rng), origin)
    return _explain(view, int(np.argmax(view.score)), "sampler")


def next_start(history: Sequence[PastTrial]) -> str | None:
    """The kind of the next starting point, or None when the start is over."""
    left = list(START)
    for trial in history:
        if trial.state == "abandoned" or trial.config_json.get("only"):
            continue
        kind = "model" if trial.origin == "model" else "random"
        if kind in left:
            left.remove(kind)
        elif left:
            left.pop()
    return left[0] if left else None


@dataclass(frozen=True, slots=True)
class _View:
    """Everything believed of the free candidates; arrays run over `rows`."""

    table: CandidateTable
    rows: Codes
    costing: Costing
    mean: Floats
    sd: Floats
    log_feasible: Floats
    log_gain: Floats
    score: Floats


def _look(table: CandidateTable, seen: Observations, rows: Codes) -> _View:
    costing = cost_beliefs(table, seen.costs)
    believed = believing(costing, seen.running)
    (a, va), (b, vb) = believed.each(rows)
    mean, sd = mix(a, va, b, vb, costing.weight)
    feasible = log_feasible(table, seen, rows)
    best = _incumbent(costing, seen, mean, feasible)
    gain = blend(log_expected_improvement(a, va, best), log_expected_improvement(b, vb, best), costing.weight)
    return _View(table, rows, costing, mean, sd, feasible, gain, gain + feasible)


def _incumbent(costing: Costing, seen: Observations, mean: Floats, feasible: Floats) -> float:
    """The lowest posterior mean among what was measured; before that, the lowest expectation of what is likely."""
    measured = np.unique(seen.costs.which[~seen.costs.bound])
    if len(measured):
        return min(float(costing.mixed(measured)[0].min()), seen.outside)
    likely = mean[feasible > _LIKELY]
    return min(float(likely.min() if len(likely) else mean.min()), seen.outside)


def _models_best(view: _View, seen: Observations) -> int | None:
    """The cheapest predicted likely candidate of a stratum where nothing was tried yet."""
    table, rows = view.table, view.rows
    untouched = ~np.isin(table.strata[rows], table.strata[list(seen.tried)])
    if not untouched.any():
        return None
    worth = np.where(untouched, view.log_feasible - table.prior[rows], -np.inf)
    return int(np.argmax(worth))


def _random(view: _View, rng: np.random.Generator) -> int:
    """Any candidate that probably works."""
    likely = np.flatnonzero(view.log_feasible > _LIKELY)
    pool = likely if len(likely) else np.arange(len(view.rows))
    return int(pool[int(rng.integers(len(pool)))])


def _explain(view: _View, at: int, origin: str) -> Proposal:
    reasons = {
        "predicted_usd_per_million": math.exp(view.mean[at]),
        "predicted_sd": view.sd[at],
        "probability_feasible": math.exp(view.log_feasible[at]),
        "expected_improvement": math.exp(min(0.0, view.log_gain[at] + view.log_feasible[at])),
        "prior_weight": view.costing.weight,
        "prior_slope": view.costing.informed.slope,
        "noise_sd": view.costing.informed.noise_sd,
    }
    rounded = {key: float(f"{value:.4g}") for key, value in reasons.items()}
    return Proposal(view.table.candidates[int(view.rows[at])], origin, rounded)
