"""The ledger of requests in flight, kept from a driver's events: who waits, who is served, what ended how.

Judges nothing; `level` and `saturation` do. Clock: the driver's, never backwards.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tuner.probe.events import EngineDied, Event, Finished, FirstToken, RequestRecord, Sent

ENGINE_DIED = "engine_died"


@dataclass(slots=True)
class Flight:
    """One request as far as it is known."""

    index: int
    level: int
    scheduled_s: float
    sent_s: float
    first_token_s: float | None = None
    done_s: float | None = None
    error: str | None = None

    @property
    def waits(self) -> bool:
        return self.first_token_s is None and self.done_s is None


class Flights:
    """All requests of a search, by index; `active` are those not ended."""

    def __init__(self) -> None:
        self.active: dict[int, Flight] = {}
        self.sent = 0
        self.waiting = 0
        self.any_token = False
        self.records: list[RequestRecord] = []
        self.errors: Counter[str] = Counter()
        self.progress_s: float | None = None

    @property
    def in_service(self) -> int:
        """Requests that have their first token and are still being answered."""
        return len(self.active) - self.waiting

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    def take(self, event: Event) -> Flight | None:
        """Enter one event; the flight it concerns (None for ticks and strays)."""
        if isinstance(event, Sent):
            return self._sent(event)
        if isinstance(event, FirstToken):
            return self._first_token(event.index, event.at_s)
        if isinstance(event, Finished):
            return self._finished(event.record)
        if isinstance(event, EngineDied):
            self._lost(event.at_s)
        return None

    def _sent(self, event: Sent) -> Flight:
        flight = Flight(event.index, event.level, event.scheduled_s, event.at_s)
        self.active[event.index] = flight
        self.sent += 1
        self.waiting += 1
        if self.progress_s is None:
            self.progress_s = event.at_s
        return flight

    def _first_token(self, index: int, at_s: float) -> Flight | None:
        flight = self.active.get(index)
        if flight is None or not flight.waits:
            return None
        flight.first_token_s = at_s
        self.any_token = True
        self.waiting -= 1
        self.progress_s = at_s
        return flight

    def _lost(self, at_s: float) -> None:
        """Whatever was under way when the engine died has failed."""
        for flight in list(self.active.values()):
            times = flight.scheduled_s, flight.sent_s, flight.first_token_s, at_s
            self._finished(RequestRecord(flight.index, flight.level, *times, 0, 0, 0, error=ENGINE_DIED))

    def _finished(self, record: RequestRecord) -> Flight | None:
        flight = self.active.pop(record.index, None)
        if flight is None:
            return None
        if flight.waits:
            self.waiting -= 1
            flight.first_token_s = record.first_token_s
            self.any_token = self.any_token or record.first_token_s is not None
        flight.done_s, flight.error = record.done_s, record.error
        self.records.append(record)
        self.progress_s = record.done_s
        if record.error is not None:
            self.errors[record.error] += 1
        return flight
