"""How a search ends when nothing could be confirmed or a trial vanished: the reason and its sentence. Pure."""

from __future__ import annotations

from tuner.study.events import ExitReason, StoppedBy
from tuner.study.history import PastTrial, counted
from tuner.trial.result import Failure, TrialResult
from tuner.trial.spec import TrialSpec


def lost(spec: TrialSpec) -> TrialResult:
    """The result of a trial that vanished with its controller too often."""
    message = f"vanished without a result in {spec.attempt} attempts, each time with its controller or node"
    return TrialResult(spec.id, "failed", failure=Failure("infrastructure", "lost", message), simulated=spec.simulated)


def nothing_measured(history: list[PastTrial], stopped_by: StoppedBy | None) -> tuple[ExitReason, str]:
    """Why there is no candidate to confirm."""
    if counted(history):
        return "nothing_feasible", "no configuration tried meets the limits"
    if stopped_by == "space_exhausted":
        return "no_confirmed_winner", "no trial gave a usable measurement"
    return "budget", f"the {stopped_by} budget ended before any trial told something"
