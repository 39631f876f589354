"""The words for where a trial stands that several runtimes use. Pure."""

from __future__ import annotations

from tuner.probe.measurement import Level


def level_text(level: Level) -> str:
    """`level 2.10 req/s: p95 1.20 s, holds`."""
    rate = f"{level.rate_req_per_s:.2f} req/s" if level.rate_req_per_s is not None else f"{level.concurrency} at once"
    p95 = f"p95 {level.ttft_p95_s:.2f} s" if level.ttft_p95_s is not None else "too many without a token"
    return f"level {rate}: {p95}, {level.verdict}"
