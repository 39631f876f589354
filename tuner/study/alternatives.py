"""Optuna's own samplers behind the filter of valid candidates: TPE, and its Gaussian process where torch is installed.

What they propose is drawn from the full grid; of the proposals that are untried candidates the best predicted is taken,
else the candidate nearest to one of them. TPE learns from all that PRUNED trials say. Optuna's `GPSampler` reads
COMPLETE trials only: it is shown failures and missed limits as the worst cost so far, a bound as if it were the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuner.errors import UsageError
from tuner.space.config import Scalar, ServingConfig
from tuner.study.history import PastTrial
from tuner.study.params import distributions, snap
from tuner.study.problem import Candidate, Problem, coordinates

TPE_FROM = 4  # with fewer finished points TPE only draws at random; so do we, among valid candidates
_NEAREST_OF = 4  # draws are independent: the first few stand for all, and comparing all takes seconds on large spaces
_MEMBERS = 8  # distinct proposals the model chooses from


@dataclass(frozen=True, slots=True)
class Alternative:
    """One of Optuna's samplers. `asks` proposals are drawn for a choice; `complete_only`: it reads no PRUNED trial."""

    make: Callable[[int], BaseSampler]
    asks: int
    complete_only: bool = False


ALTERNATIVES: Mapping[str, Alternative] = {
    "tpe": Alternative(lambda seed: optuna.samplers.TPESampler(n_startup_trials=TPE_FROM, seed=seed), 48),
    # One ask costs about 0.3 s, and the same history proposes much the same again.
    "gp": Alternative(lambda seed: optuna.samplers.GPSampler(n_startup_trials=TPE_FROM, seed=seed), 3, True),
    # For the benchmark: the default population would be random search at these budgets.
    "nsga2": Alternative(lambda seed: optuna.samplers.NSGAIISampler(population_size=8, seed=seed), 48, True),
}


def check_installed(method: str) -> None:
    """Raises UsageError where a sampler's library is missing."""
    if method == "gp" and find_spec("torch") is None:
        raise UsageError(
            "--sampler gp: Optuna's GPSampler needs torch, which is not installed here; install it (pip install torch) "
            "or use the default, prior-gp, which needs nothing more"
        )


def informative(history: Sequence[PastTrial], problem: Problem) -> int:
    """Trials an alternative can learn from: those that told something and lie in the grid."""
    names = set(distributions(problem.dimensions))
    return sum(trial.counted and names <= set(trial.params) for trial in history)


def proposed(
    problem: Problem, history: Sequence[PastTrial], untried: Sequence[Candidate], seed: int, method: str = "tpe"
) -> ServingConfig:
    """Of an alternative's proposals that are untried candidates the best predicted, else the nearest candidate.

    The sampler knows what was measured and the engine model what is likely: proposing by the one and choosing by the
    other wastes fewer trials than either alone (tests/benchmarks/regret.py prints the regret).
    """
    alternative = ALTERNATIVES[method]
    space = distributions(problem.dimensions)
    points = {c: _point(c.config, problem.dimensions, space) for c in untried}
    by_point = {tuple(point.values()): c for c, point in points.items()}
    view = view_of(history, space, alternative, seed)
    proposals: list[tuple[Scalar, ...]] = []
    members: dict[str, Candidate] = {}
    for _ in range(alternative.asks):
        asked = view.ask(fixed_distributions=space)
        # The free slot decides the pool; a proposal says the rest.
        wished = {**asked.params, "pool": untried[0].config.pool}
        proposal = tuple(snap(wished[name], problem.dimensions[name]) for name in space)
        view.tell(asked, state=TrialState.FAIL)  # a failed trial is invisible to them: the next ask is a fresh draw
        proposals.append(proposal)
        if proposal in by_point:
            members[by_point[proposal].config.fingerprint] = by_point[proposal]
        if len(members) == _MEMBERS:
            break
    if members:
        return min(members.values(), key=merit).config
    return nearest(untried, [tuple(p.values()) for p in points.values()], proposals).config


def merit(candidate: Candidate) -> tuple[bool, float, str]:
    """Sorts candidates as the engine model does: those that fit first, then the cheapest."""
    return (candidate.margin_gib < 0, candidate.predicted_usd_per_million, candidate.config.fingerprint)


def _point(
    config: ServingConfig, dimensions: Mapping[str, tuple[Scalar, ...]], space: Mapping[str, BaseDistribution]
) -> dict[str, Scalar]:
    point = coordinates(config, dimensions)
    if point is None:
        raise ValueError(f"candidate {config.describe()} lies outside the dimensions of its own space")
    return {name: point[name] for name in space}


def nearest(
    candidates: Sequence[Candidate], points: Sequence[tuple[Scalar, ...]], proposals: Sequence[tuple[Scalar, ...]]
) -> Candidate:
    """Nearest by the number of dimensions that differ; the predicted feasible first, then the cheapest predicted."""
    wanted = list(dict.fromkeys(proposals))[:_NEAREST_OF]

    def rank(index: int) -> tuple[bool, int, tuple[bool, float, str]]:
        distance = min(sum(a != b for a, b in zip(points[index], p, strict=True)) for p in wanted)
        return (candidates[index].margin_gib < 0, distance, merit(candidates[index]))

    return candidates[min(range(len(candidates)), key=rank)]


def view_of(
    history: Sequence[PastTrial], space: dict[str, BaseDistribution], alternative: Alternative, seed: int
) -> optuna.Study:
    """The history as an alternative should see it: in memory, at today's prices, only what has a place in the grid.

    Proposing then writes nothing to the database, and points outside the grid do not empty the common search space.
    """
    backend = optuna.storages.InMemoryStorage()
    view = optuna.create_study(storage=backend, sampler=alternative.make(seed), direction="minimize")
    placed = [t for t in history if set(space) <= set(t.params) and (t.counted or not t.finished)]
    worst = max((cost for t in placed if (cost := t.usd_per_million or t.bound_usd_per_million)), default=1.0)
    for trial in placed:
        seen = _as_seen(trial, space)
        if alternative.complete_only and trial.finished:
            seen = _as_complete(trial, space, worst)
        view.add_trial(seen)
    return view


def _as_complete(trial: PastTrial, space: dict[str, BaseDistribution], worst: float) -> FrozenTrial:
    """As a measured trial, whatever it was: a failure as dear as the worst, a bound as if it were the cost."""
    cost = trial.usd_per_million if trial.state == "measured" else None
    if trial.state == "pruned":
        cost = trial.bound_usd_per_million
    return create_trial(
        state=TrialState.COMPLETE,
        value=worst if cost is None else cost,
        params={name: trial.params[name] for name in space},
        distributions=space,
        constraints=dict(trial.constraints),
    )


def _as_seen(trial: PastTrial, space: dict[str, BaseDistribution]) -> FrozenTrial:
    params = {name: trial.params[name] for name in space}
    if not trial.finished:
        return create_trial(state=TrialState.RUNNING, params=params, distributions=space)
    if trial.state == "measured":
        return create_trial(
            state=TrialState.COMPLETE,
            value=trial.usd_per_million,
            params=params,
            distributions=space,
            constraints=dict(trial.constraints),
        )
    bound = trial.bound_usd_per_million
    return create_trial(
        state=TrialState.PRUNED,
        params=params,
        distributions=space,
        constraints=dict(trial.constraints),
        intermediate_values={} if bound is None else {0: bound},
    )
