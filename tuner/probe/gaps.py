"""Times of the chunks of an answer, and the gaps between those of all answers of a level, counted in slots. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import repeat
from operator import mul, sub

GAP_SLOTS_PER_S = 20_000
"""Gaps between chunks are counted in slots of 50 microseconds: a list of them all would grow by 40,000 a second."""

FOLDED_AT_ONCE = 256
"""So many times wait until they are counted: long enough to count cheaply, short enough not to hold up the loop."""


class ChunkTimes:
    """When the chunks of one answer came. Noting one costs an append; the gaps are counted later, many at once."""

    __slots__ = ("_counted", "_gaps", "_max_gap_s", "waiting")

    def __init__(self, gaps: Counter[int]) -> None:
        """`gaps` is shared by all answers of a level."""
        self._gaps = gaps
        self._counted = 0
        self._max_gap_s = 0.0
        self.waiting: list[float] = []
        """Times are appended here, `fold` called when they are more than `FOLDED_AT_ONCE`, and once at the end."""

    def __len__(self) -> int:
        return self._counted + len(self.waiting)

    @property
    def last_s(self) -> float | None:
        return self.waiting[-1] if self.waiting else None

    @property
    def max_gap_s(self) -> float:
        self.fold()
        return self._max_gap_s

    def fold(self) -> None:
        """Count the gaps that wait; the last time stays, as the begin of the next gap."""
        times = self.waiting
        gaps_s = list(map(sub, times[1:], times))
        if not gaps_s:
            return
        self._max_gap_s = max(self._max_gap_s, *gaps_s)
        self._gaps.update(map(int, map(mul, gaps_s, repeat(GAP_SLOTS_PER_S))))
        self._counted += len(gaps_s)
        del times[:-1]


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
