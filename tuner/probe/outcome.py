"""What a load search is told (`ProbeSettings`) and what it leaves (`Outcome`): values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from tuner.probe.events import Command, Event, RequestRecord
from tuner.probe.measurement import Level
from tuner.space.workload import Limits

State = Literal["measured", "infeasible", "pruned", "failed"]


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """What the search may assume and how far it may go.

    `max_running` is the engine's own cap over all its schedulers; None: unknown, it is found by ramping up.
    `incumbent_req_per_s` is the capacity to beat: a search that cannot is ended with a bound. `guess_req_per_s` is a
    prediction; it only orders the rates tried. `tolerance` is the width of the bracket to reach (0.05: 5 %).
    A level is at least `min_level_s` long, at least one residence time, and at least (TTFT limit) / `tolerance`,
    because a backlog grows by `tolerance` seconds per second at that overload. `max_levels` and `max_duration_s`
    bound the search. `poisson`: bursts of the arrivals are those of a Poisson process.
    """

    limits: Limits
    mean_output_tokens: float
    max_running: int | None = None
    incumbent_req_per_s: float | None = None
    tolerance: float = 0.05
    guess_req_per_s: float | None = None
    max_duration_s: float = 1800.0
    min_level_s: float = 2.0
    max_levels: int = 40
    floor_share: float = 0.02
    poisson: bool = True


@dataclass(frozen=True, slots=True)
class TtftSample:
    """One request of the level the figures come from; None where no token came within the limit."""

    scheduled_s: float
    from_scheduled_s: float | None
    from_sent_s: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a search ended. Rates in requests per second.

    `measured`: `capacity_low_req_per_s` was shown to hold, `capacity_high_req_per_s` was not. `pruned` and
    `infeasible`: `bound_req_per_s` is above the capacity. `nearest_miss_ttft_p95_s` is the best p95 of a level that
    missed. `ttft` and `records` are those of the highest rate that held (or the only one confirmed): `records` ended
    within [`window_start_s`, `window_end_s`]; `shown_level` is that level's number (-1: none). `errors` counts failed
    requests of the whole search by their word.
    """

    state: State
    reason: str
    capacity_low_req_per_s: float | None = None
    capacity_high_req_per_s: float | None = None
    bound_req_per_s: float | None = None
    saturation_req_per_s: float | None = None
    nearest_miss_ttft_p95_s: float | None = None
    levels: tuple[Level, ...] = ()
    ttft: tuple[TtftSample, ...] = ()
    records: tuple[RequestRecord, ...] = ()
    window_start_s: float = 0.0
    window_end_s: float = 0.0
    requests: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    duration_s: float = 0.0
    kind: str = ""
    shown_level: int = -1


class Search(Protocol):
    """What a driver feeds: `CapacitySearch` and `RateConfirmation`."""

    @property
    def ended_levels(self) -> tuple[Level, ...]:
        """The levels finished so far."""

    @property
    def outcome(self) -> Outcome | None:
        """None while the search goes on."""

    @property
    def wake_at_s(self) -> float | None:
        """When the search wants a `Tick` at the latest; None: the usual one a second is enough."""

    def start(self, now_s: float) -> list[Command]:
        """Begin; the first commands."""

    def handle(self, event: Event) -> list[Command]:
        """Take one event; the commands that follow from it, in order. After `Stop` nothing more comes."""

    def interrupt(self, why: str) -> None:
        """End now, from outside: `outcome` says what was shown until then."""
