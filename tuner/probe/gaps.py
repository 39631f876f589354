"""Gaps between the chunks of all answers of a level, counted in slots. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tuner.probe.sse import GAP_SLOTS_PER_S


def gap_quantile_s(gaps: Mapping[int, int], q: float) -> float | None:
    """Nearest-rank quantile of counted gaps, None for none; exact to half a slot (25 microseconds)."""
    total = sum(gaps.values())
    if not total:
        return None
    rank = max(1, math.ceil(q * total - 1e-9))
    seen = 0
    for slot in sorted(gaps):
        seen += gaps[slot]
        if seen >= rank:
            break
    return (slot + 0.5) / GAP_SLOTS_PER_S
