"""Waits and hit shares in closed form, over arrays of configurations. Plain probability: knows no engine."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfc

from tuner.space.workload import Length

Column: TypeAlias = NDArray[Any]

_STANDSTILL_PER_S = 1e-9  # a queue that drains slower than this does not drain
_LEAST_VARIATION = 0.05  # acceptance and routing keep even constant traffic a little uneven
_TINY = 1e-12


def waiting_share(busy: ArrayLike, streams: ArrayLike) -> Column:
    """Probability that an arrival finds the server busy when it gets every `streams`-th request of a Poisson stream.

    With one stream it is the utilisation. Dealt out in turn, gaps are Erlang: the share of gaps shorter than a
    service, relative to exponential ones, is what the dealing out saves.
    """
    busy, streams = np.broadcast_arrays(np.asarray(busy, dtype=np.float64), np.asarray(streams, dtype=np.float64))
    mean = streams * busy
    term = np.ones_like(busy)
    total = np.ones_like(busy)
    for count in range(1, int(streams.max())):
        term = term * mean / count
        total = total + np.where(count < streams, term, 0.0)
    dealt = busy * (1.0 - np.exp(-mean) * total) / np.maximum(_TINY, -np.expm1(-busy))
    return np.asarray(np.where((streams <= 1) | (busy <= 0.0), busy, dealt))


def queue_wait_s(
    busy: ArrayLike,
    service_s: ArrayLike,
    arrivals_cv2: ArrayLike,
    service_cv2: ArrayLike,
    waiting: ArrayLike,
    above: float,
) -> Column:
    """The wait in a G/G/1 queue that a share `above` of requests exceed.

    Mean by Kraemer and Langenbach-Belz from the utilisation and the squared coefficients of variation; the tail is
    exponential behind the probability `waiting` of waiting at all.
    """
    busy, service_s, arrivals_cv2, waiting = (
        np.asarray(v, dtype=np.float64) for v in (busy, service_s, arrivals_cv2, waiting)
    )
    variation = arrivals_cv2 + np.asarray(service_cv2, dtype=np.float64)
    idle = np.maximum(_TINY, 1.0 - busy)
    mean_s = busy * service_s * variation / 2 / idle
    damping = -2 * idle * (1 - arrivals_cv2) ** 2 / np.maximum(_TINY, 3 * busy * variation)
    mean_s = mean_s * np.where(arrivals_cv2 < 1.0, np.exp(np.maximum(-700.0, damping)), 1.0)
    waited = mean_s / np.maximum(_TINY, waiting) * np.log(np.maximum(_TINY, waiting) / above)
    waited = np.where(busy >= 1.0, np.inf, waited)
    return np.asarray(np.where((waiting <= above) | (variation <= 0.0), 0.0, waited))


def residual_wait_s(waiting: ArrayLike, step_s: ArrayLike, above: float) -> Column:
    """The rest of a step under way that a share `above` of arrivals exceed: uniform, with probability `waiting`."""
    waiting, step_s = np.asarray(waiting, dtype=np.float64), np.asarray(step_s, dtype=np.float64)
    return np.asarray(np.where(waiting > above, step_s * (1.0 - above / np.maximum(above, waiting)), 0.0))


def slot_wait_s(sigmas_free: ArrayLike, free_rate: ArrayLike, variation: ArrayLike) -> Column:
    """p95 of the wait for one of a limited number of slots, shared as processor sharing.

    Below the cap the running batch is close to normal; beyond it a queue drains at `free_rate` per second.
    """
    full = np.asarray(erfc(np.asarray(sigmas_free, dtype=np.float64) / math.sqrt(2.0)))
    free_rate = np.asarray(free_rate, dtype=np.float64)
    tail = np.log(np.maximum(full, 0.05) / 0.05)
    waited = np.maximum(variation, _LEAST_VARIATION) * tail / np.maximum(_STANDSTILL_PER_S, free_rate)
    waited = np.where(free_rate <= _STANDSTILL_PER_S, np.inf, waited)
    return np.asarray(np.where(full <= 0.05, 0.0, waited))


def prefix_hit_share(
    free_tokens: ArrayLike, running: ArrayLike, groups: ArrayLike, shared: ArrayLike, private: ArrayLike
) -> Column:
    """Share of requests that find their group's prefix in an LRU pool (Che's approximation).

    A prefix is pinned while a request of its group runs, and lingers after that until the pool has taken in as many
    other tokens. With x = lingering time / mean time between two requests of a group, the pool beside the running
    requests' own tokens holds groups x shared x (1 - e^-(running/groups + x)) + groups x private x.
    """
    shared, private = np.asarray(shared, dtype=np.float64), np.asarray(private, dtype=np.float64)
    groups = np.asarray(groups, dtype=np.float64)
    pinned = np.exp(-np.asarray(running, dtype=np.float64) / groups)  # share of groups nobody runs in
    space = np.asarray(free_tokens, dtype=np.float64) / groups
    x = np.maximum(0.0, space - shared) / private  # from below: the left side is concave and increases
    none = np.zeros_like(x, dtype=bool)
    for _ in range(4):
        fading = pinned * np.exp(-x)
        x = x + (space - shared * (1 - fading) - private * x) / (shared * fading + private)
        none |= x <= 0.0
        x = np.maximum(0.0, x)
    hit = 1.0 - pinned * np.where(none, 1.0, np.exp(-x))
    return np.asarray(np.where(shared > 0.0, hit, 0.0))


def length_p95(length: Length) -> float:
    """The length that 5 % exceed."""
    if length.kind == "uniform":
        return length.low + 0.95 * (length.high - length.low)
    if length.kind == "lognormal":
        return min(float(length.high), max(float(length.low), length.median_tokens * math.exp(1.645 * length.sigma)))
    if length.kind == "observed":
        return float(length.quantiles[round(0.95 * (len(length.quantiles) - 1))])
    return float(length.low)
