"""From a space to its valid points: what each rule rejects and why, and what the engine model expects of the rest.

Knows the file's rules, the engine's start-up rules and the memory model; knows no study and measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from tuner.errors import Problem, SpaceError
from tuner.launch.platform import Platform, platform
from tuner.launch.rules import start_up_check
from tuner.model.architecture import Architecture
from tuner.model.capacity import Prediction, predict
from tuner.model.catalogue import GIB, Accelerator, accelerator, architecture
from tuner.model.settings import EngineSettings
from tuner.space.config import Layout, ServingConfig
from tuner.space.deployment import Deployment, Rejection
from tuner.space.seeds import Seed
from tuner.space.space import Space
from tuner.study.problem import Candidate, TokenWeights
from tuner.study.score import bound_cost

MEMORY_RULE = "memory-fit"
DOUBT_GIB = 1.0
"""The memory model errs by about this much: a point that misses by less is kept, as doubtful."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Point:
    """A valid configuration: what it deploys, what it resolves to, and what the model expects of it."""

    config: ServingConfig
    deployment: Deployment
    settings: EngineSettings
    prediction: Prediction
    candidate: Candidate


@dataclass(slots=True)
class RuleCount:
    """How many points a rule rejected, why, and one of them."""

    reason: str
    example: str
    count: int = 0


@dataclass(frozen=True)
class Points:
    """The valid points, cheapest predicted first, and what was rejected by which rule."""

    space: Space
    valid: tuple[Point, ...]
    rejected: Mapping[str, RuleCount] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return len(self.valid) + sum(r.count for r in self.rejected.values())

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(p.candidate for p in self.valid)


class Machine:
    """The hardware and model facts of a space's pools, looked up once."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.architecture = architecture_of(space)
        self._platforms: dict[str, tuple[Accelerator, Platform]] = {}

    def of(self, pool: str) -> tuple[Accelerator, Platform]:
        """The pool's accelerator, and what the engine's start-up looks at."""
        if pool not in self._platforms:
            acc = accelerator(self.space.spec.pools[pool].accelerator)
            arch = self.architecture
            facts = platform(
                acc.name,
                acc.hbm_bytes / GIB,
                dsa=arch.index_layers > 0,
                attention_heads=arch.heads,
                routed_experts=arch.experts,
                context_tokens=arch.max_context_tokens,
            )
            self._platforms[pool] = (acc, facts)
        return self._platforms[pool]


@lru_cache(maxsize=8)
def _architecture(name_or_path: str) -> Architecture:
    return architecture(name_or_path)


def architecture_name(space: Space) -> str:
    """The catalogue name, or the absolute path of a config.json given relative to the space file."""
    name = space.spec.model.architecture
    beside = Path(space.file).parent / name
    return str(beside.resolve()) if beside.is_file() else name


def architecture_of(space: Space) -> Architecture:
    """What the model knows of the served model. Raises UsageError."""
    return _architecture(architecture_name(space))


def evaluate(space: Space, progress: Progress | None = None) -> Points:
    """Check every point of the grid and predict the valid ones.

    Raises:
        SpaceError: a rule cannot be evaluated, or no point is valid.
    """
    machine = Machine(space)
    rejected: dict[str, RuleCount] = {}
    valid: list[Point] = []
    grid = list(space.grid())
    for i, config in enumerate(grid):
        if progress and i % 256 == 0:
            progress(i, len(grid))
        found = evaluate_point(machine, config)
        if isinstance(found, Rejection):
            entry = rejected.setdefault(found.rule, RuleCount(found.reason, config.describe()))
            entry.count += 1
        else:
            valid.append(found)
    if progress:
        progress(len(grid), len(grid))
    if not valid:
        raise SpaceError([_nothing_valid(space, rejected)])
    valid.sort(key=lambda p: (p.candidate.predicted_usd_per_million, p.config.canonical))
    return Points(space, tuple(valid), rejected)


def evaluate_point(machine: Machine, config: ServingConfig) -> Point | Rejection:
    """One point: rejected by the file, by the engine's start-up, by the memory; or valid with its prediction."""
    space = machine.space
    rejection = space.rejection(config)
    if rejection:
        return rejection
    acc, facts = machine.of(config.pool)
    deployment = space.deployment(config)
    settings = start_up_check(deployment, facts)
    if isinstance(settings, Rejection):
        return settings
    prediction = predict(machine.architecture, acc, settings, space.workload, space.limits)
    if not config.only and prediction.margin_gib < -DOUBT_GIB:
        return Rejection(
            MEMORY_RULE, "weights, KV cache for one longest request, activations and graphs exceed the HBM"
        )
    return Point(config, deployment, settings, prediction, _candidate(space, deployment, prediction))


