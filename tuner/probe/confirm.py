"""A confirmation: one rate, held long enough to test the limits themselves. Sans-IO like the capacity search.

It starts from a filled server (a level that starts empty flatters), discards one residence time, and judges every
request due in the rest. It chooses no rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tuner.probe.book import GAP_S, Book, Ending
from tuner.probe.events import ClientStalled, Command, EngineDied, Event, Hold, OpenLoop, Stop
from tuner.probe.filling import Filling
from tuner.probe.level import LevelTally, LimitTest
from tuner.probe.measurement import Level
from tuner.probe.outcome import Outcome
from tuner.probe.saturation import Saturation
from tuner.probe.statistics import (
    P95_MISS_SHARE,
    clopper_pearson_lower,
    clopper_pearson_upper,
    robbins_bound,
    smallest_passing_sample,
)
from tuner.space.workload import Limits

FEWEST = smallest_passing_sample(0)
"""59 requests without a miss prove a p95 at 95 %; with fewer nothing can be confirmed."""

EARLY_DELTA = 1e-3
"""A run is ended early only when its misses exclude the limit at this error, at any time."""

WARM_COMPLETIONS = 8

STALLED_SHARE = 0.0025
"""Of the judged time: a twentieth of the requests that a p95 limit lets miss."""


@dataclass(frozen=True, slots=True)
class ConfirmSettings:
    """`duration_s` is the judged part; a run with too few requests goes on up to `max_duration_s` in all."""

    limits: Limits
    rate_req_per_s: float
    duration_s: float
    max_running: int | None = None
    max_duration_s: float = 3600.0


class RateConfirmation:
    """Holds one rate. `measured`: every limit held there; `infeasible`: one did not; `failed`: it could not be told."""

    def __init__(self, settings: ConfirmSettings) -> None:
        self.settings = settings
        self.outcome: Outcome | None = None
        self.book = Book(settings.limits)
        self._step: Callable[[], list[Command]] = list
        self._deadline_s = 0.0
        self._judged: LevelTally | None = None
        self._stalled_s = 0.0

    def start(self, now_s: float) -> list[Command]:
        self.book.begin(now_s)
        self._deadline_s = now_s + self.settings.max_duration_s
        tally = self.book.open_level(concurrency=0)
        tally.fills = True
        filling = Filling(self.settings.max_running)
        self.book.saturation = Saturation(filling, mean_output_tokens=0.0, min_s=0.0)
        self._step = self._while_filling
        return filling.commands(tally.level, 0)

    @property
    def ended_levels(self) -> tuple[Level, ...]:
        return self.book.levels(ended=True)

    @property
    def wake_at_s(self) -> float | None:
        if self.outcome is not None:
            return None
        due = self._judged.next_deadline_s() if self._judged is not None else None
        return self._deadline_s if due is None else min(due, self._deadline_s)

    def handle(self, event: Event) -> list[Command]:
        if self.outcome is not None:
            return []
        gap_s = self.book.take(event)
        if isinstance(event, EngineDied):
            return self._end(Ending("failed", "the engine died under load", kind="engine_died"))
        if gap_s > GAP_S:
            return self._end(Ending("failed", f"the load client stood still for {gap_s:.0f} s", kind="undecided"))
        if (fault := self.book.fault()) is not None:
            return self._end(fault)
        if self.book.now_s >= self._deadline_s:
            return self._end(self._verdict() or self._undecided())
        if isinstance(event, ClientStalled) and self._judged is not None:
            return self._stalled(event.for_s)
        return self._step()

    def interrupt(self, why: str) -> None:
        """End at once; a confirmation cut short confirms nothing."""
        if self.outcome is None:
            self._end(Ending("failed", why, kind="undecided"))

    # --- fill, settle, warm, judge

    def _while_filling(self) -> list[Command]:
        """Until the server takes in no more."""
        seen = self.book.saturation
        assert seen is not None
        if not seen.filling.full:
            return seen.filling.commands(self.book.level, self.book.flights.in_service)
        self.book.saturation = None
        self.book.close_level("undecided")
        self._step = self._while_settling
        return [Hold(self.book.level), *self._while_settling()]

    def _while_settling(self) -> list[Command]:
        return [] if self.book.flights.waiting else self._warm()

    def _warm(self) -> list[Command]:
        tally = self.book.open_level(rate_req_per_s=self.settings.rate_req_per_s)
        tally.fills = True
        self._step = self._while_warming
        return [OpenLoop(tally.level, self.settings.rate_req_per_s)]

    def _while_warming(self) -> list[Command]:
        """One residence time, and some requests of this rate through."""
        level = self.book.current
        mine = [r for r in self.book.flights.records if r.level == level.level and r.error is None]
        if len(mine) < WARM_COMPLETIONS:
            return []
        longest_s = max(r.done_s - r.sent_s for r in mine)
        if self.book.now_s - level.start_s < longest_s:
            return []
        self.book.close_level("undecided")
        return self._judge()

    def _judge(self) -> list[Command]:
        self._stalled_s = 0.0
        self._judged = self.book.open_level(rate_req_per_s=self.settings.rate_req_per_s)
        self._step = self._while_judging
        return [OpenLoop(self._judged.level, self.settings.rate_req_per_s)]

    def _while_judging(self) -> list[Command]:
        tally = self.book.current
        elapsed_s = self.book.now_s - tally.start_s
        hopeless = any(
            t.misses > P95_MISS_SHARE * t.decided and robbins_bound(t.misses, t.decided) < EARLY_DELTA
            for t in tally.tests
        )
        if hopeless and elapsed_s >= self.settings.duration_s / 2:
            return self._end(self._missed())
        if elapsed_s < self.settings.duration_s:
            return []
        verdict = self._verdict()
        return [] if verdict is None else self._end(verdict)

    def _stalled(self, for_s: float) -> list[Command]:
        """So much of the client's own delay in the figures makes them worthless: judge anew."""
        self._stalled_s += for_s
        if self._stalled_s <= STALLED_SHARE * self.settings.duration_s:
            return []
        self.book.current.spoil(f"the load client stood still for {self._stalled_s:.2f} s")
        self.book.close_level("invalid")
        return self._judge()

    # --- verdict

    def _verdict(self) -> Ending | None:
        """The limits themselves, on the requests judged; None: too few of them."""
        if self._judged is None or any(t.decided < FEWEST for t in self._judged.tests):
            return None
        if any(t.misses > P95_MISS_SHARE * t.decided for t in self._judged.tests):
            return self._missed()
        rate = self.settings.rate_req_per_s
        return Ending("measured", self._figures("holds"), low=rate, high=rate)

    def _missed(self) -> Ending:
        return Ending("infeasible", self._figures("misses"), kind="missed", bound=self.settings.rate_req_per_s)

    def _undecided(self) -> Ending:
        judged = min((t.decided for t in self._judged.tests), default=0) if self._judged else 0
        text = f"only {judged} requests could be judged in {self.settings.max_duration_s:.0f} s; {FEWEST} are needed"
        return Ending("failed", text, kind="undecided")

    def _figures(self, verb: str) -> str:
        assert self._judged is not None
        worst = max(self._judged.tests, key=_miss_share)
        low, high = (
            clopper_pearson_lower(worst.misses, worst.decided),
            clopper_pearson_upper(worst.misses, worst.decided),
        )
        return (
            f"{self.settings.rate_req_per_s:.3g} req/s {verb}: {worst.misses} of {worst.decided} requests over a limit"
            f" ({low:.1%} to {high:.1%}; {P95_MISS_SHARE:.0%} permitted)"
        )

    def _end(self, ending: Ending) -> list[Command]:
        if self._judged is not None:
            word = {"measured": "holds", "infeasible": "misses"}.get(ending.state, "undecided")
            self.book.close_level(word)  # type: ignore[arg-type]  # the three words are LevelVerdicts
        self.outcome = self.book.outcome(ending, self._judged)
        return [Stop()]


def _miss_share(test: LimitTest) -> float:
    return test.misses / max(1, test.decided)
