"""What a search will take before it starts: hours, GPU-hours and money, from the engine model's own figures.

Pure. Knows no study; a running one is forecast from its own trials (`tuner.study.budget`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

from tuner.model.startup import seconds_to_ready
from tuner.study.budget import Used, without
from tuner.study.events import StoppedBy
from tuner.study.points import Point, Points, accelerator_of, architecture_of
from tuner.study.problem import Problem

WARM_S = 30.0
"""Two requests per shape, flushing, and sending every shared prefix once."""
PROBE_RESIDENCES = 6.0
"""A full answer takes about so many residence times: filling, one level at saturation, one or two below it."""
STOP_S = 60.0
"""Draining, and waiting until the driver has given the memory back."""
TAIL_SHARE = 0.05
"""The share of requests above a p95: telling on which side of its limit it lies takes some limits over this share."""
_LOOKED_AT = 64
"""Points whose start-up is computed; more change the mean by less than the model errs."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Sums over all trials and confirmations; `wall_s` with all `nodes` busy. `ends_by` is what ends the trying.

    `gpus` and `usd_per_hour` are those of a mean trial, `parts` the seconds it is made of.
    """

    trials: int
    confirmations: int
    trial_s: float
    wall_s: float
    gpu_hours: float
    usd: float
    nodes: int
    ends_by: StoppedBy
    confirm_s: float = 0.0
    gpus: float = 0.0
    usd_per_hour: float = 0.0
    parts: tuple[tuple[str, float], ...] = ()


_ROUNDING = 1e-9  # half of twelve trials is six, whatever the last bits say


@dataclass(frozen=True, slots=True)
class _Trial:
    """A usual trial: its seconds, and its price and GPUs while it runs; `at_once` of them on the nodes of its pool."""

    seconds: float
    confirm_s: float
    usd_per_hour: float
    gpus: float
    at_once: int
    load_s: float


def forecast(points: Points, problem: Problem) -> Forecast:
    """Price a search from the mean of the points most likely to be tried: the cheaper half by prediction."""
    usual = _usual(points, problem)
    confirmations = problem.confirm.top * problem.confirm.repeats
    confirming = _used(confirmations, usual.confirm_s, usual)
    trials, ends_by = _trials(points, problem, _used(1, usual.seconds, usual), confirming)
    total = _used(trials, usual.seconds, usual).plus(confirming)
    return Forecast(
        trials,
        confirmations,
        usual.seconds,
        total.wall_s,
        total.gpu_hours,
        total.usd,
        usual.at_once,
        ends_by,
        confirm_s=usual.confirm_s,
        gpus=usual.gpus,
        usd_per_hour=usual.usd_per_hour,
        parts=(
            ("start-up", usual.seconds - usual.load_s - WARM_S - STOP_S),
            ("warm-up", WARM_S),
            ("load search", usual.load_s),
            ("stop", STOP_S),
        ),
    )


def _used(count: int, each_s: float, usual: _Trial) -> Used:
    hours = count * each_s / 3600
    return Used(count, 3600 * hours / usual.at_once, hours * usual.gpus, hours * usual.usd_per_hour)


def _trials(points: Points, problem: Problem, each: Used, confirming: Used) -> tuple[int, StoppedBy]:
    """How many trials there will be, and what ends them: a budget less the confirmation's share, or the space."""
    outside = sum(bool(config.only) for _, config in problem.seeds)
    budget = without(problem.budget, confirming)
    ends: list[tuple[int, StoppedBy]] = [(len(points.valid) + outside, "space_exhausted")]
    if budget.trials is not None:
        ends.append((budget.trials, "trials"))
    limits: tuple[tuple[StoppedBy, float | None, float], ...] = (
        ("wall", budget.wall_s, each.wall_s),
        ("gpu_hours", budget.gpu_hours, each.gpu_hours),
        ("usd", budget.usd, each.usd),
    )
    ends += [(math.ceil(limit / one - _ROUNDING), why) for why, limit, one in limits if limit is not None]
    return min(ends, key=lambda end: end[0])


def _usual(points: Points, problem: Problem) -> _Trial:
    """The mean trial over the pools, each weighted by the trials it gets through: every pool is kept busy."""
    pools = []
    for name, pool in points.space.spec.pools.items():
        here = [p for p in points.valid if p.config.pool == name]
        if here:
            pools.append(_usual_of(here[: max(1, len(here) // 2)], points, problem, pool.max_nodes))
    share = [pool.at_once / pool.seconds for pool in pools]

    def weighted(values: Iterable[float]) -> float:
        return sum(v * s for v, s in zip(values, share, strict=True)) / sum(share)

    return _Trial(
        weighted(p.seconds for p in pools),
        weighted(p.confirm_s for p in pools),
        weighted(p.usd_per_hour for p in pools),
        weighted(p.gpus for p in pools),
        sum(p.at_once for p in pools),
        weighted(p.load_s for p in pools),
    )


def _usual_of(likely: Sequence[Point], points: Points, problem: Problem, nodes: int) -> _Trial:
    some = likely[:: max(1, len(likely) // _LOOKED_AT)]
    seconds, load_s = mean(trial_seconds(points, p) for p in some), mean(_probe_s(p, points) for p in some)
    return _Trial(
        seconds,
        seconds - load_s + 60 * problem.confirm.minutes,
        mean(p.deployment.usd_per_hour for p in likely),
        mean(p.config.layout.gpus for p in likely),
        nodes,
        load_s,
    )


def trial_seconds(points: Points, point: Point) -> float:
    """Seconds of one trial: start-up, warm-up, load, stop."""
    acc = accelerator_of(points.space, point.config.pool)
    ready_s = seconds_to_ready(architecture_of(points.space), acc, point.settings)
    return ready_s + WARM_S + _probe_s(point, points) + STOP_S


def _probe_s(point: Point, points: Points) -> float:
    residence_s = points.space.workload.output_tokens.mean_tokens * point.prediction.tpot_s
    return PROBE_RESIDENCES * residence_s + 2 * (points.space.limits.ttft_p95_s or 0.0) / TAIL_SHARE
