"""Chooses the next configuration: retries due, then seeds, then the model's diversified best, then a sampler.

Pure functions of problem, history, number and seed: whoever resumes with the same history chooses the same. Whatever
is proposed is a valid candidate nobody has tried; nothing is ever proposed twice. Knows nothing of runtimes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial

from tuner.space.config import Choice, Scalar, ServingConfig
from tuner.study.history import PastTrial
from tuner.study.params import distributions, snap
from tuner.study.problem import Candidate, Problem, coordinates
from tuner.study.record import Pick

Method = Literal["tpe", "random"]

MODEL_PICKS = 5
"""So many distinct strata are opened by the model's best before the sampler takes over."""
_PROPOSALS = 48  # TPE asks behind the validity filter; one costs about 2 ms
_NEAREST_OF = 4  # draws are independent: the first few stand for all, and comparing all takes seconds on large spaces
_MEMBERS = 8  # distinct proposals the model chooses from
_TPE_FROM = 4  # with fewer finished points TPE only draws at random; so do we, among valid candidates


def choose(
    problem: Problem, history: Sequence[PastTrial], *, number: int, seed: int, pool: str, method: Method
) -> Pick | None:
    """The next configuration for a free slot of `pool`, or None when nothing is left to try there."""
    tried = {trial.fingerprint for trial in history if trial.state != "abandoned"}
    for name, config in problem.seeds:
        if config.pool == pool and config.fingerprint not in tried:
            return Pick(config, f"seed:{name}")
    here = [c for c in problem.candidates if c.config.pool == pool]
    untried = [c for c in here if c.config.fingerprint not in tried]
    if not untried:
        return None
    for best in strata(here)[: MODEL_PICKS if method == "tpe" else 0]:  # random is the yardstick: it knows no model
        if best.config.fingerprint not in tried:
            return Pick(best.config, "model")
    rng = np.random.default_rng([seed, number])
    if method == "random" or _informative(history, problem) < _TPE_FROM:
        return Pick(untried[int(rng.integers(len(untried)))].config, "sampler")
    return Pick(_filtered_tpe(problem, history, untried, int(rng.integers(2**31))), "sampler")


def strata(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The best predicted candidate of each (layout, weights), cheapest first; doubtful ones after the fitting."""
    best: dict[object, Candidate] = {}
    for candidate in candidates:
        key = _stratum(candidate.config)
        if key not in best or _merit(candidate) < _merit(best[key]):
            best[key] = candidate
    return sorted(best.values(), key=_merit)


def _merit(candidate: Candidate) -> tuple[bool, float, str]:
    return (candidate.margin_gib < 0, candidate.predicted_usd_per_million, candidate.config.fingerprint)


def _stratum(config: ServingConfig) -> object:
    """Layout and weights; where a space has no `weights`, every bundle's name."""
    weights = config.get("weights")
    if isinstance(weights, Choice):
        return (config.layout, weights.name)
    return (config.layout, tuple(value.name for _, value in config.values if isinstance(value, Choice)))


def _informative(history: Sequence[PastTrial], problem: Problem) -> int:
    names = set(distributions(problem.dimensions))
    return sum(trial.counted and names <= set(trial.params) for trial in history)


def _filtered_tpe(
    problem: Problem, history: Sequence[PastTrial], untried: Sequence[Candidate], seed: int
) -> ServingConfig:
    """Of TPE's proposals that are untried candidates the best predicted, else the candidate nearest to one of them.

    TPE knows what was measured and the engine model what is likely: proposing by the one and choosing by the other
    wastes fewer trials than either alone (tests/benchmarks/regret.py prints the regret).
    """
    space = distributions(problem.dimensions)
    points = {c: _point(c.config, problem.dimensions, space) for c in untried}
    by_point = {tuple(point.values()): c for c, point in points.items()}
    view = tpe_view(history, space, seed)
    proposals: list[tuple[Scalar, ...]] = []
    members: dict[str, Candidate] = {}
    for _ in range(_PROPOSALS):
        asked = view.ask(fixed_distributions=space)
        # The free slot decides the pool; a proposal says the rest.
        wished = {**asked.params, "pool": untried[0].config.pool}
        proposal = tuple(snap(wished[name], problem.dimensions[name]) for name in space)
        view.tell(asked, state=TrialState.FAIL)  # a failed trial is invisible to TPE: the next ask is a fresh draw
        proposals.append(proposal)
        if proposal in by_point:
            members[by_point[proposal].config.fingerprint] = by_point[proposal]
        if len(members) == _MEMBERS:
            break
    if members:
        return min(members.values(), key=_merit).config
    return nearest(untried, [tuple(p.values()) for p in points.values()], proposals).config


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
        return (candidates[index].margin_gib < 0, distance, _merit(candidates[index]))

    return candidates[min(range(len(candidates)), key=rank)]


def tpe_view(history: Sequence[PastTrial], space: dict[str, BaseDistribution], seed: int) -> optuna.Study:
    """The history as TPE should see it: in memory, at today's prices, only what has a place in the grid.

    Proposing then writes nothing to the database, and points outside the grid do not empty the common search space.
    """
    sampler = optuna.samplers.TPESampler(n_startup_trials=_TPE_FROM, seed=seed)
    view = optuna.create_study(storage=optuna.storages.InMemoryStorage(), sampler=sampler, direction="minimize")
    for trial in history:
        if set(space) <= set(trial.params) and (trial.counted or not trial.finished):
            view.add_trial(_as_seen(trial, space))
    return view


def _as_seen(trial: PastTrial, space: dict[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
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


def trial_seed(seed: int, number: int, phase: int = 0) -> int:
    """The seed of one trial's traffic: fresh for every trial, the same for whoever resumes."""
    return random.Random(f"{seed}/{phase}/{number}").getrandbits(31)  # noqa: S311 - reproducible, not secret
