"""What queueing theory says of a server that was seen full: the rate at which 5 % wait too long under Poisson traffic.

One residence time of load is a single draw of how many requests fall into it: no level of that length can tell a rate
whose bursts overflow the batch once in ten minutes from one that holds. What was measured on the full server (its
batch, its throughput, how fast it takes requests in) decides it. Pure arithmetic; only orders and bounds the rates
tested.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tuner.probe.statistics import P95_MISS_SHARE

STEPS = 40
LEAST_SLACK = 0.5
"""Share of the limit that is left for waiting, at least. The shortest first token of a server that is being filled
holds the others of its prefill batch: a request alone is faster, by up to a whole chunk. Where that floor came near the
limit, a simulated MI355X node was bounded at 0.21 requests per second and carried 0.9."""


@dataclass(frozen=True, slots=True)
class FullServer:
    """`in_service` requests at once go through at `rate_req_per_s`; while it filled it took in `intake_req_per_s`.

    `floor_s` is the shortest time to a first token seen, which is too long where requests are prefilled together.
    """

    in_service: int
    rate_req_per_s: float
    intake_req_per_s: float | None
    floor_s: float

    def highest_rate(self, limit_s: float, share: float = P95_MISS_SHARE) -> float:
        """The highest rate at which at most `share` of the requests wait beyond `limit_s`; at most the throughput."""
        slack_s = max(limit_s - self.floor_s, LEAST_SLACK * limit_s)
        low, high = 0.0, self.rate_req_per_s
        for _ in range(STEPS):
            middle = (low + high) / 2
            holds = self._late_for_a_place(middle, slack_s) <= share and self._late_at_intake(middle, slack_s) <= share
            low, high = (middle, high) if holds else (low, middle)
        return low

    def _late_for_a_place(self, rate: float, slack_s: float) -> float:
        """M/M/N: the chance to wait for one of the places of the batch longer than `slack_s`."""
        if self.in_service < 1 or rate >= self.rate_req_per_s:
            return 1.0
        residence_s = self.in_service / self.rate_req_per_s  # Little
        offered = rate * residence_s
        return erlang_c(self.in_service, offered) * math.exp(-(self.in_service - offered) * slack_s / residence_s)

    def _late_at_intake(self, rate: float, slack_s: float) -> float:
        """M/D/1: the same for being taken in (prefilled), one after the other."""
        if self.intake_req_per_s is None:
            return 0.0
        if rate >= self.intake_req_per_s:
            return 1.0
        return rate / self.intake_req_per_s * math.exp(-2 * (self.intake_req_per_s - rate) * slack_s)


def erlang_c(places: int, offered: float) -> float:
    """The chance that all `places` are taken, at `offered` places' worth of load below that."""
    if offered >= places:
        return 1.0
    blocked = 1.0
    for taken in range(1, places + 1):
        blocked = offered * blocked / (taken + offered * blocked)
    return blocked / (1 - offered / places * (1 - blocked))
