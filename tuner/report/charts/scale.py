"""Numbers onto an axis: a scale that is always finite, and round ticks. Knows no SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps [low, high] onto [start, end]; what lies outside is drawn at the edge. `low` < `high`, both finite."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The coordinate of a value; never NaN."""
        if math.isnan(value):
            return self.start
        clipped = min(self.high, max(self.low, value))
        return self.start + (self.end - self.start) * self._share(clipped)

    def _share(self, value: float) -> float:
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the scale, at most about `count`."""
        return _log_ticks(self.low, self.high, count) if self.logarithmic else _ticks(self.low, self.high, count)


SMALLEST, LARGEST = 1e-12, 1e15


def scale_of(
    values: Iterable[float | None],
    start: float,
    end: float,
    *,
    zero: bool = False,
    logarithmic: bool = False,
    margin: float = 0.06,
) -> Scale:
    """A scale around the finite values: with room at both ends, from 0 on request, of some width in any case."""
    usable = [v for v in values if v is not None and math.isfinite(v) and abs(v) <= LARGEST]
    if logarithmic:
        usable = [v for v in usable if v >= SMALLEST]
    low, high = (min(usable), max(usable)) if usable else (1.0, 10.0)
    if logarithmic:
        room = max(high / low, 1.1) ** margin
        return Scale(low / room, high * room, start, end, logarithmic=True)
    if zero:
        low, high = min(0.0, low), max(0.0, high)
    span = max(high - low, 0.1 * max(abs(high), abs(low)), SMALLEST)
    high = max(high, low + span) if low == high else high
    at_zero = zero and low == 0
    return Scale(low if at_zero else low - margin * span, high + margin * span, start, end)


def _ticks(low: float, high: float, count: int) -> list[float]:
    step = _round_step((high - low) / max(1, count))
    first = math.ceil(low / step - 1e-9)
    found = []
    for i in range(count * 3):
        value = (first + i) * step
        if value > high + 1e-9 * step:
            break
        found.append(round(value, 12 - math.floor(math.log10(step)) if step < 1 else 6))
    return found


def _round_step(raw: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if raw <= factor * power * (1 + 1e-9))


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    """1, 2, 5 times powers of ten; linear ticks where a decade has too few of them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if 3 <= len(found) <= count + 2:
            return found
    return [t for t in _ticks(low, high, count) if t > 0] if high / low < 100 else found[:: max(1, len(found) // count)]


def tick_text(value: float) -> str:
    """`0.5`, `12`, `1,200`, `3.4e-05`; as short as it can be."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
