"""Which rate to try next: down from saturation until one holds, then geometric bisection. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

STEP_DOWN = 0.92
"""First step below a rate that missed; every further miss squares it, so a capacity far below is reached soon."""

STEP_UP = 1.08
FLOOR_AFTER_MISSES = 3
MARGIN_OVER_INCUMBENT = 1.02


@dataclass(slots=True)
class Ladder:
    """Rates tried so far, in requests per second. `low` held, `high` missed (or is the saturated throughput).

    `ceiling` is the rate at which bursts alone would break the limit (`tuner.probe.staffing`): the first one tried.
    """

    saturation: float
    tolerance: float
    incumbent: float | None = None
    guess: float | None = None
    floor: float = 0.0
    ceiling: float | None = None
    low: float | None = None
    high: float | None = None
    at_floor: bool = False
    _misses: int = field(default=0)
    _floor_done: bool = field(default=False)

    def first(self) -> float:
        below = self.saturation / (1 + self.tolerance)
        if self.ceiling is None:
            return below
        at_ceiling = self.ceiling * (1 + self.tolerance / 4)
        # A rate that does not beat the incumbent is not worth a level.
        worth = at_ceiling if self.incumbent is None else max(at_ceiling, self.incumbent * MARGIN_OVER_INCUMBENT)
        return max(self.floor, min(below, worth))

    @property
    def cannot_win(self) -> bool:
        return (
            self.incumbent is not None and self.high is not None and self.high <= self.incumbent * MARGIN_OVER_INCUMBENT
        )

    def held(self, rate: float, *, slack: bool) -> float | None:
        """The rate after one that held; None: the search is over. `slack`: the server was far from full at it."""
        self.low = rate if self.low is None else max(self.low, rate)
        if self.high is None and self.ceiling is not None and rate >= self.ceiling * (1 - 1e-9):
            self.high = min(self.saturation, self.ceiling) * (1 + self.tolerance)
        elif self.high is None:
            # The saturated throughput is a limit only if the server is nearly full just below it; bursts always are.
            if slack and (self.ceiling is None or rate * STEP_UP < self.ceiling):
                return rate * STEP_UP
            self.high = max(self.saturation, rate * (1 + self.tolerance))
        return self._between()

    def missed(self, rate: float) -> float | None:
        """The rate after one that missed; None: the search is over."""
        self.high = rate if self.high is None else min(self.high, rate)
        if self.cannot_win:
            return None
        if self.low is not None:
            return self._between()
        self._misses += 1
        if self._misses == FLOOR_AFTER_MISSES and not self._floor_done:
            self.at_floor = True
            return self.floor
        return self._down(rate)

    def floor_held(self) -> float | None:
        """One request at a time holds the limits: go on down."""
        assert self.high is not None
        self.at_floor, self._floor_done = False, True
        return self._down(self.high)

    def _down(self, rate: float) -> float | None:
        if rate <= self.floor * (1 + self.tolerance):
            return None
        below = max(self.floor, rate * math.pow(STEP_DOWN, 2 ** (self._misses - 1)))
        if self.guess is not None and self.guess < below:
            # Rates that miss are found out in seconds, rates that hold take a residence time: never leap far.
            below = max(self.guess * (1 + self.tolerance), min(below, rate / 2), self.floor)
        if self.incumbent is not None and below < self.incumbent * MARGIN_OVER_INCUMBENT < rate:
            return self.incumbent * MARGIN_OVER_INCUMBENT
        return below

    def _between(self) -> float | None:
        assert self.low is not None
        assert self.high is not None
        if self.high <= self.low * (1 + self.tolerance) * (1 + 1e-9):
            return None
        return math.sqrt(self.low * self.high)
