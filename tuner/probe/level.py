"""One load level under test: every request of it against every latency limit, and the backlog alarm.

A first token that is late is known to be late when the limit passes, not when the token comes; a failed request is a
miss of every limit. Knows nothing of how rates are chosen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

from tuner.probe.events import RequestRecord
from tuner.probe.flights import Flight
from tuner.probe.measurement import Level
from tuner.probe.outcome import TtftSample
from tuner.probe.statistics import P95_MISS_SHARE, Sprt, Verdict, quantile
from tuner.space.workload import Limits

LevelVerdict = Literal["holds", "misses", "saturates", "undecided", "invalid"]

WAKE_MARGIN_S = 1e-3
"""A token exactly at the limit is in time: look just after it."""


class LimitTest:
    """One limit's hits and misses in the order the requests were due.

    Rejects on everything known; accepts only on the head of the line where every request is decided, because fast
    requests are known to be fast before slow ones are known to be slow.
    """

    def __init__(self, sprt: Sprt) -> None:
        self._sprt = sprt
        self._place: dict[int, int] = {}
        self._missed: list[bool | None] = []
        self._closed = 0
        self.hits = self.misses = 0
        self._closed_hits = self._closed_misses = 0

    @property
    def decided(self) -> int:
        return self.hits + self.misses

    def expect(self, index: int) -> None:
        self._place[index] = len(self._missed)
        self._missed.append(None)

    def state(self, index: int) -> bool | None:
        """True: missed, False: held, None: not known yet."""
        place = self._place.get(index)
        return None if place is None else self._missed[place]

    def decide(self, index: int, *, missed: bool) -> None:
        """Enter a verdict. A miss stays one; a hit becomes one when the request fails later."""
        place = self._place.get(index)
        if place is None or self._missed[place] is True or self._missed[place] is missed:
            return
        if self._missed[place] is False:
            self._count(place, missed=False, by=-1)
        self._missed[place] = missed
        self._count(place, missed=missed, by=1)
        while self._closed < len(self._missed) and self._missed[self._closed] is not None:
            self._close(missed=self._missed[self._closed] is True, by=1)
            self._closed += 1

    def verdict(self) -> Verdict | None:
        if self._sprt.verdict(self.hits, self.misses) == "reject":
            return "reject"
        return "accept" if self._sprt.verdict(self._closed_hits, self._closed_misses) == "accept" else None

    def _count(self, place: int, *, missed: bool, by: int) -> None:
        if missed:
            self.misses += by
        else:
            self.hits += by
        if place < self._closed:
            self._close(missed=missed, by=by)

    def _close(self, *, missed: bool, by: int) -> None:
        if missed:
            self._closed_misses += by
        else:
            self._closed_hits += by


class LevelTally:
    """The requests due in one level from `count_from_s` on, judged by all limits. Late tokens still fill in figures."""

    def __init__(  # one keyword each for what defines a level
        self,
        level: int,
        start_s: float,
        limits: Limits,
        *,
        rate_req_per_s: float | None = None,
        concurrency: int | None = None,
        count_from_s: float | None = None,
        sprt: Sprt | None = None,
    ) -> None:
        self.level, self.start_s, self.limits = level, start_s, limits
        self.rate_req_per_s, self.concurrency = rate_req_per_s, concurrency
        self.count_from_s = start_s if count_from_s is None else count_from_s
        self.end_s: float | None = None
        self.verdict_word: LevelVerdict = "undecided"
        self.spoilt = ""
        self.capacity_at_most_req_per_s: float | None = None
        """What this level and those before have shown of the capacity."""
        self.fills = False
        """Whether the level only brings the server to a load; nothing is judged by it."""
        sprt = sprt or Sprt()
        self.ttft = LimitTest(sprt)
        self.tpot = LimitTest(sprt) if limits.tpot_p95_ms is not None else None
        self.e2e = LimitTest(sprt) if limits.e2e_p95_s is not None else None
        self.flights: list[Flight] = []
        self._awaits_token: deque[Flight] = deque()
        self._awaits_end: deque[Flight] = deque()

    @property
    def tests(self) -> tuple[LimitTest, ...]:
        return tuple(t for t in (self.ttft, self.tpot, self.e2e) if t is not None)

    def spoil(self, why: str) -> None:
        """The client disturbed this level; the first reason stays."""
        self.spoilt = self.spoilt or why

    def sent(self, flight: Flight) -> None:
        if flight.scheduled_s < self.count_from_s or self.end_s is not None:
            return
        self.flights.append(flight)
        for test in self.tests:
            test.expect(flight.index)
        self._awaits_token.append(flight)
        self._awaits_end.append(flight)

    def first_token(self, flight: Flight) -> None:
        assert flight.first_token_s is not None
        limit = self.limits.ttft_p95_s
        late = limit is not None and flight.first_token_s - flight.scheduled_s > limit
        self.ttft.decide(flight.index, missed=late)

    def finished(self, flight: Flight, record: RequestRecord) -> None:
        if record.error is not None or flight.first_token_s is None:
            for test in self.tests:
                test.decide(flight.index, missed=True)
            return
        self.first_token(flight)
        if self.tpot is not None:
            self.tpot.decide(flight.index, missed=(record.tpot_s or 0.0) * 1e3 > (self.limits.tpot_p95_ms or 0.0))
        if self.e2e is not None:
            self.e2e.decide(flight.index, missed=record.done_s - record.scheduled_s > (self.limits.e2e_p95_s or 0.0))

    def advance(self, now_s: float) -> None:
        """Count as missed whoever has waited beyond a limit by now."""
        if self.limits.ttft_p95_s is not None:
            while self._awaits_token and self._awaits_token[0].scheduled_s + self.limits.ttft_p95_s < now_s:
                flight = self._awaits_token.popleft()
                if flight.first_token_s is None:
                    self.ttft.decide(flight.index, missed=True)
        if self.e2e is not None and self.limits.e2e_p95_s is not None:
            while self._awaits_end and self._awaits_end[0].scheduled_s + self.limits.e2e_p95_s < now_s:
                flight = self._awaits_end.popleft()
                if flight.done_s is None:
                    self.e2e.decide(flight.index, missed=True)

    def next_deadline_s(self) -> float | None:
        """When the next undecided request turns into a miss by waiting."""
        due: list[float] = []
        for line, limit, test in (
            (self._awaits_token, self.limits.ttft_p95_s, self.ttft),
            (self._awaits_end, self.limits.e2e_p95_s, self.e2e),
        ):
            if limit is None or test is None:
                continue
            while line and test.state(line[0].index) is not None:
                line.popleft()
            if line:
                due.append(line[0].scheduled_s + limit + WAKE_MARGIN_S)
        return min(due, default=None)

    def verdict(self) -> Verdict | None:
        """`reject` as soon as one limit rejects, `accept` once all accept."""
        verdicts = [test.verdict() for test in self.tests]
        if "reject" in verdicts:
            return "reject"
        return "accept" if all(v == "accept" for v in verdicts) else None

    @property
    def decided(self) -> int:
        """Requests about which at least the first-token limit is decided."""
        return self.ttft.decided

    @property
    def held(self) -> int:
        """Requests known to keep every limit."""
        return sum(all(t.state(f.index) is False for t in self.tests) for f in self.flights)

    @property
    def missed(self) -> int:
        """Requests known to break a limit."""
        return sum(any(t.state(f.index) is True for t in self.tests) for f in self.flights)

    def samples(self) -> tuple[TtftSample, ...]:
        return tuple(
            TtftSample(f.scheduled_s, None, None)
            if f.first_token_s is None or f.error is not None
            else TtftSample(f.scheduled_s, f.first_token_s - f.scheduled_s, f.first_token_s - f.sent_s)
            for f in self.flights
            if self.ttft.state(f.index) is not None
        )

    def nearest_miss_s(self, now_s: float) -> float | None:
        """p95 of TTFT where a request still without a token counts with the time it has waited so far."""
        ages = [(f.first_token_s or f.done_s or now_s) - f.scheduled_s for f in self.flights]
        return quantile(ages, 1 - P95_MISS_SHARE)

    def report(self, records: Sequence[RequestRecord], now_s: float, origin_s: float) -> Level:
        """The level for people and results; `records` are the whole run's, `origin_s` is when it began."""
        end_s = now_s if self.end_s is None else self.end_s
        ended = [r for r in records if self.start_s <= r.done_s <= end_s and r.error is None]
        tpots = [r.tpot_s * 1e3 for r in records if r.level == self.level and r.error is None and r.tpot_s is not None]
        ttfts = [s.from_scheduled_s if s.from_scheduled_s is not None else float("inf") for s in self.samples()]
        missed = self.missed
        return Level(
            level=self.level,
            kind="closed" if self.rate_req_per_s is None else "open",
            rate_req_per_s=self.rate_req_per_s,
            concurrency=self.concurrency,
            start_s=self.start_s - origin_s,
            duration_s=end_s - self.start_s,
            requests=max(self.decided, missed),
            misses=missed,
            errors=sum(f.error is not None for f in self.flights),
            ttft_p50_s=_finite(quantile(ttfts, 0.5)),
            ttft_p95_s=_finite(quantile(ttfts, 0.95)),
            tpot_p50_ms=quantile(tpots, 0.5),
            tpot_p95_ms=quantile(tpots, 0.95),
            output_tokens_per_s=sum(r.output_tokens for r in ended) / max(end_s - self.start_s, 1e-9),
            verdict=self.verdict_word,
            invalid_reason=self.spoilt if self.verdict_word == "invalid" else "",
            capacity_at_most_req_per_s=self.capacity_at_most_req_per_s,
        )


