"""What every kind of load run keeps and checks: flights, levels, and the faults that end any run.

Shared by the capacity search and the confirmation; chooses no rates.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuner.probe.events import Event, Finished, FirstToken, Sent
from tuner.probe.flights import Flight, Flights
from tuner.probe.level import LevelTally, LevelVerdict
from tuner.probe.measurement import Level
from tuner.probe.outcome import Outcome, State
from tuner.probe.saturation import Saturation
from tuner.probe.statistics import binomial_upper_tail
from tuner.space.workload import Limits

GAP_S = 10.0
"""Drivers tick every second: a longer gap means this process slept, and what it saw of that time is void."""

STALL_S = 300.0
"""Requests wait, none is served, and nothing happens for so long: a hang."""

ENOUGH_TO_JUDGE_ERRORS = 20

ERRORS_DAMN = 1e-4
"""Chance of so many errors at the permitted rate below which a run is ended early."""

ERRORS_FAIL = 0.05
"""The same at a run's end, for the verdict."""

REFUSED = "http_503"
"""A full queue turning requests away is a miss of that level, not a fault of the trial: overload is what we provoke."""


def error_rate_exceeded(failed: int, requests: int, limits: Limits, chance: float = ERRORS_FAIL) -> bool:
    """Whether so many failures of so many requests contradict the permitted error rate.

    A binomial tail: one failure in 60 does not contradict a limit of 0.5 %.
    """
    return failed > 0 and binomial_upper_tail(failed, requests, limits.error_rate) < chance


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ends. `bound` is a rate above the capacity."""

    state: State
    reason: str
    kind: str = ""
    bound: float | None = None
    low: float | None = None
    high: float | None = None
    saturation: float | None = None


class Book:
    """Flights and levels of one run, fed with every event."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.flights = Flights()
        self.tallies: list[LevelTally] = []
        self.saturation: Saturation | None = None
        self.start_s = self.now_s = 0.0

    def begin(self, now_s: float) -> None:
        self.start_s = self.now_s = now_s

    @property
    def level(self) -> int:
        return len(self.tallies) - 1

    @property
    def current(self) -> LevelTally:
        return self.tallies[-1]

    def open_level(
        self,
        *,
        rate_req_per_s: float | None = None,
        concurrency: int | None = None,
        discard_s: float = 0.0,
    ) -> LevelTally:
        """A new level from now on; requests due in its first `discard_s` are not judged."""
        self.tallies.append(
            LevelTally(
                len(self.tallies),
                self.now_s,
                self.limits,
                rate_req_per_s=rate_req_per_s,
                concurrency=concurrency,
                count_from_s=self.now_s + discard_s,
            )
        )
        return self.current

    def close_level(self, verdict: LevelVerdict) -> None:
        self.current.end_s, self.current.verdict_word = self.now_s, verdict

    def take(self, event: Event) -> float:
        """Enter an event; seconds since the one before (never negative: the clock here does not go back)."""
        gap_s = max(0.0, event.at_s - self.now_s)
        self.now_s += gap_s
        flight = self.flights.take(event)
        if flight is not None and 0 <= flight.level < len(self.tallies):
            self._tell(self.tallies[flight.level], event, flight)
        if self.tallies:
            self.current.advance(self.now_s)
        return gap_s

    def _tell(self, tally: LevelTally, event: Event, flight: Flight) -> None:
        if isinstance(event, Sent):
            tally.sent(flight)
        elif isinstance(event, FirstToken):
            tally.first_token(flight)
            if self.saturation is not None:
                self.saturation.first_token(event.at_s, self.flights.in_service, event.at_s - flight.sent_s)
        elif isinstance(event, Finished):
            tally.finished(flight, event.record)
            if self.saturation is not None:
                self.saturation.finished(event.record)

    def forgive(self) -> None:
        """The process slept: what the engine did meanwhile is unknown."""
        self.flights.progress_s = self.now_s
        if self.saturation is not None:
            self.saturation.restart(self.now_s)

    def fault(self) -> Ending | None:
        """What ends any run at once: everything fails, far too much fails, or nothing moves."""
        flights = self.flights
        failed = flights.failed
        if failed >= ENOUGH_TO_JUDGE_ERRORS and not flights.any_token and 2 * failed >= flights.sent:
            word = flights.errors.most_common(1)[0][0]
            return Ending("failed", f"all {failed} requests that ended failed, most with {word}", kind="all_failed")
        # Of all sent, not of all ended: failures end at once, answers take their time.
        enough = flights.any_token and flights.sent >= ENOUGH_TO_JUDGE_ERRORS
        if enough and error_rate_exceeded(self.faults, flights.sent, self.limits, ERRORS_DAMN):
            return Ending("infeasible", self._error_text(), kind="error_rate")
        since_s = flights.progress_s
        # While something is being answered its tokens are on their way unseen: the client's own timer watches those.
        if flights.waiting and not flights.in_service and since_s is not None and self.now_s - since_s > STALL_S:
            text = f"no token for {self.now_s - since_s:.0f} s with {flights.waiting} requests waiting"
            return Ending("failed", text, kind="hang")
        return None

    @property
    def faults(self) -> int:
        """Failed requests that the engine is to blame for: all but those refused because we overloaded it."""
        return self.flights.failed - self.flights.errors[REFUSED]

    def _error_text(self) -> str:
        words = ", ".join(f"{n} x {word}" for word, n in self.flights.errors.most_common(3))
        share = f"permitted: {self.limits.error_rate:.2%}"
        return f"{self.faults} of {self.flights.sent} requests failed ({words}); {share}"

    def outcome(self, ending: Ending, shown: LevelTally | None) -> Outcome:
        """The run's outcome; `shown` is the level its figures come from."""
        if ending.state == "measured" and error_rate_exceeded(self.faults, self.flights.sent, self.limits):
            ending = Ending("infeasible", self._error_text(), kind="error_rate", saturation=ending.saturation)
        start_s, end_s = (shown.start_s, shown.end_s or self.now_s) if shown else (self.start_s, self.now_s)
        used = tuple(r for r in self.flights.records if start_s <= r.done_s <= end_s) if shown else ()
        return Outcome(
            state=ending.state,
            reason=ending.reason,
            kind=ending.kind,
            capacity_low_req_per_s=ending.low if ending.state == "measured" else None,
            capacity_high_req_per_s=ending.high if ending.state == "measured" else None,
            bound_req_per_s=ending.bound,
            saturation_req_per_s=ending.saturation,
            nearest_miss_ttft_p95_s=self._nearest_miss_s(),
            levels=self.levels(),
            ttft=shown.samples() if shown else (),
            records=used,
            window_start_s=start_s,
            window_end_s=end_s,
            requests=self.flights.sent,
            errors=dict(self.flights.errors),
            duration_s=self.now_s - self.start_s,
            shown_level=shown.level if shown else -1,
        )

    def levels(self, *, ended: bool = False) -> tuple[Level, ...]:
        """Levels that say something (not those that only fill the server); `ended`: without the one under way."""
        telling = (t for t in self.tallies if not t.fills or t.verdict_word == "saturates")
        return tuple(
            t.report(self.flights.records, self.now_s, self.start_s)
            for t in telling
            if t.end_s is not None or not ended
        )

    def _nearest_miss_s(self) -> float | None:
        missed = [t for t in self.tallies if t.verdict_word in ("misses", "saturates") and not t.fills]
        return min((p95 for t in missed if (p95 := t.nearest_miss_s(self.now_s)) is not None), default=None)
