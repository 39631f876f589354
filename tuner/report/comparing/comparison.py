"""Sides against each other: cost at each limit, throughput and cost ratio, where prices or limits turn the order. Pure.

cost ratio = price ratio / throughput ratio; the order turns where the price ratio equals the throughput ratio
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuner.report.comparing.evidence import breakpoints
from tuner.report.comparing.offers import Decision, Offer, decide

KEY = "ttft_p95_s"
_ROUND = (0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Against:
    """One side against the reference at the asked limits; all are ratios side / reference."""

    side: str
    reference: str
    throughput_ratio: float
    price_ratio: float
    cost_ratio: float

    @property
    def order_turns_at_price_ratio(self) -> float:
        """Below this price ratio the side is the cheaper one."""
        return self.throughput_ratio


@dataclass(frozen=True, slots=True)
class Crossover:
    """From `limit_s` on (TTFT p95) `cheaper` is the cheapest side, below it `before` is.

    Not `sure`: something undecided of another side could still change that.
    """

    limit_s: float
    before: str
    cheaper: str
    sure: bool


@dataclass(frozen=True, slots=True)
class Row:
    """Every side's own decision at one TTFT limit."""

    limit_s: float
    best: Mapping[str, Decision]

    @property
    def costs(self) -> dict[str, float]:
        """What was shown, of the sides that hold the limit."""
        return {side: d.winner.cost for side, d in self.best.items() if d.winner is not None and d.winner.cost}

    def is_sure(self, side: str) -> bool:
        """Whether nothing undecided of any other side could be cheaper than this one."""
        cost = self.costs.get(side, math.inf)
        return all(d.least >= cost for other, d in self.best.items() if other != side)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`decision` is over all sides together, at the asked limits."""

    sides: tuple[str, ...]
    limits: Mapping[str, float]
    rows: tuple[Row, ...]
    at_limits: Mapping[str, Decision]
    against: tuple[Against, ...]
    crossovers: tuple[Crossover, ...]
    decision: Decision


def compare(offers: Sequence[Offer], limits: Mapping[str, float]) -> Comparison:
    """All sides at the asked limits, and over every TTFT limit the stored levels tell apart."""
    sides = tuple(dict.fromkeys(offer.side for offer in offers))
    at_limits = _best(offers, sides, limits)
    points = sorted({b for offer in offers for b in breakpoints(offer.evidence, KEY)} | {limits.get(KEY, math.inf)})
    points = [p for p in points if math.isfinite(p)]
    rows = tuple(Row(at, _best(offers, sides, {**limits, KEY: at})) for at in points)
    return Comparison(
        sides,
        limits,
        limit_rows(offers, sides, limits),
        at_limits,
        _against(sides, at_limits),
        _crossovers(rows),
        decide(offers, limits),
    )


def _best(offers: Sequence[Offer], sides: Sequence[str], limits: Mapping[str, float]) -> dict[str, Decision]:
    return {side: decide([o for o in offers if o.side == side], limits) for side in sides}


def limit_rows(offers: Sequence[Offer], sides: Sequence[str], limits: Mapping[str, float]) -> tuple[Row, ...]:
    """Round limits between the tightest that anything was shown to hold and the loosest asked or tuned for."""
    own = [float(value) for o in offers for t in o.evidence.trials if (value := (t.spec.get("limits") or {}).get(KEY))]
    named = {*own, *([limits[KEY]] if KEY in limits else [])}
    if not offers or not named:
        return ()
    rows = [Row(at, _best(offers, sides, {**limits, KEY: at})) for at in sorted({*_ROUND, *named}) if at <= max(named)]
    first = next((i for i, row in enumerate(rows) if row.costs), len(rows))
    return tuple(row for i, row in enumerate(rows) if i >= first or row.limit_s in named)


def _against(sides: Sequence[str], best: Mapping[str, Decision]) -> tuple[Against, ...]:
    """Every side against the first that holds the limits at all."""
    standing = [side for side in sides if best[side].winner is not None]
    found = []
    for side in standing[1:]:
        ours, theirs = best[side].winner, best[standing[0]].winner
        assert ours is not None
        assert theirs is not None
        found.append(
            against(
                side,
                standing[0],
                (ours.output_tokens_per_s, ours.offer.usd_per_hour),
                (theirs.output_tokens_per_s, theirs.offer.usd_per_hour),
                cost_ratio=(ours.cost or 0.0) / (theirs.cost or 1.0),
            )
        )
    return tuple(found)


def against(
    side: str,
    reference: str,
    ours: tuple[float, float],
    theirs: tuple[float, float],
    cost_ratio: float | None = None,
) -> Against:
    """The arithmetic: (output tokens per second, USD per hour) of either; without a cost ratio the one they imply."""
    throughput, price = ours[0] / theirs[0], ours[1] / theirs[1]
    return Against(side, reference, throughput, price, price / throughput if cost_ratio is None else cost_ratio)


def _crossovers(rows: Sequence[Row]) -> tuple[Crossover, ...]:
    """Where another side becomes the cheapest as the limit is relaxed, among limits at which two sides hold."""
    found: list[Crossover] = []
    leader: str | None = None
    former: Row | None = None
    for row in rows:
        costs = row.costs
        if len(costs) < 2:
            continue
        cheapest = min(costs, key=lambda side: costs[side])
        if leader is not None and former is not None and costs[cheapest] < costs.get(leader, math.inf):
            sure = former.is_sure(leader) and row.is_sure(cheapest)
            found.append(Crossover(row.limit_s, leader, cheapest, sure))
        leader = cheapest if leader is None or costs[cheapest] < costs.get(leader, math.inf) else leader
        former = row
    return tuple(found)
