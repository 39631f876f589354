"""What a study searches, as one value: `Problem`, its candidates, limits, budget and confirmation plan.

Made from a space by whoever starts the search. Knows nothing of files, flags, Optuna or clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.space.config import Choice, Scalar, ServingConfig
from tuner.space.workload import Limits, Workload
from tuner.trial.spec import Confirm, TrialSpec

MakeSpec = Callable[[ServingConfig, str, int, int, float | None, Confirm | None], TrialSpec]
"""(config, trial id, attempt, seed, incumbent's rate in req/s or None, confirmation or None) -> the trial.

Must be pure: it is also asked for the price of a configuration that is not started."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A valid configuration with what the engine model predicts of it.

    `margin_gib` is accelerator memory left over per GPU; negative means the model doubts that it fits. `ttft_slack` is
    log(limit / predicted TTFT p95) at 95 % of the capacity, or almost idle where that is 0; None where no limit is set.
    """

    config: ServingConfig
    predicted_usd_per_million: float
    predicted_capacity_req_per_s: float
    margin_gib: float
    ttft_slack: float | None = None


@dataclass(frozen=True, slots=True)
class TokenWeights:
    """What counts as a token paid for; 1, 0, 0 is cost per output token."""

    output: float = 1.0
    input: float = 0.0
    cached_input: float = 0.0


@dataclass(frozen=True, slots=True)
class Budget:
    """Where the search ends, whichever comes first; None is unlimited. All are sums over resumes.

    `trials` counts the trials that told something (COMPLETE and PRUNED), not lost ones. After `recheck_every` trials
    of a pool its baseline is measured again; these measurements count like any other trial.
    """

    trials: int | None = None
    wall_s: float | None = None
    gpu_hours: float | None = None
    usd: float | None = None
    recheck_every: int | None = None


@dataclass(frozen=True, slots=True)
class ConfirmPlan:
    """The best `top` candidates, in order, until one holds the guarded rate `repeats` times for `minutes` each."""

    top: int = 3
    repeats: int = 2
    minutes: float = 10.0
    different_nodes: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """Everything a search needs to know.

    `identity` is the JSON document of everything that changes a measurement: a study refuses to go on with another
    one. `seeds` run first, in order, and may lie outside the grid. `dimensions` maps every dimension of the grid
    (`pool`, `layout`, then the space's own) to its values in order: labels of choices and layouts as text, numbers
    as numbers. `rejected` says how many points each rule took out beforehand, and why. With `chosen` a session runs
    exactly those, each to its end, and nothing else; every one has the origin its trial is to have.
    """

    name: str
    identity: Mapping[str, Any]
    candidates: Sequence[Candidate]
    seeds: Sequence[tuple[str, ServingConfig]]
    dimensions: Mapping[str, tuple[Scalar, ...]]
    workload: Workload
    limits: Limits
    guard: float
    make_spec: MakeSpec
    token_weights: TokenWeights = field(default_factory=TokenWeights)
    budget: Budget = field(default_factory=Budget)
    confirm: ConfirmPlan = field(default_factory=ConfirmPlan)
    rejected: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    chosen: Sequence[tuple[str, ServingConfig]] = ()

    @property
    def pools(self) -> tuple[str, ...]:
        """Every pool something can run on, in order of first use."""
        configs = [c for _, c in [*self.seeds, *self.chosen]] + [c.config for c in self.candidates]
        return tuple(dict.fromkeys(c.pool for c in configs))


def coordinates(config: ServingConfig, dimensions: Mapping[str, tuple[Scalar, ...]]) -> dict[str, Scalar] | None:
    """The point's value in every dimension as a study stores it, or None when it lies outside the grid."""
    if config.only:
        return None
    values: dict[str, Scalar | Choice] = {**dict(config.values), "pool": config.pool, "layout": config.layout.label}
    point: dict[str, Scalar] = {}
    for name, allowed in dimensions.items():
        value = values.get(name)
        plain = value.label if isinstance(value, Choice) else value
        if plain is None or plain not in allowed:
            return None
        point[name] = plain
    return point
