"""API published early; body follows."""

from __future__ import annotations

from tuner.probe.measurement import Measurement
from tuner.probe.outcome import Outcome


def measurement(outcome: Outcome, offered_cached_share: float) -> Measurement | None:
    """The figures at the highest rate that held; None when none did."""
