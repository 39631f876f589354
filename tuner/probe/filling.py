"""How a server is brought to its limit: more in flight as it takes more in, until it takes no more.

The queue kept behind those served stays short. An engine whose KV pool holds a tenth of its nominal cap would otherwise
be left with a queue that takes minutes to empty, and an engine that hides its cap could not be filled at all.
"""

from __future__ import annotations

import math

from tuner.probe.events import ClosedLoop, Command

OVERFILL = 1.15
"""In flight over those served: the next request always waits."""

LEAST_WAITING = 16
"""Requests kept waiting at least: enough for several prefill batches."""

MOST_IN_FLIGHT = 4096

STALE_SHARE = 0.25
"""Full: so many first tokens, as a share of those served at once, came without any more being served at once."""


class Filling:
    """Decides the concurrency of a closed loop while a server fills. `cap` is the engine's own, None: unknown."""

    def __init__(self, cap: int | None) -> None:
        self.concurrency = 0
        self.full = False
        self._cap = cap
        self._most = MOST_IN_FLIGHT if cap is None else math.ceil(cap * OVERFILL)
        self._staggered = 0
        self._tokens = 0
        self._best = 0
        self._best_at = 0

    def first_token(self, in_service: int) -> None:
        """One more request got its first token; `in_service` are being answered now."""
        self._tokens += 1
        if in_service > self._best:
            self._best, self._best_at = in_service, self._tokens
        stale = self._tokens - self._best_at >= max(LEAST_WAITING, STALE_SHARE * self._best)
        self.full = self.full or stale or (self._cap is not None and self._tokens >= self._cap)

    def commands(self, level: int, in_service: int) -> list[Command]:
        """What to send from now on; nothing when that has not changed.

        While the server fills, requests that will be served at once get residual lengths; those beyond the cap will
        wait and live a whole life.
        """
        waiting = max(LEAST_WAITING, math.ceil((OVERFILL - 1) * in_service))
        target = min(in_service + waiting, self._most)
        if target <= self.concurrency:
            return []
        self.concurrency = target
        everyone = ClosedLoop(level, target)
        residual = target if self._cap is None else min(target, self._cap)
        if self.full or residual <= self._staggered:
            return [everyone]
        self._staggered = residual
        first = ClosedLoop(level, residual, stagger=True)
        return [first] if residual == target else [first, everyone]
