"""Records of the rate that held -> `Measurement`. Pure; knows no search."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuner.probe.events import RequestRecord
from tuner.probe.measurement import Measurement
from tuner.probe.outcome import Outcome
from tuner.probe.statistics import order_statistic_interval, quantile


def measurement(
    outcome: Outcome, offered_cached_share: float, chunk_gap_p95_s: float | None = None
) -> Measurement | None:
    """The figures at the highest rate that held; None when none did or the sample is too thin to give them.

    Token rates are rate x mean tokens of the requests that ended in the window: at a rate that holds, what goes in
    comes out, while the window itself still drains what the level before it left.
    """
    low, high = outcome.capacity_low_req_per_s, outcome.capacity_high_req_per_s
    good = [r for r in outcome.records if r.error is None]
    ttfts = sorted(s.from_scheduled_s if s.from_scheduled_s is not None else math.inf for s in outcome.ttft)
    p50, p95, p99 = (quantile(ttfts, q) for q in (0.5, 0.95, 0.99))
    if outcome.state != "measured" or low is None or high is None or not good or p95 is None or math.isinf(p95):
        return None
    from_sent = [s.from_sent_s if s.from_sent_s is not None else math.inf for s in outcome.ttft]
    low_rank, high_rank = order_statistic_interval(len(ttfts))
    errors = sum(outcome.errors.values())
    error_rate = errors / outcome.requests if outcome.requests else 0.0
    tpots_ms = [r.tpot_s * 1e3 for r in good if r.tpot_s is not None]
    input_tokens = sum(r.input_tokens for r in good)
    return Measurement(
        capacity_req_per_s=low,
        capacity_high_req_per_s=high,
        output_tokens_per_s=low * _mean([r.output_tokens for r in good]),
        input_tokens_per_s=low * input_tokens / len(good),
        cached_tokens_per_s=low * _mean([r.cached_tokens for r in good]),
        ttft_p50_s=p50 or 0.0,
        ttft_p95_s=p95,
        # The figure must be finite in JSON: where a hundredth of the requests failed, the slowest that did not.
        ttft_p99_s=p99 if p99 is not None and math.isfinite(p99) else max(t for t in ttfts if math.isfinite(t)),
        ttft_p95_low_s=_at_rank(ttfts, low_rank),
        ttft_p95_high_s=_at_rank(ttfts, high_rank),
        ttft_from_send_p95_s=_finite(quantile(from_sent, 0.95)) or p95,
        tpot_p50_ms=quantile(tpots_ms, 0.5),
        tpot_p95_ms=quantile(tpots_ms, 0.95),
        e2e_p95_s=quantile([r.done_s - r.scheduled_s for r in good], 0.95),
        chunk_gap_p95_ms=None if chunk_gap_p95_s is None else chunk_gap_p95_s * 1e3,
        error_rate=error_rate,
        offered_cached_share=offered_cached_share,
        achieved_cached_share=achieved_cached_share(good),
        samples=len(ttfts),
    )


def achieved_cached_share(records: Sequence[RequestRecord]) -> float:
    """Cached share of all input tokens of successful requests, as the server counted them."""
    good = [r for r in records if r.error is None]
    total = sum(r.input_tokens for r in good)
    return sum(r.cached_tokens for r in good) / total if total else 0.0


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)


def _at_rank(ordered: Sequence[float], rank: int | None) -> float | None:
    return None if rank is None else _finite(ordered[rank - 1])


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