def _finite(value: float | None) -> float | None:
    return None if value is None or value == float("inf") else value


class BacklogAlarm:
    """Says that a level is hopeless before the limits do: more wait than Little's law allows, or ever more wait."""

    def __init__(self, rate_req_per_s: float, limit_s: float | None, block_s: float, start_s: float) -> None:
        allowed = None if limit_s is None else rate_req_per_s * limit_s
        # Mean waiting = rate x mean wait (Little); three Poisson deviations and a floor keep small rates quiet.
        self._too_many = None if allowed is None else allowed + 3 * allowed**0.5 + 3
        # A backlog this small says nothing about the trend of a queue.
        self._trend_from = 4.0 if allowed is None else max(4.0, 0.25 * allowed)
        self._block_s = block_s
        self._block_end_s = start_s + block_s
        self._low: int | None = None
        self._lows: list[int] = []

    def rings(self, now_s: float, waiting: int) -> bool:
        if self._too_many is not None and waiting >= self._too_many:
            return True
        self._low = waiting if self._low is None else min(self._low, waiting)
        if now_s < self._block_end_s:
            return False
        self._lows.append(self._low)
        self._low = None
        self._block_end_s = now_s + self._block_s
        last = self._lows[-3:]
        return len(last) == 3 and last[0] < last[1] < last[2] and last[2] >= self._trend_from
