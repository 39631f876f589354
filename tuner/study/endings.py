"""The words for two ways to end: a trial that vanished too often, and a search without a measurement. Pure."""

from __future__ import annotations

from tuner.study.events import ExitReason, StoppedBy
from tuner.study.history import PastTrial, counted
from tuner.trial.result import Failure, TrialResult
from tuner.trial.spec import TrialSpec


def lost(spec: TrialSpec) -> TrialResult:
    """The result of a trial that is not begun once more."""
    message = f"vanished without a result in {spec.attempt} attempts, each time with its controller or node"
    return TrialResult(spec.id, "failed", failure=Failure("infrastructure", "lost", message), simulated=spec.simulated)


def nothing_measured(history: list[PastTrial], stopped_by: StoppedBy | None) -> tuple[ExitReason, str]:
    """Why a search without a measurement ended, and how to say it."""
    if counted(history):
        return "nothing_feasible", "no configuration tried meets the limits"
    if stopped_by == "space_exhausted":
        return "no_confirmed_winner", "no trial gave a usable measurement"
    return "budget", f"the {stopped_by} budget ended before any trial told something"
