"""The baseline measured again: every so many trials, and once on every node a pool has used. Who is off is told.

A search that takes a weekend assumes that a node is today what it was yesterday, and that its nodes are alike. One
configuration measured again and again shows when that is not so. Pure; starts nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.space.config import ServingConfig
from tuner.study.history import PastTrial

BASELINE = "baseline"
ORIGIN = "recheck"

NOISE_SD = 0.04
"""Standard deviation of the logarithm of one measured cost, as the sampler assumes it before it has seen any."""
SURE_SD = 3.0
"""A deviation of so many standard deviations is told: once in a few hundred comparisons by chance."""


@dataclass(frozen=True, slots=True)
class Recheck:
    """The baseline is due again, on this node or on any ("")."""

    config: ServingConfig
    node: str = ""


@dataclass(frozen=True, slots=True)
class Deviation:
    """What the baseline cost somewhere else or later, as a share of what it cost before: 1.14 is 14 % dearer.

    `node` is the node that is off; "" when the same node has changed, or when nodes are not known.
    """

    pool: str
    node: str
    ratio: float
    measurements: int

    def __str__(self) -> str:
        who = f"node {self.node}" if self.node else f"pool {self.pool}"
        against = "than the other nodes" if self.node else "than at the first measurement"
        change = f"{abs(self.ratio - 1):.0%} {'dearer' if self.ratio > 1 else 'cheaper'}"
        return f"{who} now measures the baseline {change} {against}: look at it before trusting close calls"


def due(
    seeds: Sequence[tuple[str, ServingConfig]], history: Sequence[PastTrial], pool: str, every: int | None
) -> Recheck | None:
    """Whether the baseline of a pool is to be measured again now. Only a baseline that was measured is."""
    config = next((c for name, c in seeds if name == BASELINE and c.pool == pool), None)
    if every is None or config is None:
        return None
    here = [trial for trial in history if trial.pool == pool and trial.state != "abandoned"]
    mine = [trial for trial in here if trial.fingerprint == config.fingerprint]
    if not any(trial.state == "measured" for trial in mine) or not all(trial.finished for trial in mine):
        return None
    nodes = {trial.node for trial in here if trial.node}
    # A runtime may not be able to place a trial: a node that was asked for once is not asked for again.
    asked = {str((trial.spec or {}).get("context", {}).get("node", "")) for trial in mine}
    missing = sorted(nodes - asked - {trial.node for trial in mine})
    if missing and len(nodes) > 1:
        return Recheck(config, missing[0])
    since = sum(trial.counted for trial in here if trial.number > mine[-1].number)
    return Recheck(config) if since >= every else None


def deviations(history: Sequence[PastTrial]) -> list[Deviation]:
    """Every node, and every pool over time, whose repeated baseline is off by more than the noise."""
    groups: dict[tuple[str, str], list[PastTrial]] = {}
    again = {trial.fingerprint for trial in history if trial.origin.startswith(ORIGIN)}
    for trial in history:
        if trial.state == "measured" and trial.fingerprint in again and trial.usd_per_million:
            groups.setdefault((trial.pool, trial.fingerprint), []).append(trial)
    return [found for (pool, _), trials in groups.items() for found in (*_nodes(pool, trials), *_drift(pool, trials))]


def _nodes(pool: str, trials: Sequence[PastTrial]) -> list[Deviation]:
    by_node: dict[str, list[float]] = {}
    for trial in trials:
        by_node.setdefault(trial.node, []).append(math.log(trial.usd_per_million or 1.0))
    found = []
    for node, costs in by_node.items():
        others = [theirs for other, theirs in by_node.items() if len(by_node) > 2 or other != node]
        # A median: with three nodes a single odd one does not make the others look odd.
        usual = statistics.median(statistics.fmean(theirs) for theirs in others) if others else None
        if node and usual is not None and (ratio := _beyond(costs, [usual])):
            found.append(Deviation(pool, node, ratio, len(costs)))
    # Of two nodes nobody knows which is off: the dearer is named.
    return found if len(by_node) > 2 else [d for d in found if d.ratio > 1]


def _drift(pool: str, trials: Sequence[PastTrial]) -> list[Deviation]:
    """The latest against the first on the same node."""
    latest = trials[-1]
    same = [math.log(t.usd_per_million or 1.0) for t in trials[:-1] if t.node == latest.node]
    ratio = _beyond([math.log(latest.usd_per_million or 1.0)], same[:1]) if same else None
    return [Deviation(pool, "", ratio, len(same) + 1)] if ratio else []


def _beyond(costs: Sequence[float], others: Sequence[float]) -> float | None:
    """The ratio of two mean costs if the noise does not explain it."""
    away = statistics.fmean(costs) - statistics.fmean(others)
    sd = NOISE_SD * math.sqrt(1 / len(costs) + 1 / len(others))
    return math.exp(away) if abs(away) > SURE_SD * sd else None
