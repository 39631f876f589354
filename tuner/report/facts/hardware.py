"""Which hardware for which limit: every pool's cheapest at each TTFT p95 limit, from the stored load levels. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.report.comparing.comparison import Row, limit_rows
from tuner.report.comparing.sides import Named, limits_of, offers_of
from tuner.study.summary import Figures, StudySummary


@dataclass(frozen=True, slots=True)
class Hardware:
    """`cheapest` is each pool's best measured configuration within the study's own limits, the cheapest pool first."""

    pools: tuple[str, ...]
    rows: tuple[Row, ...]
    cheapest: tuple[Figures, ...]


def hardware(summary: StudySummary) -> Hardware:
    """The pools of one study at every limit that its levels can be judged by."""
    named = [Named(summary.study, summary)]
    offers = offers_of(named, "pool", {})
    pools = tuple(dict.fromkeys(offer.side for offer in offers))
    first: dict[str, Figures] = {}
    for f in [f for f in (summary.best, *summary.ranked) if f is not None]:
        if f.standing != "missed":
            first.setdefault(f.pool, f)
    return Hardware(pools, limit_rows(offers, pools, limits_of(named, {})), tuple(first.values()))
