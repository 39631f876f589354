"""A running search as plain lines on stderr: every trial's start, stages and verdict. Knows nothing of the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from tuner.report.words import STOPPED, money, seconds, several
from tuner.study.events import (
    BaselineDeviates,
    Closing,
    ConfirmEnded,
    ConfirmStarted,
    Event,
    Ledger,
    PoolClosed,
    SearchStopped,
    StopOffered,
    StudyOpened,
    TrialEnded,
    TrialStage,
    TrialStarted,
)

STAGE_EVERY_S = 30.0
"""A trial's stages change every few seconds: so long after its start, and after each told one, the next is told."""


class ProgressLines:
    """Prints one line per event. `total` is the number of trials to reach, None when the budget does not say."""

    def __init__(self, stream: TextIO, total: int | None, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._total = total
        self._now_s = now_s
        self._last_stage_s: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        line = self._line(event)
        if line:
            with suppress(BrokenPipeError):  # a search outlives whoever read its progress
                print(line, file=self._stream, flush=True)

    def _line(self, event: Event) -> str | None:
        if isinstance(event, TrialStarted):
            self._last_stage_s[event.trial_id] = self._now_s()
            return self._started(event)
        if isinstance(event, TrialStage):
            return self._stage(event)
        if isinstance(event, TrialEnded):
            return self._ended(event)
        return None if isinstance(event, Ledger) else _told(event)

    def _started(self, event: TrialStarted) -> str | None:
        if event.confirmation and not event.adopted:
            return None
        how = "found running" if event.adopted else event.origin
        again = f", attempt {event.attempt}" if event.attempt > 1 else ""
        return f"{_name(event.number, event.confirmation)} starts ({how}{again}): {event.config.describe()}"

    def _stage(self, event: TrialStage) -> str | None:
        now = self._now_s()
        if now - self._last_stage_s.get(event.trial_id, float("-inf")) < STAGE_EVERY_S:
            return None
        self._last_stage_s[event.trial_id] = now
        return f"{_name(event.number, event.confirmation)}: {event.text}"

    def _ended(self, event: TrialEnded) -> str:
        self._last_stage_s.pop(event.trial_id, None)
        of = f"/{self._total}" if self._total and not event.confirmation else ""
        count = "" if event.confirmation else f"[{event.counted}{of}] "
        best = "  <- best so far" if event.best else ""
        same = "" if event.same_as is None else f"; its engine ran the same settings as trial {event.same_as}"
        return f"{count}{_name(event.number, event.confirmation)} {verdict(event)}{same}{best}"


def _name(number: int, confirmation: bool) -> str:  # noqa: FBT001 - a field of every event, passed on
    return f"{'confirmation' if confirmation else 'trial'} {number}"


def _told(
    event: StudyOpened
    | PoolClosed
    | BaselineDeviates
    | StopOffered
    | SearchStopped
    | Closing
    | ConfirmStarted
    | ConfirmEnded,
) -> str | None:
    """The line of an event that belongs to no trial."""
    if isinstance(event, StudyOpened):
        how = f"resumed with {event.counted} trials" if event.resumed else "new"
        return f"study {event.study} ({how})"
    if isinstance(event, PoolClosed | BaselineDeviates):
        return event.text
    if isinstance(event, StopOffered):
        return (
            f"after {event.counted} trials one more is expected to save {event.expected_gain:.1%} at most, by the "
            "sampler's own figures - to confirm and end now, press Ctrl-C and run the same command with "
            "--stop-when-converged"
        )
    if isinstance(event, SearchStopped):
        return f"searching ends after {event.counted} trials: {STOPPED[event.why]}"
    if isinstance(event, Closing):
        return f"interrupted: ending {several(event.running, 'running trial')}" if event.running else None
    if isinstance(event, ConfirmStarted):
        return (
            f"confirming candidate {event.rank} at {event.rate_req_per_s:.3g} req/s, {event.repeats} runs: "
            f"{event.config.describe()}"
        )
    if event.undecided:
        return f"candidate {event.rank} could not be measured again: next"
    return f"candidate {event.rank} {'holds the limits' if event.holds else 'does not hold: next'}"


def verdict(event: TrialEnded) -> str:
    """What became of a trial, in a few words."""
    if event.confirmation and event.state == "measured":
        return f"holds, TTFT p95 {seconds(event.ttft_p95_s)}"
    if event.confirmation and event.state == "infeasible":
        return f"misses the limits: {event.failure or ''} (TTFT p95 {seconds(event.ttft_p95_s)})"
    if event.state == "measured":
        return (
            f"measured: {money(event.usd_per_million_output_tokens)} per million output tokens, "
            f"{event.capacity_req_per_s or 0:.3g} req/s, TTFT p95 {seconds(event.ttft_p95_s)}"
        )
    if event.state == "infeasible":
        return f"misses the limits at every rate (best TTFT p95 {seconds(event.ttft_p95_s)})"
    if event.state == "pruned":
        return f"dropped: {event.failure or 'cannot beat the best so far'}"
    return f"{event.state}: {event.failure or 'no reason given'}"
