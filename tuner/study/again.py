"""Exactly these configurations, each measured to its end: what `--only` asks of a study, or of a new one.

Reads the old trials; runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tuner.errors import UsageError
from tuner.space.config import ServingConfig
from tuner.study.problem import Budget, Problem
from tuner.study.summary import Figures, StudySummary, read_summary

ORIGIN = "again:"
"""Beginning of the origin of such a trial; the number of the trial it repeats follows."""


def only_these(
    problem: Problem, storage_url: str, numbers: Sequence[int], *, old: tuple[str, str] | None = None
) -> Problem:
    """The problem with these trials' configurations chosen; `old` is (study, database) of another study's trials.

    The budget of trials makes room for those that have not told anything yet: they were asked for. A new study may have
    been begun before, with others.

    Raises:
        UsageError: no such trial, or its configuration is no point of this space any more.
    """
    study, url = old or (problem.name, storage_url)
    summary = read_summary(url, study)
    origin = f"seed:{study}-" if old else ORIGIN
    chosen = [(f"{origin}{number}", _config(problem, summary, number)) for number in dict.fromkeys(numbers)]
    here = summary if not old else _begun(problem.name, storage_url)
    counted, past = (here.counted, here.trials_in_order) if here else (0, ())
    room = counted + sum(not _has_told(past, origin, config) for origin, config in chosen)
    if old:
        return replace(problem, chosen=chosen, budget=replace(problem.budget, trials=room))
    return replace(problem, chosen=chosen, budget=_room(problem.budget, room))


def _begun(study: str, storage_url: str) -> StudySummary | None:
    """The new study, if an earlier command began it."""
    try:
        return read_summary(storage_url, study)
    except UsageError:
        return None


def _has_told(past: Sequence[Figures], origin: str, config: ServingConfig) -> bool:
    """Whether this choice was run and says something of its configuration; a lost one may have been tried again."""
    own = [f for f in past if f.fingerprint == config.fingerprint]
    first = next((i for i, f in enumerate(own) if f.origin == origin), len(own))
    return any(
        f.state in ("measured", "pruned", "infeasible")
        or (f.state == "failed" and (f.result.get("failure") or {}).get("class") == "configuration")
        for f in own[first:]
    )


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
