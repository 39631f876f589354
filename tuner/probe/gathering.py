"""Lets what a busy server sends within a fraction of a millisecond gather, as network cards do.

Waking up for a block costs more than reading it: half of the client's CPU where every chunk comes alone. So an event
loop that hardly gets to sleep rests before it looks again; what comes meanwhile gets its time stamp late by so much.
Knows no requests.
"""

from __future__ import annotations

import asyncio
import math
import time

LONGEST_REST_S = 0.000_4
"""0.2 % of a TTFT of 0.2 s."""

GAP_SHARE = 0.04
"""So much of the time between two chunks of a stream at most. The p95 of gaps was seen to read 3 % high for it."""

ENOUGH_CHUNKS = 16
"""An answer of fewer says little about the time between chunks."""

BUSY_S = 0.000_1
"""A loop that had nothing to do for longer than this is not busy: it takes blocks as they come, their times exact."""


def rest_s(mean_gap_s: float) -> float:
    """How long to rest where the chunks of a stream come so far apart."""
    return min(LONGEST_REST_S, GAP_SHARE * mean_gap_s)


def rests(idle_s: float, until_due_s: float) -> bool:
    """Whether to rest after so little idleness, with something to be sent in `until_due_s`."""
    return idle_s < BUSY_S and until_due_s > 2 * LONGEST_REST_S


class Gathering:
    """The rests of one event loop. Whoever receives calls `received` unless `noticed` is set."""

    __slots__ = ("_looked_s", "_rest_s", "due_s", "noticed")

    def __init__(self) -> None:
        self._looked_s = 0.0
        self._rest_s = LONGEST_REST_S
        self.due_s = math.inf
        """When something is to be sent: no rest shortly before, nor from then on until this is set anew."""
        self.noticed = False
        """Whether this turn of the loop is known to have received something."""

    def received(self) -> None:
        self.noticed = True
        asyncio.get_running_loop().call_soon(self._rest)

    def answered(self, chunks: int, lasted_s: float) -> None:
        """An answer ended, `lasted_s` after its first chunk: rests are measured by it from now on."""
        if chunks >= ENOUGH_CHUNKS:
            self._rest_s = rest_s(lasted_s / (chunks - 1))

    def _rest(self) -> None:
        self.noticed = False
        now_s = time.perf_counter()
        if rests(now_s - self._looked_s, self.due_s - now_s):
            time.sleep(self._rest_s)  # blocks the loop on purpose
            now_s = time.perf_counter()
        self._looked_s = now_s
