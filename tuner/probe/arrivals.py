"""When requests of an open loop are due: absolute times, made before and independent of what the server does.

The gaps of a level come from one seed and are only scaled by the rate, so two configurations meet the same bursts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal


def due_times(
    kind: Literal["poisson", "constant"], seed: int, level: int, rate_req_per_s: float, start_s: float
) -> Iterator[float]:
    """Endless absolute due times of one level, ascending, the first one gap after `start_s`."""
    if rate_req_per_s <= 0:
        raise ValueError(f"level {level}: a rate must be above 0 req/s, not {rate_req_per_s}")
    rng = random.Random(f"{seed}/arrivals/{level}")  # noqa: S311 - traffic, not secrets
    unit_s, count = 0.0, 0
    while True:
        count += 1
        # The running sum of unit gaps is scaled as a whole: no drift, however long the level.
        unit_s = unit_s + rng.expovariate(1.0) if kind == "poisson" else float(count)
        yield start_s + unit_s / rate_req_per_s
