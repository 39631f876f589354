"""From a space to its valid points: what each rule rejects and why, and what the engine model expects of the rest.

Knows the file's rules, the engine's start-up rules and the memory model; knows no study and measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

from tuner.errors import Problem, SpaceError, UsageError
from tuner.launch.platform import Platform, platform_of
from tuner.launch.rules import start_up_check
from tuner.model import definition
from tuner.model.architecture import Architecture
from tuner.model.capacity import Prediction, predict_many
from tuner.model.catalogue import Accelerator, accelerator, accelerators, architecture, architectures
from tuner.model.definition import refuse_taken
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

_NO_TP = "its layout would not be passed; add tp to `only`"

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
    """The hardware and model facts of a space's pools, looked up once.

    Raises:
        SpaceError: a model architecture or an accelerator that nobody knows, each with its place.
    """

    def __init__(self, space: Space) -> None:
        _check_known(space)
        self.space = space
        self.architecture = architecture_of(space)
        self._platforms: dict[str, tuple[Accelerator, Platform]] = {}

    def of(self, pool: str) -> tuple[Accelerator, Platform]:
        """The pool's accelerator, and what the engine's start-up looks at."""
        if pool not in self._platforms:
            acc = accelerator_of(self.space, pool)
            self._platforms[pool] = (acc, platform_of(acc, self.architecture))
        return self._platforms[pool]


def _check_known(space: Space) -> None:
    """Everything the file names or defines can be built, each mistake at its place."""
    problems = []
    for path, look_up in _look_ups(space):
        try:
            look_up()
        except UsageError as exc:
            problems.append(space.document.problem(path, str(exc)))
    if problems:
        raise SpaceError(problems)


def _look_ups(space: Space) -> Iterator[tuple[tuple[str, ...], Callable[[], object]]]:
    spec = space.spec
    for name, acc in spec.accelerators.items():
        step = f"take another name, and `like: {name}` for what is the same"
        yield ("accelerators", name), partial(refuse_taken, name, accelerators(), "an accelerator", step)
        if acc.like is not None:
            yield ("accelerators", name, "like"), partial(accelerator, acc.like)
    for name in spec.architectures:
        yield ("architectures", name), partial(refuse_taken, name, architectures(), "an architecture", "take another")
        yield ("architectures", name, "config"), partial(definition.architecture_of, space.architecture_said(name))
    if spec.model.architecture not in spec.architectures:
        yield ("model", "architecture"), partial(architecture_of, space)
    for pool in spec.pools:
        if spec.pools[pool].accelerator not in spec.accelerators:
            yield ("pools", pool, "accelerator"), partial(accelerator_of, space, pool)


def accelerator_of(space: Space, pool: str) -> Accelerator:
    """What the model knows of a pool's accelerator. Raises UsageError."""
    said = space.accelerator_said(pool)
    if isinstance(said, str):
        return accelerator(said, also=space.spec.accelerators)
    return definition.accelerator_of(said)


@lru_cache(maxsize=8)
def _architecture(name_or_path: str, also: tuple[str, ...]) -> Architecture:
    return architecture(name_or_path, also=also)


def architecture_of(space: Space) -> Architecture:
    """What the model knows of the served model. Raises UsageError."""
    said = space.architecture_said()
    if isinstance(said, str):
        return _architecture(said, tuple(space.spec.architectures))
    return definition.architecture_of(said)


def evaluate(space: Space, progress: Progress | None = None) -> Points:
    """Check every point of the grid and predict the valid ones.

    Raises:
        SpaceError: a rule cannot be evaluated, or no point is valid.
    """
    machine = Machine(space)
    rejected: dict[str, RuleCount] = {}
    admitted: list[_Admitted] = []

    def reject(config: ServingConfig, why: Rejection) -> None:
        rejected.setdefault(why.rule, RuleCount(why.reason, config.describe())).count += 1

    grid = list(space.grid())
    for i, config in enumerate(grid):
        if progress and i % 256 == 0:
            progress(i, len(grid))
        found = _admit(machine, config)
        if isinstance(found, Rejection):
            reject(config, found)
        else:
            admitted.append(found)
    valid: list[Point] = []
    for entry, point in zip(admitted, _predicted(machine, admitted), strict=True):
        if isinstance(point, Rejection):
            reject(entry.config, point)
        else:
            valid.append(point)
    if progress:
        progress(len(grid), len(grid))
    if not valid:
        raise SpaceError([_nothing_valid(space, rejected)])
    valid.sort(key=lambda p: (p.candidate.predicted_usd_per_million, p.config.canonical))
    return Points(space, tuple(valid), rejected)


def evaluate_point(machine: Machine, config: ServingConfig) -> Point | Rejection:
    """One point: rejected by the file, by the engine's start-up, by the memory; or valid with its prediction."""
    admitted = _admit(machine, config)
    return admitted if isinstance(admitted, Rejection) else _predicted(machine, [admitted])[0]


@dataclass(frozen=True, slots=True)
class _Admitted:
    """What neither the file nor the engine's start-up rejects; the memory has not been asked yet."""

    config: ServingConfig
    deployment: Deployment
    settings: EngineSettings


def _admit(machine: Machine, config: ServingConfig) -> _Admitted | Rejection:
    space = machine.space
    rejection = space.rejection(config)
    if rejection:
        return rejection
    _, facts = machine.of(config.pool)
    deployment = space.deployment(config)
    settings = start_up_check(deployment, facts)
    return settings if isinstance(settings, Rejection) else _Admitted(config, deployment, settings)


def _predicted(machine: Machine, admitted: Sequence[_Admitted]) -> list[Point | Rejection]:
    """The model over all of a pool's points at once: it is a hundred times faster so than one by one."""
    space = machine.space
    found: dict[int, Point | Rejection] = {}
    for pool in dict.fromkeys(a.config.pool for a in admitted):
        rows = [i for i, a in enumerate(admitted) if a.config.pool == pool]
        acc, _ = machine.of(pool)
        settings = [admitted[i].settings for i in rows]
        predictions = predict_many(machine.architecture, acc, settings, space.workload, space.limits)
        found |= {i: _point(space, admitted[i], p) for i, p in zip(rows, predictions, strict=True)}
    return [found[i] for i in range(len(admitted))]


def _point(space: Space, admitted: _Admitted, prediction: Prediction) -> Point | Rejection:
    if not admitted.config.only and prediction.margin_gib < -DOUBT_GIB:
        return Rejection(
            MEMORY_RULE, "weights, KV cache for one longest request, activations and graphs exceed the HBM"
        )
    candidate = _candidate(space, admitted.deployment, prediction)
    return Point(admitted.config, admitted.deployment, admitted.settings, prediction, candidate)


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
        if seed.only and "tp" not in seed.only and seed.layout not in (None, Layout(1)):
            problems.append(points.space.document.problem(("seeds", seed.name), _NO_TP))
            continue
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
    """A point with `only`: its own values, on the widest plain tensor-parallel layout unless it names one.

    Without `tp` among what is passed the engine runs on one GPU.
    """
    pool = seed.pool or next(p for p in space.spec.pools if _allowed(space, seed, p))
    layout = (seed.layout or Layout(max(lay.tp for lay in space.layouts_on(pool)))) if "tp" in seed.only else Layout(1)
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
