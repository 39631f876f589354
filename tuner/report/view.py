"""What a watcher of a search knows: a frozen `View`, and `seen`, which takes one event into it. Pure.

Fed by the running search or by what `tuner.study.replay` reads from the database; `tuner.report.screen` draws it.
Knows no terminal and no clock: times are given, in seconds of any one clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tuner.space.config import ServingConfig
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

KEPT = 60
"""Verdicts kept: more than the tallest terminal shows."""


@dataclass(frozen=True, slots=True)
class Running:
    """A trial in flight; `since_s` is when it was started."""

    number: int
    trial_id: str
    config: ServingConfig
    attempt: int
    confirmation: bool
    since_s: float
    stage: str = "starting"


@dataclass(frozen=True, slots=True)
class View:
    """Everything the screen shows. `verdicts` are the newest first; `confirmed` and `refuted` say of the best so far.

    `ledger_s` is when the ledger was told; `live`: the clock runs between two of them.
    """

    study: str = ""
    simulated: bool = False
    live: bool = True
    phase: str = "preparing"
    ledger: Ledger | None = None
    ledger_s: float = 0.0
    running: tuple[Running, ...] = ()
    verdicts: tuple[TrialEnded, ...] = ()
    notices: tuple[str, ...] = ()
    confirmed: str = ""
    refuted: frozenset[str] = frozenset()


def seen(view: View, event: Event, now_s: float) -> View:
    """The view after one more event."""
    if isinstance(event, StudyOpened):
        return replace(view, study=event.study, phase="searching")
    if isinstance(event, Ledger):
        return replace(view, ledger=event, ledger_s=now_s)
    if isinstance(event, TrialStarted):
        return _started(view, event, now_s)
    if isinstance(event, TrialStage):
        running = (replace(t, stage=event.text) if t.trial_id == event.trial_id else t for t in view.running)
        return replace(view, running=tuple(running))
    if isinstance(event, TrialEnded):
        return _ended(view, event)
    if isinstance(event, ConfirmEnded):
        return _confirmed(view, event)
    return _told(view, event)


def _started(view: View, event: TrialStarted, now_s: float) -> View:
    trial = Running(event.number, event.trial_id, event.config, event.attempt, event.confirmation, now_s)
    others = tuple(t for t in view.running if t.trial_id != event.trial_id)
    return replace(view, running=(*others, trial))


def _ended(view: View, event: TrialEnded) -> View:
    running = tuple(t for t in view.running if t.trial_id != event.trial_id)
    return replace(view, running=running, verdicts=(event, *view.verdicts)[:KEPT])


def _confirmed(view: View, event: ConfirmEnded) -> View:
    if event.holds:
        return replace(view, confirmed=event.config.fingerprint)
    if event.undecided:
        return view
    return replace(view, refuted=view.refuted | {event.config.fingerprint})


def _told(
    view: View, event: PoolClosed | BaselineDeviates | StopOffered | SearchStopped | Closing | ConfirmStarted
) -> View:
    """What changes the phase, or is worth a line until something else is."""
    if isinstance(event, ConfirmStarted):
        runs = f"{event.repeats} runs" if event.repeats > 1 else "1 run"
        return replace(view, phase=f"confirming candidate {event.rank}, {runs}")
    if isinstance(event, Closing):
        trials = "1 running trial" if event.running == 1 else f"{event.running} running trials"
        return replace(view, phase=f"interrupted: ending {trials}")
    if isinstance(event, SearchStopped):
        return replace(view, phase="choosing what to confirm")
    if isinstance(event, PoolClosed | BaselineDeviates):
        return replace(view, notices=(*view.notices, event.text))
    gain = f"one more trial is expected to save {event.expected_gain:.1%} at most; --stop-when-converged ends here"
    return replace(view, notices=(*view.notices, gain))
