"""Waits and hit shares in closed form. Plain probability: knows no engine."""

from __future__ import annotations

import math

from tuner.space.workload import Length

_STANDSTILL_PER_S = 1e-9  # a queue that drains slower than this does not drain
_LEAST_VARIATION = 0.05  # acceptance and routing keep even constant traffic a little uneven


def waiting_share(busy: float, streams: int) -> float:
    """Probability that an arrival finds the server busy when it gets every `streams`-th request of a Poisson stream.

    With one stream it is the utilisation. Dealt out in turn, gaps are Erlang: the share of gaps shorter than a
    service, relative to exponential ones, is what the dealing out saves.
    """
    if streams == 1 or busy <= 0.0:
        return busy
    mean = streams * busy
    term = total = 1.0
    for count in range(1, streams):
        term *= mean / count
        total += term
    return busy * (1.0 - math.exp(-mean) * total) / -math.expm1(-busy)


def queue_wait_s(
    busy: float, service_s: float, arrivals_cv2: float, service_cv2: float, waiting: float, above: float
) -> float:
    """The wait in a G/G/1 queue that a share `above` of requests exceed.

    Mean by Kraemer and Langenbach-Belz from the utilisation and the squared coefficients of variation; the tail is
    exponential behind the probability `waiting` of waiting at all.
    """
    variation = arrivals_cv2 + service_cv2
    if waiting <= above or variation <= 0.0:
        return 0.0
    if busy >= 1.0:
        return math.inf
    mean_s = busy * service_s * variation / 2 / (1.0 - busy)
    if arrivals_cv2 < 1.0:
        mean_s *= math.exp(-2 * (1 - busy) * (1 - arrivals_cv2) ** 2 / (3 * busy * variation))
    return mean_s / waiting * math.log(waiting / above)


def residual_wait_s(waiting: float, step_s: float, above: float) -> float:
    """The rest of a step under way that a share `above` of arrivals exceed: uniform, with probability `waiting`."""
    return step_s * (1.0 - above / waiting) if waiting > above else 0.0


def slot_wait_s(sigmas_free: float, free_rate: float, variation: float) -> float:
    """p95 of the wait for one of a limited number of slots, shared as processor sharing.

    Below the cap the running batch is close to normal; beyond it a queue drains at `free_rate` per second.
    """
    full = math.erfc(sigmas_free / math.sqrt(2.0))
    if full <= 0.05:
        return 0.0
    if free_rate <= _STANDSTILL_PER_S:
        return math.inf
    return max(variation, _LEAST_VARIATION) * math.log(full / 0.05) / free_rate


def prefix_hit_share(free_tokens: float, running: float, groups: int, shared: float, private: float) -> float:
    """Share of requests that find their group's prefix in an LRU pool (Che's approximation).

    A prefix is pinned while a request of its group runs, and lingers after that until the pool has taken in as many
    other tokens. With x = lingering time / mean time between two requests of a group, the pool beside the running
    requests' own tokens holds groups x shared x (1 - e^-(running/groups + x)) + groups x private x.
    """
    if shared <= 0.0:
        return 0.0
    pinned = math.exp(-running / groups)  # share of groups nobody runs in
    space = free_tokens / groups
    x = max(0.0, space - shared) / private  # from below: the left side is concave and increases
    for _ in range(4):
        fading = pinned * math.exp(-x)
        x += (space - shared * (1 - fading) - private * x) / (shared * fading + private)
        if x <= 0.0:
            return 1.0 - pinned
    return 1.0 - pinned * math.exp(-x)


def length_cv2(length: Length) -> float:
    """Squared coefficient of variation of a length."""
    if length.kind == "uniform":
        return (length.high - length.low) ** 2 / 12 / length.mean_tokens**2
    if length.kind == "lognormal":
        return math.exp(length.sigma**2) - 1
    return 0.0


def length_p95(length: Length) -> float:
    """The length that 5 % exceed."""
    if length.kind == "uniform":
        return length.low + 0.95 * (length.high - length.low)
    if length.kind == "lognormal":
        return min(float(length.high), max(float(length.low), length.median_tokens * math.exp(1.645 * length.sigma)))
    return float(length.low)
