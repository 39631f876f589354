"""The trials in flight: hands them to the runtime, collects what became of them, watches each pool's health.

Knows no budget and does not choose; records through the recorder each trial belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tuner.runtime.protocol import Ended, Runtime, Stage
from tuner.space.config import ServingConfig
from tuner.study.events import OnEvent, PoolClosed, TrialStage, TrialStarted
from tuner.study.history import PastTrial
from tuner.study.record import Recorder
from tuner.trial.spec import TrialSpec

# Waits after the 1st, 2nd, ... trial in a row without a usable outcome on one pool: an API outage of a quarter of an
# hour must not end a weekend's search, and a broken pool must not burn through the candidates.
_BACKOFF_S = (0.0, 30.0, 60.0, 120.0, 240.0, 480.0)
IN_A_ROW = len(_BACKOFF_S)
"""So many lost or invalid trials in a row close a pool for this session."""


@dataclass(frozen=True, slots=True)
class Flight:
    """One trial handed to the runtime."""

    recorder: Recorder
    number: int
    spec: TrialSpec
    config: ServingConfig
    origin: str
    confirmation: bool


@dataclass(slots=True)
class PoolHealth:
    """How many trials in a row told nothing, and until when the pool rests."""

    in_a_row: int = 0
    rests_until_s: float = 0.0
    last_reason: str = ""

    @property
    def closed(self) -> bool:
        return self.in_a_row >= IN_A_ROW

    def note(self, trial: PastTrial, now_s: float) -> None:
        """Take one finished trial into account."""
        if trial.counted:
            self.in_a_row, self.rests_until_s = 0, 0.0
            return
        self.in_a_row += 1
        self.rests_until_s = now_s + _BACKOFF_S[min(self.in_a_row, IN_A_ROW) - 1]
        self.last_reason = trial.failure or trial.state


@dataclass
class Floor:
    """Trials in flight and the health of every pool."""

    runtime: Runtime
    on_event: OnEvent
    flights: dict[str, Flight] = field(default_factory=dict)
    pools: dict[str, PoolHealth] = field(default_factory=dict)

    def health(self, pool: str) -> PoolHealth:
        return self.pools.setdefault(pool, PoolHealth())

    def free(self, pool: str) -> int:
        """How many trials may be started on the pool now."""
        health = self.health(pool)
        if health.closed or self.runtime.now_s() < health.rests_until_s:
            return 0
        flying = sum(flight.config.pool == pool for flight in self.flights.values())
        return max(0, self.runtime.slots(pool) - flying)

    def count(self, *, confirmation: bool) -> int:
        return sum(flight.confirmation is confirmation for flight in self.flights.values())

    def start(self, flight: Flight, *, adopted: bool = False) -> None:
        """Hand a committed trial to the runtime; an adopted one already runs there."""
        if not adopted:
            self.runtime.start(flight.spec)
        self.flights[flight.spec.id] = flight
        self.on_event(
            TrialStarted(
                flight.number,
                flight.spec.id,
                flight.config,
                flight.origin,
                flight.spec.attempt,
                flight.confirmation,
                adopted,
            )
        )

    def collect(self, timeout_s: float) -> Sequence[tuple[Flight, PastTrial]]:
        """Wait for something to happen; record every trial that ended, then let the runtime forget it."""
        ended = []
        for notice in self.runtime.poll(timeout_s):
            flight = self.flights.get(notice.trial_id)
            if isinstance(notice, Stage):
                if flight:
                    self._take(flight, notice)
            elif flight is None:
                self.runtime.release(notice.trial_id)
            elif notice.attempt == flight.spec.attempt:
                ended.append((flight, self._land(flight, notice)))
        return ended

    def _take(self, flight: Flight, stage: Stage) -> None:
        """Where it stands is for people; what it has shown is for the trials chosen when others end before it."""
        self.on_event(TrialStage(flight.number, stage.trial_id, stage.text, flight.confirmation))
        shown = stage.capacity_at_most_req_per_s
        if shown is not None and not flight.confirmation and len(self.flights) > 1:
            flight.recorder.note_shown(flight.number, flight.spec, shown)

    def _land(self, flight: Flight, notice: Ended) -> PastTrial:
        trial = flight.recorder.finish(flight.number, flight.spec, notice.result)
        del self.flights[flight.spec.id]
        self.runtime.release(flight.spec.id)
        health = self.health(flight.config.pool)
        was_closed = health.closed
        health.note(trial, self.runtime.now_s())
        if health.closed and not was_closed:
            self.on_event(PoolClosed(flight.config.pool, _closing_reason(health)))
        return trial


def _closing_reason(health: PoolHealth) -> str:
    return f"{health.in_a_row} trials in a row gave nothing usable; the last: {health.last_reason}"
