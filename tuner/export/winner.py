"""What is exported: `Winner`, one measured configuration with its figures, and whether it may leave the study.

Filled from a study's summary. Knows nothing of clusters, charts or files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured, and the limits it was held against.

    `capacity_req_per_s` is the lower end of the capacity bracket, `guarded_req_per_s` the rate below it that was
    confirmed and priced. `limits` are `Limits.as_json()`.
    """

    usd_per_million_output_tokens: float
    capacity_req_per_s: float
    guarded_req_per_s: float
    ttft_p95_s: float
    output_tokens_per_s: float
    limits: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, value in (*self.as_json().items(), *self.limits.items()):
            if not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, not {value!r}")

    def as_json(self) -> dict[str, float]:
        """The figures without the limits."""
        return {
            "usd_per_million_output_tokens": self.usd_per_million_output_tokens,
            "capacity_req_per_s": self.capacity_req_per_s,
            "guarded_req_per_s": self.guarded_req_per_s,
            "ttft_p95_s": self.ttft_p95_s,
            "output_tokens_per_s": self.output_tokens_per_s,
        }


@dataclass(frozen=True, slots=True)
class Alternative:
    """A runner-up. `description` is `ServingConfig.describe()`."""

    trial: int
    description: str
    usd_per_million_output_tokens: float
    confirmed: bool
    refuted: bool = False

    def __str__(self) -> str:
        standing = "confirmed" if self.confirmed else "refuted" if self.refuted else "not confirmed"
        return (
            f"trial {self.trial}: {self.usd_per_million_output_tokens:.4g} USD per million output tokens, "
            f"{standing}, {self.description}"
        )


@dataclass(frozen=True, slots=True)
class Winner:
    """One configuration as it was measured.

    `program` and `args` are the command line the trial ran, without the trial's own host and port; `args` are carried
    over byte for byte. `config` is `ServingConfig.as_json()`, `rank` counts from 1, `gpus` is per replica (tp x dp).
    `env` is what the trial added to the engine's environment. `uid` is the study's, `versions` are those of whatever
    took part in the measurement, as the trial reported them. `refuted`: a confirmation run missed a limit.
    """

    study: str
    trial: int
    rank: int
    config: Mapping[str, Any]
    program: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]
    image: str
    image_digest: str
    engine_version: str
    model: str
    gpus: int
    figures: Figures
    simulated: bool
    confirmed: bool
    alternatives: tuple[Alternative, ...] = ()
    uid: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    refuted: bool = False


def refusal(winner: Winner, *, allow_simulated: bool, force: bool) -> str | None:
    """Why this winner may not be exported, or None. What is let through all the same is stamped in every output."""
    name = f"trial {winner.trial} of study {winner.study}"
    reasons = []
    if winner.simulated and not allow_simulated:
        reasons.append(
            f"{name} is SIMULATED, no engine was measured; search on hardware, or pass --allow-simulated to export it "
            "with a stamp"
        )
    if winner.refuted and not force:
        reasons.append(
            f"{name} is REFUTED, a confirmation run at {winner.figures.guarded_req_per_s:.4g} req/s missed a limit; "
            "search on (more --trials), or pass --force to export it with a stamp"
        )
    elif not winner.confirmed and not force:
        reasons.append(
            f"{name} is UNCONFIRMED, no second run has upheld its figures; let `tuner search` confirm it, or pass "
            "--force to export it with a stamp"
        )
    return "\n".join(reasons) or None
