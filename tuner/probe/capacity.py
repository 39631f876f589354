"""The search for the highest request rate whose limits hold, as a pure object: events in, commands out.

It fills the server first and tests from above: a level that starts from an empty server looks good for as long as the
server takes to fill. Phases: saturate -> (refill ->) settle -> level -> ... -> outcome. `CapacitySearch` knows no
sockets, no engine and no clock but the events' own; asyncio and virtual time drive the same code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from tuner.probe.book import GAP_S, Book, Ending
from tuner.probe.events import ClientStalled, ClosedLoop, Command, EngineDied, Event, Hold, OpenLoop, Stop
from tuner.probe.filling import Filling
from tuner.probe.ladder import Ladder
from tuner.probe.level import BacklogAlarm, LevelTally, LevelVerdict
from tuner.probe.measurement import Level
from tuner.probe.outcome import Outcome, ProbeSettings, Search
from tuner.probe.saturation import Saturation

__all__ = ["CapacitySearch", "Outcome", "ProbeSettings", "Search"]

SATURATION_SLACK = 1.05
"""The true capacity lies at most this far above the saturated throughput (0.91-1.02 of it on modelled engines)."""

DISCARD_SHARE = 0.1
"""Share of a residence time at a level's start that is not judged."""

LEVEL_RESIDENCES = 1.0
"""Residence times a level must last before it may hold."""

RETEST_BELOW = 10
"""A rejection on fewer decided requests may be one burst: it is tested once more..."""

RETEST_MISSES = 5
"""...unless so many of them missed."""

MAX_SAMPLES = 500
"""A level still undecided after so many requests lies at the limit itself: it has not been shown to hold."""

NEARLY_FULL = 0.7
"""A rate that holds with fewer than this share of the saturated batch in service may lie below the capacity."""

CEILING_SLACK = 1.1
"""The true capacity lies at most this far above what queueing theory makes of the full server (0.99-1.03 modelled)."""

FEWEST_PLACES = 8
"""With a smaller batch the theory of many servers says little, and residence times are short."""

MAX_GAPS = 5


