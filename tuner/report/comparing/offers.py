"""Configurations of one or several studies at given prices: their costs at any limit, and which of them wins.

Each has a value (a rate was shown to hold), or only a bound (it can cost no less). Where a bound could beat the winner
the answer is undecided. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuner.report.comparing.evidence import Evidence, capacity_at
from tuner.space.workload import Workload
from tuner.study.problem import TokenWeights
from tuner.study.score import paid_tokens_per_request, usd_per_million


@dataclass(frozen=True, slots=True)
class Offer:
    """One configuration: of which side and study, at which price, worth how many paid tokens."""

    side: str
    study: str
    trial: int
    label: str
    evidence: Evidence
    usd_per_hour: float
    guard: float
    paid_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class Scored:
    """An offer at some limits. `cost` (USD per million) is None where nothing was shown to hold; `least` bounds it.

    `confirmed`: confirmation runs held this very rate under these limits or tighter ones.
    """

    offer: Offer
    rate_req_per_s: float | None
    cost: float | None
    least: float
    settled: bool
    confirmed: bool

    @property
    def output_tokens_per_s(self) -> float:
        return (self.rate_req_per_s or 0.0) * self.offer.output_tokens


@dataclass(frozen=True, slots=True)
class Decision:
    """`undecided` could beat the winner; without a winner they are all that might serve at all."""

    limits: Mapping[str, float]
    winner: Scored | None
    ranked: tuple[Scored, ...]
    undecided: tuple[Scored, ...]

    @property
    def least(self) -> float:
        """The lowest cost that is still possible; infinite when nothing can hold the limits."""
        shown = math.inf if self.winner is None or self.winner.cost is None else self.winner.cost
        return min([shown, *(s.least for s in self.undecided)])


def scored(offer: Offer, limits: Mapping[str, float]) -> Scored:
    """The offer's cost at these limits, run at the guarded rate."""
    capacity, refuted = capacity_at(offer.evidence, limits), offer.evidence.refuted_at(limits)
    run_at = 1 - offer.guard
    rate = None if capacity.low is None or refuted else run_at * capacity.low
    cost = None if not rate else usd_per_million(offer.usd_per_hour, rate, offer.paid_tokens)
    least = (
        0.0
        if math.isinf(capacity.high)
        else usd_per_million(offer.usd_per_hour, run_at * capacity.high, offer.paid_tokens)
    )
    confirmed = bool(rate) and offer.evidence.confirmed_at(limits, rate or 0.0)
    return Scored(offer, rate, cost, least, capacity.settled or refuted, confirmed)


def decide(offers: Sequence[Offer], limits: Mapping[str, float]) -> Decision:
    """Who wins at these limits, and who might."""
    everyone = [scored(offer, limits) for offer in offers]
    ranked = sorted((s for s in everyone if s.cost is not None), key=lambda s: (s.cost or 0.0, s.offer.trial))
    winner = ranked[0] if ranked else None
    to_beat = math.inf if winner is None else winner.cost or math.inf
    undecided = [s for s in everyone if s is not winner and not s.settled and s.least < to_beat]
    if undecided and winner is not None and not winner.settled:
        undecided.append(winner)  # a figure of another limit beside new ones would lose for being old
    return Decision(limits, winner, tuple(ranked), tuple(sorted(undecided, key=lambda s: (s.least, s.offer.trial))))


def paid_tokens(workload: Mapping[str, object] | None, weights: Mapping[str, float]) -> tuple[float, float]:
    """(paid tokens, output tokens) of a mean request."""
    if not workload:
        return 0.0, 0.0
    traffic = Workload.from_json(workload)
    mean = traffic.output_tokens.mean_tokens
    return paid_tokens_per_request(TokenWeights(**weights), traffic, mean), mean
