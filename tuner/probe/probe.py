"""API published early; body follows.

The trial runner calls `await probe(base_url, ...)` once the engine generates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.probe.measurement import Level, Measurement
from tuner.probe.outcome import Outcome
from tuner.space.workload import Limits, Workload


@dataclass(frozen=True, slots=True)
class Invalid:
    """Why the figures are not to be trusted: `kind` is a stable word (`client_bound`, `token_count`, `cached_share`)."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """`invalid` set: state `invalid` whatever `outcome` says. `outcome.kind` names a failure (`engine_died`, ...)."""

    outcome: Outcome
    measurement: Measurement | None
    levels: tuple[Level, ...]
    client: Mapping[str, Any]
    effective: Mapping[str, Any]
    invalid: Invalid | None = None
    warnings: tuple[str, ...] = field(default=())


async def probe(
    base_url: str,
    *,
    workload: Workload,
    limits: Limits,
    seed: int,
    incumbent_req_per_s: float | None = None,
    guess_req_per_s: float | None = None,
    max_running: int | None = None,
    tolerance: float = 0.05,
    probe_s: float = 1800.0,
    first_token_s: float = 600.0,
    confirm_rate_req_per_s: float | None = None,
    confirm_duration_s: float = 600.0,
    engine_alive: Callable[[], bool] = lambda: True,
    stop_requested: Callable[[], bool] = lambda: False,
    on_level: Callable[[Level], None] = lambda level: None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> ProbeReport:
    """Warm up, prime, search (or confirm), summarise. Never raises for what the engine does."""
    raise NotImplementedError
