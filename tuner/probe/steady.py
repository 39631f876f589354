"""One load level held for a duration: a fixed rate or a fixed number in flight. Sans-IO like the capacity search.

Sends for `duration_s`, then waits for what is still being answered. Judges no limits and chooses no rates. A rate held
for a short time from an idle server flatters it: a batch that fills for minutes hides an overload (`CapacitySearch`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tuner.probe.book import GAP_S, Book, Ending
from tuner.probe.events import (
    ClientStalled,
    ClosedLoop,
    Command,
    EngineDied,
    Event,
    Hold,
    OpenLoop,
    RequestRecord,
    Stop,
)
from tuner.probe.level import LevelVerdict
from tuner.probe.measurement import Level
from tuner.probe.outcome import Outcome
from tuner.space.workload import Limits

ANY_ERROR_RATE = Limits(error_rate=1.0)
"""Errors are counted and shown; they end nothing unless everything fails."""


@dataclass(frozen=True, slots=True)
class SteadySettings:
    """Exactly one of `rate_req_per_s` and `concurrency`. `max_duration_s` bounds sending and draining together."""

    duration_s: float
    rate_req_per_s: float | None = None
    concurrency: int | None = None
    max_duration_s: float = 3600.0


class SteadyLoad:
    """Holds one level; `measured` whenever anything was answered."""

    def __init__(self, settings: SteadySettings) -> None:
        if (settings.rate_req_per_s is None) == (settings.concurrency is None):
            raise ValueError("a steady load needs a rate or a number in flight, and not both")
        self.settings = settings
        self.outcome: Outcome | None = None
        self.book = Book(ANY_ERROR_RATE)
        self._step: Callable[[], list[Command]] = list
        self._send_until_s = self._deadline_s = 0.0

    def start(self, now_s: float) -> list[Command]:
        self.book.begin(now_s)
        self._send_until_s = now_s + self.settings.duration_s
        self._deadline_s = now_s + self.settings.max_duration_s
        self._step = self._while_sending
        rate, concurrency = self.settings.rate_req_per_s, self.settings.concurrency
        tally = self.book.open_level(rate_req_per_s=rate, concurrency=concurrency)
        if rate is not None:
            return [OpenLoop(tally.level, rate)]
        assert concurrency is not None
        return [ClosedLoop(tally.level, concurrency)]

    @property
    def ended_levels(self) -> tuple[Level, ...]:
        return self.book.levels(ended=True)

    @property
    def wake_at_s(self) -> float | None:
        if self.outcome is not None:
            return None
        return self._send_until_s if self._step == self._while_sending else self._deadline_s

    @property
    def sent_for_s(self) -> float:
        """Seconds in which requests were sent."""
        return min(self.book.now_s, self._send_until_s) - self.book.start_s

    @property
    def records(self) -> list[RequestRecord]:
        """Every request that ended, in the order they ended."""
        return self.book.flights.records

    def handle(self, event: Event) -> list[Command]:
        if self.outcome is not None:
            return []
        gap_s = self.book.take(event)
        if isinstance(event, EngineDied):
            return self._end(Ending("failed", "the engine died under load", kind="engine_died"))
        if gap_s > GAP_S or isinstance(event, ClientStalled):
            self.book.current.spoil(f"the load client stood still for {max(gap_s, getattr(event, 'for_s', 0.0)):.2f} s")
        if (fault := self.book.fault()) is not None:
            return self._end(fault)
        if self.book.now_s >= self._deadline_s:
            return self._end(self._held(f"{len(self.book.flights.active)} requests were not answered in time"))
        return self._step()

    def interrupt(self, why: str) -> None:
        if self.outcome is None:
            self._end(self._held(why))

    def _while_sending(self) -> list[Command]:
        if self.book.now_s < self._send_until_s:
            return []
        self._step = self._while_draining
        return [Hold(self.book.level), *self._while_draining()]

    def _while_draining(self) -> list[Command]:
        if self.book.flights.active:
            return []
        return self._end(self._held("held for the time asked for"))

    def _held(self, reason: str) -> Ending:
        ended = len([r for r in self.records if r.error is None])
        if not ended:
            return Ending("failed", f"{reason}; no request was answered", kind="undecided")
        rate = self.settings.rate_req_per_s or ended / max(self.sent_for_s, 1e-9)
        return Ending("measured", reason, low=rate, high=rate)

    def _end(self, ending: Ending) -> list[Command]:
        verdict: LevelVerdict = "invalid" if self.book.current.spoilt else "undecided"
        self.book.close_level(verdict)
        self.outcome = self.book.outcome(ending, self.book.current)
        return [Stop()]
