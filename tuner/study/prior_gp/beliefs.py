"""What a history makes believe of every candidate: two processes on cost, the weight between them, feasibility.

One process starts from the engine model, the other knows nothing of it. Whichever predicts the measurements better,
each left out in turn, has the say: a misleading model is found out and dropped. Pure; knows no proposals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tuner.study.history import PastTrial
from tuner.study.prior_gp import feasibility, process
from tuner.study.prior_gp.observations import Costs, Observations, observe, without_collapsed
from tuner.study.prior_gp.table import CandidateTable
from tuner.study.prior_gp.threads import one_blas_thread

Codes = NDArray[np.intp]
Floats = NDArray[np.float64]

PRIOR_LOG_ODDS = 1.0
"""The engine model is trusted at first: e to 1, as after a single clearly better prediction."""


@dataclass(frozen=True, slots=True)
class Costing:
    """Both processes, and how much the one with the engine model is believed."""

    table: CandidateTable
    informed: process.Process
    blind: process.Process
    weight: float

    def each(self, which: Codes) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        """Mean and variance of log cost by either process."""
        t = self.table
        informed = process.predict(self.informed, t.kernel, t.codes, t.prior, which)
        return informed, process.predict(self.blind, t.kernel, t.codes, t.prior, which)

    def mixed(self, which: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation of log cost, both processes together."""
        (a, va), (b, vb) = self.each(which)
        return mix(a, va, b, vb, self.weight)


def mix(a: Floats, va: Floats, b: Floats, vb: Floats, weight: float) -> tuple[Floats, Floats]:
    """Mean and standard deviation of a mixture of two normals."""
    mean = weight * a + (1 - weight) * b
    variance = weight * (va + (a - mean) ** 2) + (1 - weight) * (vb + (b - mean) ** 2)
    return mean, np.sqrt(variance)


_last: list[tuple[CandidateTable, Costs, Costing]] = []


def cost_beliefs(table: CandidateTable, costs: Costs) -> Costing:
    """Both processes, fitted and weighed. Asked again before anything new was measured, the same answer again."""
    if not _last or _last[0][0] is not table or not _same(_last[0][1], costs):
        _last[:] = [(table, costs, _fitted(table, costs))]
    return _last[0][2]


def _same(some: Costs, others: Costs) -> bool:
    return all(np.array_equal(getattr(some, name), getattr(others, name)) for name in ("which", "log_cost", "bound"))


def _fitted(table: CandidateTable, costs: Costs) -> Costing:
    fits = [
        process.fit(table.kernel, table.codes, table.prior, table.center, costs, assumed)
        for assumed in (process.WITH_PRIOR, process.WITHOUT_PRIOR)
    ]
    weight = float(expit(fits[0].evidence - fits[1].evidence + PRIOR_LOG_ODDS))
    return Costing(table, fits[0], fits[1], weight)


def believing(costing: Costing, running: Codes) -> Costing:
    """The same once running trials came out as expected."""
    t = costing.table
    informed, blind = (
        process.believe(p, t.kernel, t.codes, t.prior, running) for p in (costing.informed, costing.blind)
    )
    return Costing(t, informed, blind, costing.weight)


def log_feasible(table: CandidateTable, seen: Observations, which: Codes) -> Floats:
    """Log probability that a candidate starts and serves."""
    heads = [
        feasibility.fit(table.kernel, table.codes, table.fits, seen.starts),
        feasibility.fit(table.kernel, table.codes, table.serves, seen.serves),
    ]
    both: Floats = sum(
        (feasibility.log_probability(head, table.kernel, table.codes, which) for head in heads),
        np.zeros(len(which)),
    )
    return both


@one_blas_thread()
def measured_posterior(table: CandidateTable, history: Sequence[PastTrial]) -> dict[str, tuple[float, float]]:
    """Fingerprint -> (USD per million, standard deviation of its logarithm) of every measured candidate.

    A lucky measurement is drawn towards what its like have shown.
    """
    seen = without_collapsed(observe(history, table.index), table.prior)
    measured = np.unique(seen.costs.which[~seen.costs.bound])
    if not len(measured):
        return {}
    mean, sd = cost_beliefs(table, seen.costs).mixed(measured)
    names = [table.candidates[i].config.fingerprint for i in measured]
    return {name: (math.exp(m), float(s)) for name, m, s in zip(names, mean, sd, strict=True)}
