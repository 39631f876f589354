"""The throughput limit of a server kept full: requests per second over one whole residence time.

Over exactly one residence time every slot turns over once, so waves of requests that
started together cancel. Knows nothing of limits.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from statistics import median

from tuner.probe.events import RequestRecord
from tuner.probe.filling import Filling
from tuner.probe.staffing import FullServer

MIN_ADMISSIONS = 8
"""Fewer requests say nothing about a rate."""

ENOUGH_STEADY = 3
"""Answers begun on the full server and ended, to know how long one takes. With fixed lengths the first of them end one
residence time after the server was full, which is when they are needed."""

MAX_WINDOWS = 2.0

INTAKE_WINDOW = 16
"""First tokens over which the fastest intake is taken: one prefill batch or step is shorter."""

SAME_BATCH = 0.25
"""First tokens closer than this share of the mean distance came from one batch."""

STILL_GROWING = 0.9
"""Fewer completions than this share of what was taken in: the batch has not stopped growing."""

EARLY_SHARE = 0.6
EARLY_SLACK = 1.15
"""From 0.6 of the window on the rate is known to 15 % (cohort waves are not yet averaged out)."""


def fastest_intake(first_tokens_s: Sequence[float]) -> float | None:
    """Requests per second that were taken in at the best; None: too few, or all of them at once.

    A span begins with the last first token of its batch: from the first one on, the batch itself would count as taken
    in within no time (12 % too fast for batches of two and three).
    """
    times = first_tokens_s
    spans_s = [
        later - sooner
        for sooner, following, later in zip(times, times[1:], times[INTAKE_WINDOW:], strict=False)
        if following - sooner > SAME_BATCH * (later - sooner) / INTAKE_WINDOW
    ]
    fastest_s = min(spans_s, default=0.0)
    return INTAKE_WINDOW / fastest_s if fastest_s > 0 else None


class Saturation:
    """Watches one closed loop from the moment its server is full.

    The rate is the mean of what was taken in and what was completed. On a server whose batch is full the two agree; on
    one whose batch still grows the first is too high (a small batch is fast) and the second too low.
    """

    def __init__(self, filling: Filling, mean_output_tokens: float, min_s: float) -> None:
        self.filling = filling
        self.filled_s: float | None = None
        self._mean_output_tokens = mean_output_tokens
        self._min_s = min_s
        self._filling_s: list[float] = []
        self._floor_s = math.inf
        self._admitted_s: list[float] = []
        self._completed_s: list[float] = []
        self._early: list[RequestRecord] = []
        self._steady: list[RequestRecord] = []

    def first_token(self, at_s: float, in_service: int, waited_s: float = math.inf) -> None:
        self.filling.first_token(in_service)
        self._floor_s = min(self._floor_s, waited_s)
        if self.filled_s is None:
            self._filling_s.append(at_s)
        if self.filled_s is not None:
            self._admitted_s.append(at_s)
        elif self.filling.full:
            self.filled_s = at_s

    def finished(self, record: RequestRecord) -> None:
        if record.error is not None or record.first_token_s is None or self.filled_s is None:
            return
        self._completed_s.append(record.done_s)
        began_full = record.first_token_s >= self.filled_s
        (self._steady if began_full else self._early).append(record)

    def full_server(self, now_s: float, in_service: int) -> FullServer:
        """What was seen, for the arithmetic of queues."""
        floor_s = self._floor_s if math.isfinite(self._floor_s) else 0.0
        return FullServer(in_service, self.rate(now_s), fastest_intake(self._filling_s), floor_s)

    def restart(self, now_s: float) -> None:
        """Forget what was counted (the clock jumped): a new window begins now."""
        if self.filled_s is not None:
            self.filled_s = now_s
        self._admitted_s.clear()
        self._completed_s.clear()

    @property
    def residence_s(self) -> float | None:
        """Seconds a mean answer takes from its first token to its end on the full server; None: not known yet.

        Time per token x mean length, not the mean of what has ended: short answers end first.
        """
        if len(self._steady) < min(ENOUGH_STEADY, self.filling.concurrency):
            return None
        return self._residence_s([r.tpot_s for r in self._steady if r.tpot_s is not None], self._steady)

    @property
    def _expected_s(self) -> float | None:
        """The same, guessed from answers that began while the server filled.

        Their time per token holds the stalls of filling, so the guess is long rather than short.
        """
        if len(self._early) < MIN_ADMISSIONS:
            return None
        return self._residence_s([r.tpot_s for r in self._early if r.tpot_s is not None], self._early)

    def _residence_s(self, tpots_s: list[float], records: list[RequestRecord]) -> float:
        if tpots_s:
            return median(tpots_s) * max(0.0, self._mean_output_tokens - 1)
        return median(r.done_s - (r.first_token_s or r.done_s) for r in records)

    def done(self, now_s: float) -> bool:
        """Whether one residence time of the full server has been watched; up to twice that while its batch grows."""
        progress = self._progress(now_s, self.residence_s)
        return progress >= MAX_WINDOWS or (progress >= 1.0 and not self._growing(now_s))

    def _progress(self, now_s: float, residence_s: float | None) -> float:
        if self.filled_s is None or residence_s is None or len(self._admitted_s) < MIN_ADMISSIONS:
            return 0.0
        return (now_s - self.filled_s) / max(residence_s, self._min_s)

    def rate(self, now_s: float) -> float:
        """Requests per second through the full server, over the last residence time."""
        admitted, completed, window_s = self._through(now_s)
        return (admitted + completed) / 2 / window_s

    def _growing(self, now_s: float) -> bool:
        admitted, completed, _ = self._through(now_s)
        return completed < STILL_GROWING * admitted

    def _through(self, now_s: float) -> tuple[int, int, float]:
        """First tokens, completions and length of the last window."""
        assert self.filled_s is not None
        window_s = now_s - self.filled_s
        if self.residence_s is not None:
            window_s = min(window_s, max(self.residence_s, self._min_s))
        since_s = now_s - window_s
        admitted = len(self._admitted_s) - bisect_right(self._admitted_s, since_s)
        completed = len(self._completed_s) - bisect_right(self._completed_s, since_s)
        return admitted, completed, max(window_s, 1e-9)

    def upper_bound(self, now_s: float) -> float | None:
        """A rate the server will not reach, once enough has been seen; None before."""
        if self._progress(now_s, self._expected_s) < EARLY_SHARE:
            return None
        return self.rate(now_s) * EARLY_SLACK