class CapacitySearch:
    """Finds the capacity of one running engine; `outcome` is set when it is over."""

    def __init__(self, settings: ProbeSettings) -> None:
        self.settings = settings
        self.outcome: Outcome | None = None
        self.book = Book(settings.limits)
        self._step: Callable[[], list[Command]] = list
        self._deadline_s = 0.0
        self._concurrency = 0
        self._full_service = 0
        self._residence_s = 0.0
        self._rate = 0.0
        self._refill_until_s = 0.0
        self._ladder = Ladder(0.0, settings.tolerance)
        self._alarm = BacklogAlarm(0.0, None, 1.0, 0.0)
        self._testing: LevelTally | None = None
        self._held: LevelTally | None = None
        self._retested = False
        self._gaps = 0
        self._at_most: float | None = None

    # --- the driver's side

    def start(self, now_s: float) -> list[Command]:
        self.book.begin(now_s)
        self._deadline_s = now_s + self.settings.max_duration_s
        return self._saturate()

    @property
    def ended_levels(self) -> tuple[Level, ...]:
        return self.book.levels(ended=True)

    @property
    def wake_at_s(self) -> float | None:
        if self.outcome is not None:
            return None
        due = self._testing.next_deadline_s() if self._testing is not None else None
        return self._deadline_s if due is None else min(due, self._deadline_s)

    def handle(self, event: Event) -> list[Command]:
        if self.outcome is not None:
            return []
        gap_s = self.book.take(event)
        if isinstance(event, EngineDied):
            return self._end(Ending("failed", "the engine died under load", kind="engine_died"))
        if gap_s > GAP_S:
            return self._slept(gap_s)
        if isinstance(event, ClientStalled) and self._testing is not None:
            return self._slept(event.for_s)
        if (fault := self.book.fault()) is not None:
            return self._end(fault)
        if self.book.now_s >= self._deadline_s:
            return self._give_up(f"{self.settings.max_duration_s:.0f} s of load are over")
        return self._step()

    def interrupt(self, why: str) -> None:
        """End at once with what has been shown so far."""
        if self.outcome is None:
            self._give_up(why)

    # --- saturate

    def _saturate(self) -> list[Command]:
        tally = self.book.open_level(concurrency=0)
        tally.fills = True
        filling = Filling(self.settings.max_running)
        self.book.saturation = Saturation(filling, self.settings.mean_output_tokens, self.settings.min_level_s)
        self._step = self._while_saturating
        return self._keep_full(filling)

    def _keep_full(self, filling: Filling) -> list[Command]:
        commands = filling.commands(self.book.level, self.book.flights.in_service)
        self._concurrency = self.book.current.concurrency = filling.concurrency
        return commands

    def _while_saturating(self) -> list[Command]:
        seen = self.book.saturation
        assert seen is not None
        now_s = self.book.now_s
        incumbent = self.settings.incumbent_req_per_s
        bound = seen.upper_bound(now_s)
        if bound is not None and incumbent is not None and bound < incumbent:
            return self._end(Ending("pruned", f"saturates near {seen.rate(now_s):.3g} req/s", bound=bound))
        if not seen.done(now_s):
            return self._keep_full(seen.filling)
        self.book.close_level("saturates")
        self.book.saturation = None
        self._full_service, self._residence_s = self.book.flights.in_service, seen.residence_s or 0.0
        limit_s = self.settings.limits.ttft_p95_s
        ceiling = None
        if limit_s is not None and self.settings.poisson and self._full_service >= FEWEST_PLACES:
            ceiling = seen.full_server(now_s, self._full_service).highest_rate(limit_s)
        return self._saturated(seen.rate(now_s), ceiling)

    def _saturated(self, rate: float, ceiling: float | None) -> list[Command]:
        if rate <= 0:
            text = f"serves nothing once it is full: {self._full_service} requests in service, none taken in or ended"
            return self._end(Ending("infeasible", text, kind="floor"))
        self._ladder = Ladder(
            rate,
            self.settings.tolerance,
            incumbent=self.settings.incumbent_req_per_s,
            guess=self.settings.guess_req_per_s,
            floor=self.settings.floor_share * rate,
            ceiling=ceiling,
        )
        bound = min(rate * SATURATION_SLACK, ceiling * CEILING_SLACK if ceiling is not None else math.inf)
        if self.settings.incumbent_req_per_s is not None and bound < self.settings.incumbent_req_per_s:
            return self._end(Ending("pruned", f"saturates at {rate:.3g} req/s", bound=bound))
        self._at_most = self.book.current.capacity_at_most_req_per_s = bound
        return self._prepare(self._ladder.first())

    # --- between levels

    def _prepare(self, rate: float, *, loaded: bool = False) -> list[Command]:
        """Bring the server to a load at or above the one `rate` will cause, then let the queue empty."""
        if len(self.book.tallies) >= self.settings.max_levels:
            return self._give_up(f"{len(self.book.tallies)} levels were not enough")
        self._rate = rate
        share = min(1.0, rate / self._ladder.saturation)
        if loaded:
            return self._hold()
        if self.book.flights.in_service >= 0.95 * share * self._full_service:
            return self._hold()
        self._refill_until_s = self.book.now_s + max(self._residence_s, self.settings.min_level_s)
        tally = self.book.open_level(concurrency=self._concurrency)
        tally.fills = True
        self._step = self._while_refilling
        return [ClosedLoop(tally.level, self._concurrency)]

    def _while_refilling(self) -> list[Command]:
        full = self.book.flights.in_service >= 0.98 * self._full_service
        if not full and self.book.now_s < self._refill_until_s:
            return []
        self.book.close_level("undecided")
        return self._hold()

    def _hold(self) -> list[Command]:
        self._step = self._while_settling
        return [Hold(self.book.level), *self._while_settling()]

    def _while_settling(self) -> list[Command]:
        """Nothing may wait, and no more may be served than `rate` can explain (ten per cent more: from above)."""
        share = min(1.0, 1.1 * self._rate / self._ladder.saturation)
        flights = self.book.flights
        if flights.waiting or flights.in_service > max(1, math.ceil(share * self._full_service)):
            return []
        return self._begin_floor() if self._ladder.at_floor else self._begin_level()

    # --- levels

    def _begin_level(self) -> list[Command]:
        tally = self.book.open_level(rate_req_per_s=self._rate, discard_s=DISCARD_SHARE * self._residence_s)
        self._testing = tally
        block_s = max(self._residence_s / 4, 2.0)
        self._alarm = BacklogAlarm(self._rate, self.settings.limits.ttft_p95_s, block_s, self.book.now_s)
        self._step = self._while_testing
        return [OpenLoop(tally.level, self._rate)]

    def _while_testing(self) -> list[Command]:
        tally = self.book.current
        verdict = tally.verdict()
        if verdict == "reject":
            return self._rejected("misses")
        if self._alarm.rings(self.book.now_s, self.book.flights.waiting):
            return self._rejected("saturates")
        if verdict == "accept":
            return self._accepted() if self.book.now_s - tally.start_s >= self._min_level_s() else []
        return self._rejected("undecided") if tally.decided >= MAX_SAMPLES else []

    def _min_level_s(self) -> float:
        """A relative overload of `tolerance` delays first tokens by the limit only after limit / tolerance seconds."""
        limit_s = self.settings.limits.ttft_p95_s or 0.0
        return max(LEVEL_RESIDENCES * self._residence_s, limit_s / self.settings.tolerance, self.settings.min_level_s)

    def _accepted(self) -> list[Command]:
        self._held = self.book.current
        slack = self.book.flights.in_service < NEARLY_FULL * self._full_service
        self._close("holds")
        return self._follow(self._ladder.held(self._rate, slack=slack))

    def _rejected(self, verdict: LevelVerdict) -> list[Command]:
        tally = self.book.current
        burst = verdict == "misses" and tally.decided < RETEST_BELOW and tally.missed < RETEST_MISSES
        again = burst and not self._retested
        if not again:
            self._at_most = min(self._at_most or math.inf, self._rate)
        self._close(verdict)
        if again:
            self._retested = True
            return self._prepare(self._rate)
        return self._follow(self._ladder.missed(self._rate))

    def _follow(self, rate: float | None) -> list[Command]:
        """Go to the next rate, or end: there is none."""
        self._retested = False
        ladder = self._ladder
        if rate is not None:
            # A level that missed has left at least the load of any lower rate.
            return self._prepare(rate, loaded=rate < self._rate and not ladder.at_floor)
        if ladder.cannot_win:
            return self._end(Ending("pruned", f"{ladder.high:.3g} req/s does not hold", bound=ladder.high))
        if ladder.low is not None:
            return self._end(self._measured("the bracket is within the tolerance"))
        text = f"misses the limits even at {self._rate:.3g} req/s"
        return self._end(Ending("infeasible", text, kind="floor", bound=ladder.high))

    # --- the floor: one request at a time

    def _begin_floor(self) -> list[Command]:
        self._testing = self.book.open_level(concurrency=1)
        self._step = self._while_at_floor
        return [ClosedLoop(self._testing.level, 1)]

    def _while_at_floor(self) -> list[Command]:
        tally = self.book.current
        if tally.missed >= 3:
            self._close("misses")
            text = "misses the limits with a single request in flight"
            return self._end(Ending("infeasible", text, kind="floor", bound=self._ladder.high))
        if tally.held < 4:
            return []
        self._close("holds")
        return self._follow(self._ladder.floor_held())

    # --- endings

    def _slept(self, gap_s: float) -> list[Command]:
        """This process was stopped for a while: the running window or level is void and begins again."""
        self._gaps += 1
        voided = self._testing is not None
        if self._testing is not None:
            self._testing.spoil(f"the load client stood still for {gap_s:.2f} s")
            self._close("invalid")
        if self._gaps > MAX_GAPS or self.book.now_s >= self._deadline_s:
            return self._give_up(f"the load client stood still {self._gaps} times, the last time for {gap_s:.2g} s")
        if gap_s > GAP_S:
            self.book.forgive()
        return self._prepare(self._rate) if voided else []

    def _give_up(self, why: str) -> list[Command]:
        """Out of time or levels: report what was shown, never what was not."""
        if self._ladder.cannot_win:
            return self._end(Ending("pruned", f"{why}; cannot beat the incumbent", bound=self._ladder.high))
        if self._ladder.low is not None:
            return self._end(self._measured(f"{why}; the bracket is wider than the tolerance"))
        return self._end(Ending("failed", f"{why} and no rate was shown to hold", kind="undecided"))

    def _measured(self, reason: str) -> Ending:
        high = self._ladder.high or max(self._ladder.saturation, self._ladder.low or 0.0) * SATURATION_SLACK
        return Ending("measured", reason, low=self._ladder.low, high=high)

    def _close(self, verdict: LevelVerdict) -> None:
        self.book.current.capacity_at_most_req_per_s = self._at_most
        self.book.close_level(verdict)
        self._testing = None

    def _end(self, ending: Ending) -> list[Command]:
        ending = replace(ending, saturation=self._ladder.saturation or None)
        self.outcome = self.book.outcome(ending, self._held if ending.state == "measured" else None)
        return [Stop()]
