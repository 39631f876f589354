"""What a search says of itself, as events. Pure; knows no terminal and no log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tuner.study import confirm
from tuner.study.events import ConfirmEnded, ConfirmStarted, TrialEnded
from tuner.study.floor import Flight
from tuner.study.history import PastTrial, counted, measured_by_cost
from tuner.study.problem import Problem
from tuner.study.starter import Starter


def trial_ended(flight: Flight, trial: PastTrial, history: Sequence[PastTrial]) -> TrialEnded:
    """A trial that was just recorded, and how it stands among the others."""
    best = next(iter(measured_by_cost(history)), None)
    return TrialEnded(
        trial.number,
        flight.spec.id,
        flight.config,
        trial.state,
        counted(history),
        trial.usd_per_million,
        trial.capacity_req_per_s,
        trial.ttft_p95_s,
        trial.failure,
        best=not flight.confirmation and best is not None and best.number == trial.number,
        confirmation=flight.confirmation,
        same_as=trial.same_as,
    )


def confirmation_events(
    former: confirm.Step,
    step: confirm.Step,
    problem: Problem,
    runs: Sequence[PastTrial],
    retries: int,
    starter: Starter,
) -> Iterator[ConfirmEnded | ConfirmStarted]:
    """What is worth telling between two steps of the confirmation: a candidate decided, the next one begun."""
    changed = former.rank != step.rank
    repeats = problem.confirm.repeats
    if former.candidate is not None and (changed or step.winner is not None):
        mine = [run for run in runs if run.fingerprint == former.candidate.fingerprint]
        says = confirm.standing(mine, repeats, retries)
        config, holds = starter.config(former.candidate), step.winner is not None
        yield ConfirmEnded(config, former.rank, holds=holds, undecided=says == "undecided")
    if step.candidate is not None and step.winner is None and changed:
        rate = confirm.load_of(step.candidate, problem).rate_req_per_s
        yield ConfirmStarted(starter.config(step.candidate), step.rank, rate, repeats)
