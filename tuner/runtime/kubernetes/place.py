"""Where a pool's trials run, and what that lets expect of one. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.runtime.kubernetes.names import CONTAINER
from tuner.runtime.kubernetes.site import Site
from tuner.runtime.kubernetes.target import PoolTarget
from tuner.runtime.kubernetes.verdict import Expectation


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pool's trials run, how many at once, and the least GPUs any of its configurations asks for."""

    target: PoolTarget
    site: Site
    slots: int
    smallest_gpus: int


def expectation(place: Place, gpus: int) -> Expectation:
    """What a pool's place lets expect of a trial with so many GPUs."""
    target = place.target
    return Expectation(
        pool=target.pool,
        gpu_resource=target.gpu_resource,
        gpus=gpus,
        smallest_gpus=place.smallest_gpus,
        container=CONTAINER,
        autoscale_wait_s=target.autoscale_wait_s,
        queue=target.queue,
        known_here=place.site.cluster.answered,
    )
