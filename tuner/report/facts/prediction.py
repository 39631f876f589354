"""Predicted against measured: the engine model beforehand, and what the sampler believed just before each trial. Pure.

Nothing here is a result; it says how far predictions could be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Any

from tuner.space.workload import Workload
from tuner.study.problem import TokenWeights
from tuner.study.score import bound_cost
from tuner.study.summary import Figures, StudySummary

_Z90 = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, slots=True)
class Pair:
    """One measured trial: USD per million tokens as measured, by the engine model, and as the sampler believed."""

    trial: int
    label: str
    measured: float
    model: float | None
    believed: float | None
    believed_sd: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How measured and predicted go together.

    `ratio` is the median of measured over predicted, `off_by` the median distance from it as a factor - 1, `rank`
    Spearman's correlation (None for fewer than three).
    """

    count: int
    ratio: float
    off_by: float
    rank: float | None


@dataclass(frozen=True, slots=True)
class Predictions:
    """`within` is the share of measured costs inside the sampler's own 90% interval."""

    pairs: tuple[Pair, ...]
    model: Agreement | None
    believed: Agreement | None
    within: float | None


def predictions(summary: StudySummary) -> Predictions:
    """Every measured trial beside what was expected of it."""
    pairs = tuple(
        Pair(
            f.trial,
            f.label,
            f.usd_per_million_output_tokens,
            predicted_cost(f, summary),
            f.proposal.get("predicted_usd_per_million"),
            f.proposal.get("predicted_sd"),
        )
        for f in summary.trials_in_order
        if f.usd_per_million_output_tokens
    )
    inside = [
        abs(math.log(p.measured / p.believed)) <= _Z90 * math.hypot(p.believed_sd, _noise(summary, p.trial))
        for p in pairs
        if p.believed and p.believed_sd
    ]
    return Predictions(
        pairs,
        _agreement([(p.model, p.measured) for p in pairs if p.model]),
        _agreement([(p.believed, p.measured) for p in pairs if p.believed]),
        sum(inside) / len(inside) if inside else None,
    )


def _noise(summary: StudySummary, trial: int) -> float:
    """The repeatability the sampler reckoned with: its interval is of the true cost, not of one measurement."""
    return next((float(f.proposal.get("noise_sd") or 0.0) for f in summary.trials_in_order if f.trial == trial), 0.0)


def predicted_cost(figures: Figures, summary: StudySummary) -> float | None:
    """The engine model's prediction, priced as the trial was; None where it was not kept."""
    rate = (figures.spec.get("context") or {}).get("predicted_req_per_s")
    if not rate or not figures.spec.get("workload"):
        return None
    cost = bound_cost(
        float(rate),
        figures.usd_per_hour_now,
        float(summary.plan.get("guard") or 0.0),
        TokenWeights(**(summary.plan.get("token_weights") or {})),
        Workload.from_json(figures.spec["workload"]),
    )
    return cost if math.isfinite(cost) else None


def _agreement(pairs: Sequence[tuple[float, float]]) -> Agreement | None:
    if not pairs:
        return None
    logs = [math.log(measured / predicted) for predicted, measured in pairs]
    middle = median(logs)
    off_by = math.exp(median(abs(x - middle) for x in logs)) - 1
    return Agreement(len(pairs), math.exp(middle), off_by, _spearman(pairs))


def _spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    from scipy.stats import spearmanr  # noqa: PLC0415 - a third of a second

    if len(pairs) < 3 or len({p for p, _ in pairs}) < 2 or len({m for _, m in pairs}) < 2:
        return None
    found: Any = spearmanr([p for p, _ in pairs], [m for _, m in pairs])
    return float(found.statistic)
