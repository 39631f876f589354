"""What each past trial says to the sampler: a cost, a bound, a verdict on starting and on serving, or nothing.

    measured        log cost; it starts, it serves
    measured, but collapsed (far dearer than the model and than the best)  as if it did not start
    infeasible      it starts, it does not serve
    failed (configuration)  it does not start
    raced out       log cost a little above the bound, with noise of its own; it starts, it serves
    running         believed, not known; once it has shown a bound: that too, and it starts
    lost, invalid, abandoned, outside the grid: nothing

Pure. Knows no kernel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
            if shown := _bound(i, trial):
                costs += shown
                starts[i] = True
        elif trial.counted:
            starts[i] = trial.state != "failed"
            if trial.state != "failed":
                serves[i] = trial.state != "infeasible"
            costs += _cost(i, trial)
    return Observations(_costs(costs), _labels(starts), _labels(serves), _array(running), frozenset(tried), outside)


COLLAPSE_VS_MODEL, COLLAPSE_VS_BEST = math.log(4.0), math.log(3.0)
"""A configuration is collapsed when it costs so much more than the engine model says (corrected by how far the model is
off elsewhere) and so much more than the best. Seen on simulated MI355X nodes with a few GiB less memory than expected:
the KV cache holds one request, 0.09 req/s are left, at 35 times the predicted cost. That is a memory cliff, of the same
kind as not starting; as a cost it would outweigh all other observations."""


def without_collapsed(seen: Observations, prior: Floats) -> Observations:
    """Collapsed measurements count as failed starts. `prior` is the model's log cost of every candidate, centred."""
    costs = seen.costs
    known = np.flatnonzero(~costs.bound)
    if not len(known):
        return seen
    beyond = costs.log_cost - prior[costs.which]
    usual = np.sort(beyond[known])[(len(known) - 1) // 2]
    best = min(float(costs.log_cost[known].min()), seen.outside)
    lost = ~costs.bound & (beyond > usual + COLLAPSE_VS_MODEL) & (costs.log_cost > best + COLLAPSE_VS_BEST)
    if not lost.any():
        return seen
    fallen = np.unique(costs.which[lost])
    kept = ~np.isin(costs.which, fallen)
    starts = {int(i): bool(good) for i, good in zip(seen.starts.which, seen.starts.good, strict=True)}
    return replace(
        seen,
        costs=Costs(costs.which[kept], costs.log_cost[kept], costs.bound[kept]),
        starts=_labels({**starts, **dict.fromkeys(map(int, fallen), False)}),
        serves=_keep(seen.serves, fallen),
    )


def _keep(labels: Labels, without: Codes) -> Labels:
    kept = ~np.isin(labels.which, without)
    return Labels(labels.which[kept], labels.good[kept])


def _cost(i: int, trial: PastTrial) -> list[tuple[int, float, bool]]:
    if trial.state == "measured" and trial.usd_per_million and math.isfinite(trial.usd_per_million):
        return [(i, math.log(trial.usd_per_million), False)]
    return _bound(i, trial) if trial.state == "pruned" else []


def _bound(i: int, trial: PastTrial) -> list[tuple[int, float, bool]]:
    bound = trial.bound_usd_per_million
    return [(i, math.log(bound), True)] if bound and math.isfinite(bound) else []


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