def _candidate(space: Space, deployment: Deployment, prediction: Prediction) -> Candidate:
    objective = space.spec.objective
    weights = TokenWeights(**objective.token_weights.model_dump())
    rate = prediction.capacity_req_per_s
    cost = bound_cost(rate, deployment.usd_per_hour, objective.guard, weights, space.workload)
    return Candidate(deployment.config, cost, rate, prediction.margin_gib, _ttft_slack(space, prediction))


def _ttft_slack(space: Space, prediction: Prediction) -> float | None:
    limit = space.limits.ttft_p95_s
    if limit is None or not prediction.ttft_p95_s:
        return None
    return math.log(limit / prediction.ttft_p95_s) if math.isfinite(prediction.ttft_p95_s) else -math.inf


def complete_seeds(points: Points, seeds: Iterable[Seed]) -> list[tuple[str, ServingConfig]]:
    """Seeds as whole points: open dimensions take the model's best, points with `only` stay outside the grid.

    Raises:
        SpaceError: a seed whose every completion is rejected, with the rule that rejects it.
    """
    machine = Machine(points.space)
    done: list[tuple[str, ServingConfig]] = []
    problems = []
    for seed in seeds:
        config = _outside(points.space, seed) if seed.only else _best_match(points, seed)
        found = None if config is None else evaluate_point(machine, config)
        if isinstance(found, Point):
            done.append((seed.name, found.config))
        else:
            reason = _why_not(machine, seed, found)
            problems.append(points.space.document.problem(("seeds", seed.name), reason))
    if problems:
        raise SpaceError(problems)
    return done


def _best_match(points: Points, seed: Seed) -> ServingConfig | None:
    fits = sorted(points.valid, key=lambda p: p.candidate.margin_gib < 0)  # stable: cheapest first within each half
    return next((p.config for p in fits if seed.matches(p.config)), None)


def _outside(space: Space, seed: Seed) -> ServingConfig:
    """A point with `only`: its own values, on the widest plain tensor-parallel layout unless it names one."""
    plain = [lay for lay in space.layouts if (lay.dp, lay.attn_dp, lay.ep) == (1, 1, 1)]
    layout = seed.layout or max(plain, key=lambda lay: lay.tp, default=Layout(max(lay.tp for lay in space.layouts)))
    pool = seed.pool or next(p for p in space.spec.pools if _allowed(space, seed, p))
    return ServingConfig(pool, layout, tuple(sorted(seed.values.items())), seed.only)


def _allowed(space: Space, seed: Seed, pool: str) -> bool:
    probe = ServingConfig(pool, space.layouts[0], tuple(sorted(seed.values.items())))
    return all(b.pools is None or pool in b.pools for b in space.bundles(probe))


def _why_not(machine: Machine, seed: Seed, found: Rejection | None) -> str:
    if isinstance(found, Rejection):
        return f"rejected by {found.rule}: {found.reason}"
    reasons: dict[str, str] = {}
    for config in machine.space.grid():
        if seed.matches(config):
            point = evaluate_point(machine, config)
            if isinstance(point, Rejection):
                reasons[point.rule] = point.reason
    listed = "; ".join(f"{rule}: {reason}" for rule, reason in reasons.items())
    return f"every completion is rejected ({listed})"


def _nothing_valid(space: Space, rejected: Mapping[str, RuleCount]) -> Problem:
    counts = "; ".join(f"{rule} rejects {r.count}: {r.reason}" for rule, r in rejected.items())
    return space.document.problem(("space",), f"no valid point: {counts}")
