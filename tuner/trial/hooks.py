"""How a trial is watched and stopped from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tuner.probe.measurement import Level
from tuner.trial.engine_process import EngineProcess
from tuner.trial.result import TrialResult


def _ignore(_: object) -> None:
    """Nobody watches."""


@dataclass(slots=True)
class Hooks:
    """Called on the trial's own thread, also while it loads: none may take its time.

    `stop_reason` returns why to stop, or "". `checkpoint` gets what is known so far, as the result it would be if the
    trial were interrupted now, at every phase and level.
    """

    progress: Callable[[str], None] = _ignore
    on_level: Callable[[Level], None] = _ignore
    checkpoint: Callable[[TrialResult], None] = _ignore
    stop_reason: Callable[[], str] = lambda: ""
    on_engine: Callable[[EngineProcess], None] = _ignore
