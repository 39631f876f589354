"""What the best configuration so far really costs: its posterior mean, not its lucky measurement.

The cheapest of many noisy measurements is cheap partly by luck. Racing against that luck would drop configurations that
are as good, and confirming by it would confirm the luckiest first. Pure; knows no runtime.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuner.study.history import PastTrial, measured_by_cost
from tuner.study.prior_gp.beliefs import measured_posterior
from tuner.study.prior_gp.table import table_of
from tuner.study.problem import Problem

MARGIN_SD = 1.0
"""A configuration is raced against the incumbent's mean plus so many standard deviations of what is known of it."""
MAX_MARGIN = 0.05


def cost_to_beat(problem: Problem, history: Sequence[PastTrial]) -> float | None:
    """USD per million that a configuration must undercut to be worth measuring to the end; None before any is known."""
    posterior = measured_posterior(table_of(problem), history)
    costs = []
    for trial in measured_by_cost(history):
        if trial.usd_per_million:
            mean, sd = posterior.get(trial.fingerprint, (trial.usd_per_million, 0.0))
            costs.append((mean, sd))
    if not costs:
        return None
    mean, sd = min(costs)
    return mean * math.exp(min(MARGIN_SD * sd, MAX_MARGIN))


def by_posterior(problem: Problem, history: Sequence[PastTrial]) -> list[PastTrial]:
    """Measured trials, lowest posterior mean first; a point outside the grid by its measurement."""
    posterior = measured_posterior(table_of(problem), history)

    def expected(trial: PastTrial) -> float:
        return posterior.get(trial.fingerprint, (trial.usd_per_million or math.inf, 0.0))[0]

    return sorted(measured_by_cost(history), key=lambda trial: (expected(trial), trial.number))
