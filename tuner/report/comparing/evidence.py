"""What is known of one configuration's capacity at any latency limit: from its stored load levels and its bounds.

A rate that held at the tuned limit holds at every looser one. A rate that missed a limit misses every stricter one.
Levels store percentiles, not requests: another limit than the tuned one is judged by the point estimate of p95. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.study.summary import Figures

SATURATION_SLACK = 1.05
"""No limit lets a server give more than its full throughput; the measured one is off by so much at most."""
SETTLED = 1.08
"""A bracket no wider than this is as good as a search leaves it."""
RESCORED = ("ttft_p95_s", "tpot_p95_ms")
"""The limits whose figures are stored for every level."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """`low` was shown to hold (None: no rate was), `high` is above the capacity (infinite: nothing is known)."""

    low: float | None
    high: float

    @property
    def settled(self) -> bool:
        """Whether another measurement would tell nothing new."""
        return self.high <= 0 or (self.low is not None and self.high <= self.low * SETTLED)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All trials of one configuration, and the confirmations of it. All under limits of the same kinds."""

    trials: tuple[Figures, ...]
    confirmations: tuple[Figures, ...] = ()
    refuted: bool = field(default=False)

    @property
    def latest(self) -> Figures:
        """The trial that speaks for it: the last measured one, else the last one."""
        measured = [f for f in self.trials if f.state == "measured"]
        return (measured or list(self.trials))[-1]


def capacity_at(evidence: Evidence, limits: Mapping[str, float]) -> Capacity:
    """What is known of the capacity under these limits."""
    low: list[float] = []
    high: list[float] = [math.inf]
    for trial in evidence.trials:
        _from_trial(trial, limits, low, high)
    for run in evidence.confirmations:
        _from_levels(run, limits, low, high)
    most = min(high)
    held = [rate for rate in low if rate <= most]
    return Capacity(max(held, default=None), most)


def _from_trial(trial: Figures, limits: Mapping[str, float], low: list[float], high: list[float]) -> None:
    tuned: Mapping[str, float] = trial.spec.get("limits") or {}
    looser = all(limits.get(key, math.inf) >= tuned.get(key, math.inf) for key in {*limits, *tuned})
    stricter = all(limits.get(key, math.inf) <= tuned.get(key, math.inf) for key in {*limits, *tuned})
    saturation, bound = trial.result.get("saturation_req_per_s"), trial.result.get("bound_req_per_s")
    if saturation:
        high.append(saturation * SATURATION_SLACK)
    if trial.state == "failed":
        high.append(0.0)
    if trial.state == "measured" and trial.capacity_req_per_s:
        measured_high = (trial.result.get("measurement") or {}).get("capacity_high_req_per_s")
        if looser:
            low.append(trial.capacity_req_per_s)
        if stricter and measured_high:
            high.append(measured_high)
        elif looser and stricter:
            high.append(trial.capacity_req_per_s)
    if stricter and trial.state == "pruned" and bound:
        high.append(bound)
    if stricter and trial.state == "infeasible":
        high.append(0.0)
    _from_levels(trial, limits, low, high)


def _from_levels(trial: Figures, limits: Mapping[str, float], low: list[float], high: list[float]) -> None:
    for level in _open_levels(trial):
        figures = [(level.get(key), limits[key]) for key in RESCORED if key in limits]
        if any(value is not None and value > limit for value, limit in figures):
            high.append(float(level["rate_req_per_s"]))
        elif level["verdict"] == "holds" and all(value is not None for value, _ in figures):
            low.append(float(level["rate_req_per_s"]))


def _open_levels(trial: Figures) -> Sequence[Mapping[str, Any]]:
    levels = trial.result.get("levels") or ()
    return [v for v in levels if v.get("rate_req_per_s") and v.get("verdict") in ("holds", "misses", "saturates")]


def breakpoints(evidence: Evidence, key: str = "ttft_p95_s") -> list[float]:
    """The limits at which what is known of the capacity changes."""
    runs = [*evidence.trials, *evidence.confirmations]
    found = {float(level[key]) for run in runs for level in _open_levels(run) if level.get(key)}
    found |= {
        float(trial.spec["limits"][key]) for trial in evidence.trials if (trial.spec.get("limits") or {}).get(key)
    }
    return sorted(found)
