"""What serving a request rate takes on each pool: replicas, nodes and money, from the model's best point. Pure.

Every figure is a prediction; the guard of the space file is kept, so replicas run below their capacity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tuner.model.accuracy import relative_error
from tuner.study.points import Point, Points

HOURS_PER_MONTH = 730.5
"""365.25 days over 12."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """One pool's answer. `least` and `most` nodes are those if the model is off by its own error."""

    pool: str
    config: Point
    guarded_req_per_s: float
    replicas: int
    nodes: int
    nodes_least: int
    nodes_most: int
    usd_per_month: float


def fleets(points: Points, target_req_per_s: float) -> list[Fleet]:
    """The cheapest point of every pool, times what the rate needs; the cheapest fleet first."""
    return sorted(_fleets(points, target_req_per_s), key=lambda fleet: fleet.usd_per_month)


def _fleets(points: Points, target: float) -> Iterator[Fleet]:
    guard = points.space.spec.objective.guard
    for name, pool in points.space.spec.pools.items():
        here = [p for p in points.valid if p.config.pool == name and p.prediction.capacity_req_per_s > 0]
        if not here:
            continue
        best = here[0]
        rate = (1 - guard) * best.prediction.capacity_req_per_s
        error = relative_error(pool.accelerator)
        per_node = max(1, pool.gpus_per_node // best.config.layout.gpus)
        replicas = _needed(target, rate)
        nodes = math.ceil(replicas / per_node)
        node_usd_per_hour = pool.gpus_per_node * pool.usd_per_gpu_hour
        hourly = nodes * node_usd_per_hour if pool.billing == "node" else replicas * best.deployment.usd_per_hour
        yield Fleet(
            name,
            best,
            rate,
            replicas,
            nodes,
            math.ceil(_needed(target, rate * (1 + error)) / per_node),
            math.ceil(_needed(target, rate * (1 - error)) / per_node),
            hourly * HOURS_PER_MONTH,
        )


def _needed(target: float, rate: float) -> int:
    return max(1, math.ceil(target / rate - 1e-9))
