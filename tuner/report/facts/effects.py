"""What each parameter changed: an additive model of log cost, fitted to what the study itself ran.

    log cost = offset + sum over parameters of effect(level) + rest

Every level's effect is drawn towards 0 with a size learned from the data (ridge regression, empirical Bayes). A trial
that was dropped early enters a little above its bound, with an error of its own. Parameters that always changed
together share their effect and show wide intervals; what depends on two parameters at once stays in the rest. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tuner.report.facts.certainty import repeatability
from tuner.space.config import Choice, ServingConfig
from tuner.study.prior_gp.observations import BOUND_GAP, BOUND_SD
from tuner.study.summary import Figures, StudySummary

FEWEST = 4
"""With fewer costs than this nothing is said of parameters."""
_OFFSET_SD = 10.0
_EFFECT_SDS = (0.03, 0.06, 0.12, 0.25, 0.5)
_REST_FACTORS = (1.0, 1.5, 2.0, 4.0, 8.0)
"""What is left unexplained is never less than what a repeated measurement differs by."""
_Z = NormalDist().inv_cdf(0.95)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Level:
    """One value of a parameter: cost as a factor of the reference level's, with its 90% interval, and its trials."""

    value: str
    factor: float
    low: float
    high: float
    measured: int
    dropped: int
    failed: int
    reference: bool


@dataclass(frozen=True, slots=True)
class Effect:
    """A parameter's levels; the reference is the winner's own level."""

    parameter: str
    levels: tuple[Level, ...]

    @property
    def spread(self) -> float:
        """Dearest level over cheapest, by the means."""
        factors = [level.factor for level in self.levels]
        return max(factors) / min(factors)

    @property
    def told_apart(self) -> bool:
        """Whether any level surely differs from the reference."""
        return any(not level.reference and (level.low > 1 or level.high < 1) for level in self.levels)


@dataclass(frozen=True, slots=True)
class Effects:
    """`rest_sd` is what the additive model leaves unexplained, in log cost; `costs` and `bounds` what it saw."""

    effects: tuple[Effect, ...]
    rest_sd: float
    costs: int
    bounds: int


@dataclass(frozen=True, slots=True)
class _Fit:
    mean: Floats
    covariance: Floats
    rest_sd: float


def effects(summary: StudySummary) -> Effects | None:
    """The effect of every parameter that was varied, largest first; None with too few costs."""
    tried = [f for f in summary.trials_in_order if f.config and not ServingConfig.from_json(f.config).only]
    seen = [(f, cost) for f in tried if (cost := _log_cost(f)) is not None]
    costs = sum(f.state == "measured" for f, _ in seen)
    if costs < FEWEST or summary.best is None:
        return None
    values = {id(f): _values(f) for f in tried}
    reference = values.get(id(summary.best)) or _values(summary.best)
    columns = _columns([values[id(f)] for f, _ in seen])
    if not columns:
        return None
    fit = _fitted(_matrix(columns, [values[id(f)] for f, _ in seen]), seen, repeatability(summary)[0])
    found = []
    for parameter in dict.fromkeys(name for name, _ in columns):
        levels = [value for name, value in columns if name == parameter]
        counts = {value: _counts(tried, values, parameter, value) for value in levels}
        base = reference.get(parameter, "")
        base = base if base in levels else max(levels, key=lambda v: counts[v][0])
        found.append(_effect(parameter, levels, base, columns, fit, counts))
    found.sort(key=lambda effect: -effect.spread)
    return Effects(tuple(found), fit.rest_sd, costs, len(seen) - costs)


def _log_cost(figures: Figures) -> tuple[float, float] | None:
    """Mean and extra standard deviation of what a trial says of its log cost."""
    cost, bound = figures.usd_per_million_output_tokens, figures.bound_usd_per_million_output_tokens
    if figures.state == "measured" and cost and math.isfinite(cost):
        return math.log(cost), 0.0
    if figures.state == "pruned" and bound and math.isfinite(bound):
        return math.log(bound) + BOUND_GAP, BOUND_SD
    return None


