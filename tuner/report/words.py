"""Numbers as people read them: money, seconds, durations, counts. Pure."""

from __future__ import annotations


def money(usd: float | None) -> str:
    """`$1.23`; four significant digits below one dollar."""
    if usd is None:
        return "-"
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4g}"


def seconds(value: float | None) -> str:
    """`0.62 s`, `12.3 s`; a dash where nothing was measured."""
    return "-" if value is None else f"{value:.3g} s"


def duration(value_s: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if value_s < 90:
        return f"{value_s:.0f} s"
    if value_s < 5400:
        return f"{value_s / 60:.0f} min"
    return f"{value_s / 3600:.1f} h"


def rate(req_per_s: float | None) -> str:
    """`2.41 req/s`."""
    return "-" if req_per_s is None else f"{req_per_s:.3g} req/s"
