"""What is known of one configuration's capacity at any latency limit: from its stored load levels and its bounds.

A rate that held at the tuned limit holds at every looser one; a rate that missed it misses every stricter one. At any
other limit a level counts only where the interval of its p95 lies on one side: the whole of it within, and the
rate holds; the whole of it beyond, and it misses. In between the level says nothing. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tuner.probe.statistics import (
    P95_MISS_SHARE,
    clopper_pearson_lower,
    clopper_pearson_upper,
    smallest_passing_sample,
)
from tuner.study.summary import Figures

SATURATION_SLACK = 1.05
"""No limit lets a server give more than its full throughput; the measured one is off by so much at most."""
SETTLED = 1.08
"""A bracket no wider than this is as good as a search leaves it."""
RESCORED = ("ttft_p95_s", "tpot_p95_ms")
"""The limits whose figures are stored for every level."""
TAIL = 0.025
"""Either side of a 95 % interval."""
FEWEST = smallest_passing_sample(0, TAIL)
"""With fewer independent requests nothing bounds p95 from above."""
ALIKE = 4
"""Requests of one burst wait together: near capacity so many tell as much as one that is independent of all others."""
WANDERS = {"ttft_p95_s": 2.5, "tpot_p95_ms": 1.0}
"""What p95 of one level may differ from that of the next ten minutes, beyond its interval.

On the simulated engine TTFT p95 at the guarded rate was up to 2.2 times the upper end a level had promised.
"""


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
    """All trials of one configuration, and the confirmations of it. All under limits of the same kinds.

    `refuted` are the limits at whose guarded rate a confirmation of it missed, `confirmed` those at which all held,
    with that rate in req/s.
    """

    trials: tuple[Figures, ...]
    confirmations: tuple[Figures, ...] = ()
    refuted: tuple[Mapping[str, float], ...] = ()
    confirmed: tuple[tuple[Mapping[str, float], float], ...] = ()

    @property
    def latest(self) -> Figures:
        """The trial that speaks for it: the last measured one, else the last one."""
        measured = [f for f in self.trials if f.state == "measured"]
        return (measured or list(self.trials))[-1]

    def confirmed_at(self, limits: Mapping[str, float], rate_req_per_s: float) -> bool:
        """Whether confirmation runs held at least this rate under limits no looser than these."""
        return any(
            rate >= rate_req_per_s * (1 - 1e-9)
            and all(own.get(key, math.inf) <= limit for key, limit in limits.items())
            for own, rate in self.confirmed
        )

    def refuted_at(self, limits: Mapping[str, float]) -> bool:
        """Whether it was refuted under just these limits; under others its confirmation is one more level."""
        return any(dict(limits) == dict(refuted) for refuted in self.refuted)


def capacity_at(evidence: Evidence, limits: Mapping[str, float]) -> Capacity:
    """What is known of the capacity under these limits."""
    low: list[float] = []
    high: list[float] = [math.inf]
    for trial in evidence.trials:
        _from_trial(trial, limits, low, high)
    for run in (*evidence.trials, *evidence.confirmations):
        _from_levels(run, limits, low, high)
    most = min(high)
    held = [rate for rate in low if rate <= most]
    return Capacity(max(held, default=None), most)


def _from_trial(trial: Figures, limits: Mapping[str, float], low: list[float], high: list[float]) -> None:
    looser, stricter = _compared(limits, trial)
    bound = trial.result.get("bound_req_per_s")
    high.append(_full_throughput(trial))
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


def _full_throughput(trial: Figures) -> float:
    """What no limit lets it exceed. A trial dropped while its server was being filled has a bound of that kind only."""
    result = trial.result
    if saturation := result.get("saturation_req_per_s"):
        return float(saturation) * SATURATION_SLACK
    own_probe = (result.get("versions") or {}).get("tuner")
    while_filling = trial.state == "pruned" and own_probe and not result.get("levels")
    return float(result.get("bound_req_per_s") or math.inf) if while_filling else math.inf


def _compared(limits: Mapping[str, float], run: Figures) -> tuple[bool, bool]:
    """Whether these limits are (looser than, stricter than) or equal to those the run was judged by."""
    tuned: Mapping[str, float] = run.spec.get("limits") or {}
    pairs = [(limits.get(key, math.inf), tuned.get(key, math.inf)) for key in {*limits, *tuned}]
    return all(asked >= own for asked, own in pairs), all(asked <= own for asked, own in pairs)


def _from_levels(run: Figures, limits: Mapping[str, float], low: list[float], high: list[float]) -> None:
    looser, stricter = _compared(limits, run)
    for level in _open_levels(run):
        rate, held = float(level["rate_req_per_s"]), level["verdict"] == "holds"
        reach = {key: p95_interval(level, key) for key in RESCORED if key in limits}
        if (stricter and not held) or any(least > limits[key] for key, (least, _) in reach.items()):
            high.append(rate)
        elif held and (looser or all(most <= limits[key] for key, (_, most) in reach.items())):
            low.append(rate)


def p95_interval(level: Mapping[str, Any], key: str) -> tuple[float, float]:
    """Between what p95 at a level's rate lies; (0, infinity) where too little of it was kept to tell.

    Of a level the number of requests, the median and p95 are kept. The shares that may lie beyond p95 (Clopper-Pearson)
    become times along the exponential tail through those two points, that of a queue.
    """
    p95, p50, requests = level.get(key), level.get(key.replace("p95", "p50")), int(level.get("requests") or 0)
    told = requests // ALIKE
    if p95 is None or p50 is None or not told:
        return 0.0, math.inf
    least, most = _shares_beyond(told)
    scale = (p95 - p50) / math.log(0.5 / P95_MISS_SHARE)
    low = max(p50, p95 - scale * math.log(P95_MISS_SHARE / least))
    high = math.inf if told < FEWEST else p95 + scale * math.log(most / P95_MISS_SHARE)
    return low / WANDERS[key], high * WANDERS[key]


@lru_cache(maxsize=4096)
def _shares_beyond(requests: int) -> tuple[float, float]:
    """Between what the true share beyond the observed p95 lies."""
    seen = math.ceil(requests * P95_MISS_SHARE)
    return clopper_pearson_lower(seen, requests, TAIL), clopper_pearson_upper(seen, requests, TAIL)


def _open_levels(trial: Figures) -> Sequence[Mapping[str, Any]]:
    levels = trial.result.get("levels") or ()
    return [v for v in levels if v.get("rate_req_per_s") and v.get("verdict") in ("holds", "misses", "saturates")]


def breakpoints(evidence: Evidence, key: str = "ttft_p95_s") -> list[float]:
    """The limits at which what is known of the capacity changes."""
    runs = [*evidence.trials, *evidence.confirmations]
    ends = {end for run in runs for level in _open_levels(run) for end in p95_interval(level, key)}
    tuned = {float(run.spec["limits"][key]) for run in runs if (run.spec.get("limits") or {}).get(key)}
    return sorted(end for end in ends | tuned if 0 < end < math.inf)