def _values(figures: Figures) -> dict[str, str]:
    config = ServingConfig.from_json(figures.config)
    plain = {k: v.label if isinstance(v, Choice) else str(v) for k, v in config.values}
    return {"pool": config.pool, "layout": config.layout.label, **plain}


def _columns(rows: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """(parameter, value) of every parameter with more than one value, values in their natural order."""
    found = []
    for name in dict.fromkeys(key for row in rows for key in row):
        values = sorted({row[name] for row in rows if name in row}, key=_natural)
        if len(values) > 1:
            found += [(name, value) for value in values]
    return found


def _natural(value: str) -> tuple[int, float, str]:
    try:
        return 0, float(value), ""
    except ValueError:
        return 1, 0.0, value


def _matrix(columns: Sequence[tuple[str, str]], rows: Sequence[Mapping[str, str]]) -> Floats:
    return np.array([[1.0, *(float(row.get(name) == value) for name, value in columns)] for row in rows])


def _fitted(design: Floats, seen: Sequence[tuple[Figures, tuple[float, float]]], repeat_sd: float) -> _Fit:
    """The sizes under which the data are likeliest, and the effects they imply."""
    y = np.array([mean for _, (mean, _) in seen])
    extra = np.array([sd**2 for _, (_, sd) in seen])
    shift = float(y.mean())
    sizes = product(_EFFECT_SDS, [repeat_sd * factor for factor in _REST_FACTORS])
    best = max(sizes, key=lambda size: _solved(design, y - shift, extra, *size)[0])
    _, mean, covariance = _solved(design, y - shift, extra, *best)
    return _Fit(mean, covariance, best[1])


def _solved(design: Floats, y: Floats, extra: Floats, effect_sd: float, rest_sd: float) -> tuple[float, Floats, Floats]:
    """Log evidence, mean and covariance of the effects, in the space of the effects: a thousand trials cost nothing."""
    prior = np.full(design.shape[1], effect_sd**2)
    prior[0] = _OFFSET_SD**2
    noise = rest_sd**2 + extra
    weighted = design / noise[:, None]
    precision = design.T @ weighted + np.diag(1 / prior)
    factor = np.linalg.cholesky(precision)
    mean: Floats = np.asarray(np.linalg.solve(precision, weighted.T @ y), dtype=np.float64)
    misfit = float((y * y / noise).sum() - y @ weighted @ mean)
    volume = 2 * np.log(np.diag(factor)).sum() + np.log(prior).sum() + np.log(noise).sum()
    return -0.5 * (misfit + float(volume)), mean, np.asarray(np.linalg.inv(precision), dtype=np.float64)


def _effect(
    parameter: str,
    levels: Sequence[str],
    base: str,
    columns: Sequence[tuple[str, str]],
    fit: _Fit,
    counts: Mapping[str, tuple[int, int, int]],
) -> Effect:
    zero = 1 + columns.index((parameter, base))
    found = []
    for value in levels:
        at = 1 + columns.index((parameter, value))
        mean = float(fit.mean[at] - fit.mean[zero])
        variance = fit.covariance[at, at] + fit.covariance[zero, zero] - 2 * fit.covariance[at, zero]
        reach = 0.0 if at == zero else _Z * math.sqrt(max(0.0, float(variance)))
        found.append(
            Level(value, math.exp(mean), math.exp(mean - reach), math.exp(mean + reach), *counts[value], value == base)
        )
    return Effect(parameter, tuple(found))


def _counts(
    tried: Sequence[Figures], values: Mapping[int, Mapping[str, str]], parameter: str, value: str
) -> tuple[int, int, int]:
    """(measured, dropped early, failed or over a limit at every rate) trials with this value."""
    states = Counter(f.state for f in tried if values[id(f)].get(parameter) == value)
    return states["measured"], states["pruned"], states["failed"] + states["infeasible"]
