"""How sure the winner is: the interval of its cost, and who may in truth be cheaper.

Two figures limit what a cost is worth: how far a repeated measurement would land (learned by the sampler from the
study itself, assumed where it did not), and the width of the capacity bracket. The larger of both counts. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from tuner.study.summary import Figures, StudySummary

CONFIDENCE = 0.90
ASSUMED_SD = 0.04
"""Repeatability of log cost where no study says: what the sampler assumes before the first trial."""
DOUBT = 0.10
"""A rival with at least this chance of being cheaper in truth leaves the winner in doubt."""

_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True, slots=True)
class Interval:
    """A cost with its 90% interval, USD per million output tokens."""

    cost: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Rival:
    """A measured configuration that may in truth cost less than the winner; `chance` is how likely that is."""

    trial: int
    label: str
    interval: Interval
    dearer_by: float
    chance: float


@dataclass(frozen=True, slots=True)
class Certainty:
    """`repeat_sd` is that of log cost; `learned` says whether this study's own trials told it."""

    interval: Interval
    repeat_sd: float
    learned: bool
    capacity_low_req_per_s: float | None
    capacity_high_req_per_s: float | None
    rivals: tuple[Rival, ...]
    confirmed: bool

    @property
    def clear(self) -> bool:
        """Nobody else may be cheaper, and further runs upheld it: one measurement alone is cheap partly by luck."""
        return self.confirmed and not self.rivals


def certainty(summary: StudySummary) -> Certainty | None:
    """What can be said of the winner's cost; None without a winner."""
    best = summary.best
    if best is None or not best.usd_per_million_output_tokens:
        return None
    repeat_sd, learned = repeatability(summary)
    low, high = bracket(best)
    rivals = tuple(_rivals(summary, best, repeat_sd))
    return Certainty(interval(best, repeat_sd), repeat_sd, learned, low, high, rivals, best.confirmed)


def repeatability(summary: StudySummary) -> tuple[float, bool]:
    """Standard deviation of log cost between repeated measurements, and whether the study told it."""
    for figures in reversed(summary.trials_in_order):
        noise = figures.proposal.get("noise_sd")
        if noise:
            return float(noise), True
    return ASSUMED_SD, False


def bracket(figures: Figures) -> tuple[float | None, float | None]:
    """The capacity's bracket in req/s, where it was reported."""
    measurement = figures.result.get("measurement") or {}
    return figures.capacity_req_per_s, measurement.get("capacity_high_req_per_s")


def cost_sd(figures: Figures, repeat_sd: float) -> float:
    """Standard deviation of a measured configuration's log cost."""
    low, high = bracket(figures)
    width = math.log(high / low) if low and high and high > low else 0.0
    return max(repeat_sd, width / math.sqrt(12))  # anywhere within the bracket is equally likely


def interval(figures: Figures, repeat_sd: float) -> Interval:
    """The 90% interval of a measured cost."""
    cost = figures.usd_per_million_output_tokens or 0.0
    factor = math.exp(_Z * cost_sd(figures, repeat_sd))
    return Interval(cost, cost / factor, cost * factor)


def _rivals(summary: StudySummary, best: Figures, repeat_sd: float) -> list[Rival]:
    found = []
    ours = best.usd_per_million_output_tokens or 0.0
    for other in summary.ranked:
        cost = other.usd_per_million_output_tokens
        if other.fingerprint == best.fingerprint or not cost or other.standing == "missed":
            continue
        spread = math.hypot(cost_sd(best, repeat_sd), cost_sd(other, repeat_sd))
        chance = NormalDist().cdf(-math.log(cost / ours) / spread)
        if chance >= DOUBT:
            found.append(Rival(other.trial, other.label, interval(other, repeat_sd), cost / ours - 1, chance))
    return found
