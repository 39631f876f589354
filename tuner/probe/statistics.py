"""Quantiles, binomial bounds and the sequential test behind every verdict; standard library only.

A p95 limit is a statement about a proportion: p95(T) <= S holds exactly when at most 5 % of requests exceed S. Every
request is then a Bernoulli trial, and all tests here are binomial. Knows no requests and no time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

P95_MISS_SHARE = 0.05
"""A p95 limit allows this share of requests beyond it."""


def quantile(values: Sequence[float], q: float) -> float | None:
    """Nearest-rank quantile (inverse of the empirical distribution), None for no values.

    Nearest rank, not interpolation: it is defined when failed requests count as infinite, and p95 <= S is then the
    same as "at most 5 % exceed S".
    """
    if not values:
        return None
    ordered = sorted(values)
    rank = math.ceil(q * len(ordered) - 1e-9)
    return ordered[min(len(ordered), max(1, rank)) - 1]


def binomial_cdf(successes: int, n: int, p: float) -> float:
    """P(X <= successes) for X ~ Binomial(n, p), summed in logarithms so that large n does not underflow."""
    if successes < 0:
        return 0.0
    if successes >= n or p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 0.0
    log_p, log_q, log_n = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    terms = (
        math.exp(log_n - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_q)
        for k in range(successes + 1)
    )
    return min(1.0, math.fsum(terms))


def binomial_upper_tail(successes: int, n: int, p: float) -> float:
    """P(X >= successes) for X ~ Binomial(n, p)."""
    if successes <= 0:
        return 1.0
    if p <= 0.0 or successes > n:
        return 0.0
    # By symmetry a lower tail of failures: no 1 - cdf, whose rounding would swallow small tails.
    return binomial_cdf(n - successes, n, 1.0 - p)


def clopper_pearson_upper(misses: int, n: int, delta: float = 0.05) -> float:
    """The proportion that is exceeded with probability at most `delta`, given `misses` of `n`."""
    if n == 0 or misses >= n:
        return 1.0
    return _bisect(lambda p: binomial_cdf(misses, n, p) > delta)


def clopper_pearson_lower(misses: int, n: int, delta: float = 0.05) -> float:
    """The proportion that is undershot with probability at most `delta`, given `misses` of `n`."""
    if n == 0 or misses <= 0:
        return 0.0
    return _bisect(lambda p: binomial_upper_tail(misses, n, p) < delta)


def _bisect(below: Callable[[float], bool]) -> float:
    """The point in (0, 1) where `below` turns from true to false."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def smallest_passing_sample(misses: int, delta: float = 0.05, share: float = P95_MISS_SHARE) -> int:
    """Requests needed so that `misses` of them still prove a miss share of at most `share` at confidence 1 - delta."""
    n = misses + 1
    while binomial_cdf(misses, n, share) > delta:
        n += 1
    return n


def order_statistic_interval(n: int, q: float = 0.95, confidence: float = 0.95) -> tuple[int | None, int | None]:
    """Ranks (from 1) of the ordered sample that enclose the q-quantile; None where the sample cannot bound it."""
    tail = (1.0 - confidence) / 2
    low = max((r for r in range(1, n + 1) if binomial_cdf(r - 1, n, q) <= tail), default=None)
    high = min((r for r in range(1, n + 1) if binomial_upper_tail(r, n, q) <= tail), default=None)
    return low, high


def robbins_bound(misses: int, n: int, share: float = P95_MISS_SHARE) -> float:
    """(n + 1) C(n, k) p^k (1 - p)^(n - k): below delta at *any* time, p is excluded at confidence 1 - delta.

    Anytime-valid (Robbins 1970), so a run may be stopped whenever it says so.
    """
    log_choose = math.lgamma(n + 1) - math.lgamma(misses + 1) - math.lgamma(n - misses + 1)
    return (n + 1) * math.exp(log_choose + misses * math.log(share) + (n - misses) * math.log1p(-share))


Verdict = Literal["accept", "reject"]


@dataclass(frozen=True, slots=True)
class Sprt:
    """Wald's sequential test of a miss share: `good_share` against `bad_share`, both errors at most `error`."""

    good_share: float = 0.02
    bad_share: float = 0.10
    error: float = 0.05

    @property
    def miss_weight(self) -> float:
        return math.log(self.bad_share / self.good_share)

    @property
    def hit_weight(self) -> float:
        return math.log((1 - self.bad_share) / (1 - self.good_share))

    @property
    def threshold(self) -> float:
        return math.log((1 - self.error) / self.error)

    def log_ratio(self, hits: int, misses: int) -> float:
        """Above 0 speaks for `bad_share`."""
        return misses * self.miss_weight + hits * self.hit_weight

    def verdict(self, hits: int, misses: int) -> Verdict | None:
        ratio = self.log_ratio(hits, misses)
        if ratio >= self.threshold:
            return "reject"
        return "accept" if ratio <= -self.threshold else None
