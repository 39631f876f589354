"""Exactly these configurations, each measured to its end: what `--only` asks of a study, or of a new one.

Reads the old trials; runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tuner.errors import UsageError
from tuner.space.config import ServingConfig
from tuner.study.problem import Budget, Problem
from tuner.study.summary import StudySummary, read_summary

ORIGIN = "again:"
"""Beginning of the origin of such a trial; the number of the trial it repeats follows."""


def only_these(
    problem: Problem, storage_url: str, numbers: Sequence[int], *, old: tuple[str, str] | None = None
) -> Problem:
    """The problem with these trials' configurations chosen; `old` is (study, database) of another study's trials.

    In the study itself the budget of trials makes room for them: they were asked for.

    Raises:
        UsageError: no such trial, or its configuration is no point of this space any more.
    """
    study, url = old or (problem.name, storage_url)
    summary = read_summary(url, study)
    origin = f"seed:{study}-" if old else ORIGIN
    chosen = [(f"{origin}{number}", _config(problem, summary, number)) for number in dict.fromkeys(numbers)]
    if old:
        return replace(problem, chosen=chosen, budget=replace(problem.budget, trials=len(chosen)))
    begun = {figures.origin for figures in summary.trials_in_order}
    owed = sum(origin not in begun for origin, _ in chosen)
    return replace(problem, chosen=chosen, budget=_room(problem.budget, summary.counted + owed))


def _room(budget: Budget, trials: int) -> Budget:
    return budget if budget.trials is None else replace(budget, trials=max(budget.trials, trials))


def _config(problem: Problem, summary: StudySummary, number: int) -> ServingConfig:
    fingerprint = next((f.fingerprint for f in summary.trials_in_order if f.trial == number), None)
    if fingerprint is None:
        raise UsageError(f"--only {number}: study {summary.study} has no such trial")
    members = [c.config for c in problem.candidates] + [config for _, config in problem.seeds]
    for config in members:
        if config.fingerprint == fingerprint:
            return config
    raise UsageError(f"--only {number}: its configuration is no point of this space any more")
