"""What each past trial says to the sampler: a cost, a bound, a verdict on starting and on serving, or nothing.

    measured        log cost; it starts, it serves
    infeasible      it starts, it does not serve
    failed (configuration)  it does not start
    raced out       log cost a little above the bound, with noise of its own; it starts, it serves
    running         believed, not known
    lost, invalid, abandoned, outside the grid: nothing

Pure. Knows no kernel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.study.history import PastTrial

Codes = NDArray[np.intp]
Floats = NDArray[np.float64]


BOUND_GAP, BOUND_SD = 0.1, 0.12
"""How far the log cost of a trial that was dropped early lies above its bound, and how surely: over 52 points of the
simulated MI355X the saturated throughput was 4 to 34 % above the capacity that meets the limits, 16 % in the median."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Observed log costs of candidates (`which`); where `bound` is set it is the least the true one can be."""

    which: Codes
    log_cost: Floats
    bound: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.which)


@dataclass(frozen=True, slots=True)
class Labels:
    """Whether candidates (`which`) did what one head of the feasibility model asks."""

    which: Codes
    good: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Observations:
    """All that a history says, by candidate. `outside` is the cheapest measured log cost outside the grid, or inf."""

    costs: Costs
    starts: Labels
    serves: Labels
    running: Codes
    tried: frozenset[int]
    outside: float


def observe(history: Sequence[PastTrial], index: Mapping[str, int]) -> Observations:
    """Sort a history. Of several verdicts on one configuration the latest stands; every measured cost counts."""
    costs: list[tuple[int, float, bool]] = []
    starts: dict[int, bool] = {}
    serves: dict[int, bool] = {}
    running, tried, outside = [], set(), math.inf
    for trial in history:
        i = index.get(trial.fingerprint)
        if trial.state == "abandoned":
            continue
        if i is None:
            outside = min(outside, math.log(trial.usd_per_million) if trial.usd_per_million else math.inf)
            continue
        tried.add(i)
        if not trial.finished:
            running.append(i)
        elif trial.counted:
            starts[i] = trial.state != "failed"
            if trial.state != "failed":
                serves[i] = trial.state != "infeasible"
            costs += _cost(i, trial)
    return Observations(_costs(costs), _labels(starts), _labels(serves), _array(running), frozenset(tried), outside)


def _cost(i: int, trial: PastTrial) -> list[tuple[int, float, bool]]:
    if trial.state == "measured" and trial.usd_per_million and math.isfinite(trial.usd_per_million):
        return [(i, math.log(trial.usd_per_million), False)]
    if trial.state == "pruned" and trial.bound_usd_per_million and math.isfinite(trial.bound_usd_per_million):
        return [(i, math.log(trial.bound_usd_per_million), True)]
    return []


def _costs(found: Sequence[tuple[int, float, bool]]) -> Costs:
    return Costs(
        _array([i for i, _, _ in found]),
        np.array([cost for _, cost, _ in found], dtype=float),
        np.array([bound for _, _, bound in found], dtype=bool),
    )


def _labels(found: Mapping[int, bool]) -> Labels:
    return Labels(_array(list(found)), np.array(list(found.values()), dtype=bool))


def _array(values: Sequence[int]) -> Codes:
    return np.array(values, dtype=np.intp)
