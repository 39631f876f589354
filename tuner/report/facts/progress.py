"""How the best cost came down, beside what random sampling of the same space would be expected to reach.

The baseline is computed, not run: the costs the engine model predicts for all valid points (quantiles kept by the
study), scaled by this study's own median of measured over predicted, drawn without regard to failures. It therefore
flatters random sampling a little. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tuner.report.facts.prediction import predicted_cost
from tuner.study.summary import Figures, StudySummary


@dataclass(frozen=True, slots=True)
class Step:
    """After one more counted trial: its own cost or None, and the cheapest so far or None."""

    number: int
    trial: int
    state: str
    cost: float | None
    best: float | None


@dataclass(frozen=True, slots=True)
class Expected:
    """Cheapest of `draws` random points: the mean, and where 8 of 10 such samples end."""

    draws: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Progress:
    """The course, and the baseline.

    `matched_by` is how many random draws reach this study's best on average; None when even `cheapest`, the cheapest
    of all points by the same reckoning, does not.
    """

    steps: tuple[Step, ...]
    random: tuple[Expected, ...]
    scale: float | None
    matched_by: int | None
    cheapest: float | None = None


LOOKED_AT = 10_000
"""Random draws considered when asking how many match the best."""


def progress(summary: StudySummary) -> Progress:
    """The course of a study."""
    steps = _steps(summary)
    quantiles = (summary.plan.get("space") or {}).get("predicted_usd_per_million") or []
    scale = _scale(summary)
    if not quantiles or scale is None:
        return Progress(steps, (), scale, None)
    costs = [math.inf if q is None else scale * float(q) for q in quantiles]
    best = next((step.best for step in reversed(steps) if step.best), None)
    random = tuple(e for e in (expected_best(costs, n) for n in range(1, len(steps) + 1)) if e is not None)
    return Progress(steps, random, scale, _matched(costs, best) if best else None, costs[0])


def expected_best(costs: Sequence[float], draws: int) -> Expected | None:
    """The cheapest of some independent draws from equally likely sorted costs; None while it may be nothing at all."""
    n = len(costs)
    # P(the cheapest is costs[i] or dearer) = (share from i on) ** draws
    beyond = [((n - i) / n) ** draws for i in range(n + 1)]
    finite = [c for c in costs if math.isfinite(c)]
    if not finite:
        return None
    dearest = finite[-1]
    mean = sum((beyond[i] - beyond[i + 1]) * min(costs[i], dearest) for i in range(n))
    return Expected(draws, mean, *(min(dearest, _quantile(costs, beyond, q)) for q in (0.1, 0.9)))


def _quantile(costs: Sequence[float], beyond: Sequence[float], q: float) -> float:
    return next((costs[i] for i in range(len(costs)) if 1 - beyond[i + 1] >= q), costs[-1])


def _matched(costs: Sequence[float], best: float) -> int | None:
    low, high = 1, LOOKED_AT
    if (last := expected_best(costs, high)) is None or last.mean > best:
        return None
    while low < high:
        middle = (low + high) // 2
        reached = expected_best(costs, middle)
        low, high = (low, middle) if reached is not None and reached.mean <= best else (middle + 1, high)
    return low


def _steps(summary: StudySummary) -> tuple[Step, ...]:
    steps: list[Step] = []
    best: float | None = None
    for f in summary.trials_in_order:
        if f.state not in ("measured", "pruned", "infeasible") and not _counts(f):
            continue
        cost = f.usd_per_million_output_tokens
        best = cost if best is None or (cost is not None and cost < best) else best
        steps.append(Step(len(steps) + 1, f.trial, f.state, cost, best))
    return tuple(steps)


def _counts(figures: Figures) -> bool:
    """A failure of the configuration tells something; a lost trial does not."""
    failure = figures.result.get("failure") or {}
    return figures.state == "failed" and failure.get("class") == "configuration"


def _scale(summary: StudySummary) -> float | None:
    ratios = [
        f.usd_per_million_output_tokens / predicted
        for f in summary.ranked
        if f.usd_per_million_output_tokens and (predicted := predicted_cost(f, summary))
    ]
    return median(ratios) if ratios else None
