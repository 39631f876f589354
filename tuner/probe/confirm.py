"""API published early; body follows."""

from __future__ import annotations

from tuner.probe.events import Command, Event
from tuner.probe.outcome import Outcome
from tuner.space.workload import Limits


class RateConfirmation:
    def __init__(
        self,
        limits: Limits,
        rate_req_per_s: float,
        duration_s: float,
        mean_output_tokens: float,
        max_running: int | None = None,
        max_duration_s: float | None = None,
    ) -> None:
        """outcome.state 'measured' = holds (capacity_low = rate), 'infeasible' = misses, 'failed'."""
        self.outcome: Outcome | None = None

    @property
    def wake_at_s(self) -> float | None: ...
    def start(self, now_s: float) -> list[Command]: ...
    def handle(self, event: Event) -> list[Command]: ...
