"""Chooses the next configuration: seeds first, then the method the user asked for.

Pure functions of problem, history, number and seed: whoever resumes with the same history chooses the same. Whatever
is proposed is a valid candidate nobody has tried; nothing is ever proposed twice. Knows nothing of runtimes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from tuner.space.config import Choice, ServingConfig
from tuner.study import alternatives
from tuner.study.history import PastTrial
from tuner.study.prior_gp.proposal import propose
from tuner.study.problem import Candidate, Problem
from tuner.study.record import Pick

Method = Literal["prior-gp", "tpe", "gp", "random"]

DEFAULT: Method = "prior-gp"
MODEL_PICKS = 5
"""So many distinct strata are opened by the model's best before one of Optuna's samplers takes over."""


def choose(
    problem: Problem, history: Sequence[PastTrial], *, number: int, seed: int, pool: str, method: Method
) -> Pick | None:
    """The next configuration for a free slot of `pool`, or None when nothing is left to try there."""
    if problem.chosen:
        return _next_chosen(problem, history, pool)
    tried = {trial.fingerprint for trial in history if trial.state != "abandoned"}
    for name, config in problem.seeds:
        if config.pool == pool and config.fingerprint not in tried:
            return Pick(config, f"seed:{name}")
    if method == "prior-gp":
        proposal = propose(problem, history, number=number, seed=seed, pool=pool)
        return Pick(proposal.candidate.config, proposal.origin, proposal.reasons) if proposal else None
    here = [c for c in problem.candidates if c.config.pool == pool]
    untried = [c for c in here if c.config.fingerprint not in tried]
    if not untried:
        return None
    for best in strata(here)[: 0 if method == "random" else MODEL_PICKS]:  # random is the yardstick: it knows no model
        if best.config.fingerprint not in tried:
            return Pick(best.config, "model")
    lost = sum(trial.state == "abandoned" for trial in history)
    rng = np.random.default_rng([seed, number - lost])
    if method == "random" or alternatives.informative(history, problem) < alternatives.TPE_FROM:
        return Pick(untried[int(rng.integers(len(untried)))].config, "sampler")
    return Pick(alternatives.proposed(problem, history, untried, int(rng.integers(2**31)), method), "sampler")


def in_question(problem: Problem, history: Sequence[PastTrial]) -> Sequence[PastTrial]:
    """The trials this session may repeat: of chosen configurations only those."""
    chosen = {config.fingerprint for _, config in problem.chosen}
    return [trial for trial in history if trial.fingerprint in chosen] if chosen else history


def _next_chosen(problem: Problem, history: Sequence[PastTrial], pool: str) -> Pick | None:
    """The first chosen configuration without a trial of its own; one that was lost is the retries' business."""
    begun = {(trial.origin, trial.fingerprint) for trial in history if trial.state != "abandoned"}
    for origin, config in problem.chosen:
        if config.pool == pool and (origin, config.fingerprint) not in begun:
            return Pick(config, origin)
    return None


def strata(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The best predicted candidate of each (layout, weights), cheapest first; doubtful ones after the fitting."""
    best: dict[object, Candidate] = {}
    for candidate in candidates:
        key = _stratum(candidate.config)
        if key not in best or alternatives.merit(candidate) < alternatives.merit(best[key]):
            best[key] = candidate
    return sorted(best.values(), key=alternatives.merit)


def _stratum(config: ServingConfig) -> object:
    """Layout and weights; where a space has no `weights`, every bundle's name."""
    weights = config.get("weights")
    if isinstance(weights, Choice):
        return (config.layout, weights.name)
    return (config.layout, tuple(value.name for _, value in config.values if isinstance(value, Choice)))


def trial_seed(seed: int, number: int, phase: int = 0) -> int:
    """The seed of one trial's traffic: fresh for every trial, the same for whoever resumes."""
    return random.Random(f"{seed}/{phase}/{number}").getrandbits(31)  # noqa: S311 - reproducible, not secret
