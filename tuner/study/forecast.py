"""What a search will take before it starts: hours, GPU-hours and money, from the engine model's own figures.

Pure. Knows no study; a running one is forecast from its own trials (`tuner.study.budget`).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

from tuner.model.catalogue import accelerator
from tuner.model.startup import seconds_to_ready
from tuner.study.points import Point, Points, architecture_of
from tuner.study.problem import Problem

WARM_S = 30.0
"""Two requests per shape, flushing, and sending every shared prefix once."""
PROBE_RESIDENCES = 6.0
"""A full answer takes about so many residence times: filling, one level at saturation, one or two below it."""
STOP_S = 60.0
"""Draining, and waiting until the driver has given the memory back."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Sums over all trials and confirmations; `wall_s` with all nodes of the pools busy."""

    trials: int
    confirmations: int
    trial_s: float
    wall_s: float
    gpu_hours: float
    usd: float


def forecast(points: Points, problem: Problem) -> Forecast:
    """Price a search from the mean of the points most likely to be tried: the cheaper half by prediction."""
    likely = points.valid[: max(1, len(points.valid) // 2)]
    trial_s = mean(trial_seconds(points, p) for p in likely[:: max(1, len(likely) // 64)])
    trials = problem.budget.trials or 40
    confirmations = problem.confirm.top * problem.confirm.repeats
    confirm_s = confirmations * (trial_s + problem.confirm.minutes * 60 - _probe_s(likely[0], points))
    busy_s = trials * trial_s + confirm_s
    nodes = sum(pool.max_nodes for pool in points.space.spec.pools.values())
    gpus = mean(p.config.layout.gpus for p in likely)
    usd_per_hour = mean(p.deployment.usd_per_hour for p in likely)
    return Forecast(trials, confirmations, trial_s, busy_s / nodes, busy_s * gpus / 3600, busy_s / 3600 * usd_per_hour)


def trial_seconds(points: Points, point: Point) -> float:
    """Seconds of one trial: start-up, warm-up, load, stop."""
    acc = accelerator(point.deployment.accelerator)
    ready_s = seconds_to_ready(architecture_of(points.space), acc, point.settings)
    return ready_s + WARM_S + _probe_s(point, points) + STOP_S


def _probe_s(point: Point, points: Points) -> float:
    residence_s = points.space.workload.output_tokens.mean_tokens * point.prediction.tpot_s
    return PROBE_RESIDENCES * residence_s + 2 * (points.space.limits.ttft_p95_s or 0.0) / 0.05
