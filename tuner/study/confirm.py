"""Which candidate is confirmed next, and what its confirmations say of it.

Pure. Confirmation trials live in the sibling study `<name>/confirm`: COMPLETE holds its guarded rate, PRUNED missed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tuner.study.history import PastTrial
from tuner.study.problem import ConfirmPlan, Problem
from tuner.study.retry import by_configuration
from tuner.trial.spec import Confirm

Standing = Literal["holds", "missed", "undecided", "open"]
"""`missed`: refuted by one repetition. `undecided`: lost too often to tell. `open`: repetitions are still owed."""


def sibling(study_name: str) -> str:
    """The name of the study that holds a study's confirmations."""
    return f"{study_name}/confirm"


def load_of(candidate: PastTrial, problem: Problem) -> Confirm:
    """The load a candidate must hold: its guarded rate, for as long as the plan says."""
    rate = (1 - problem.guard) * (candidate.capacity_req_per_s or 0.0)
    return Confirm(rate, 60 * problem.confirm.minutes)


def standing(runs: Sequence[PastTrial], repeats: int, retries: int) -> Standing:
    """What the confirmations of one configuration say."""
    if any(trial.counted and trial.state != "measured" for trial in runs):
        return "missed"
    if sum(trial.state == "measured" for trial in runs) >= repeats:
        return "holds"
    lost = sum(trial.finished and not trial.counted for trial in runs)
    return "undecided" if lost > retries * repeats else "open"


@dataclass(frozen=True, slots=True)
class Step:
    """What confirmation does next. `missing` repetitions of `candidate` are to be started; `winner` ends it."""

    candidate: PastTrial | None = None
    rank: int = 0
    missing: int = 0
    winner: PastTrial | None = None


def next_step(ranked: Sequence[PastTrial], runs: Sequence[PastTrial], plan: ConfirmPlan, retries: int) -> Step:
    """Down the list until one holds. An empty step means that the list is exhausted."""
    groups = by_configuration(runs)
    for rank, candidate in enumerate(ranked[: plan.top], start=1):
        past = groups.get(candidate.fingerprint, [])
        says = standing(past, plan.repeats, retries)
        if plan.repeats > 0 and says == "holds":
            return Step(candidate, rank, 0, candidate)
        if says == "open":
            held_or_running = sum(trial.state in ("measured", "running") for trial in past)
            return Step(candidate, rank, max(0, plan.repeats - held_or_running))
    return Step()


def unconfirmed(ranked: Sequence[PastTrial], runs: Sequence[PastTrial], plan: ConfirmPlan, retries: int) -> str:
    """Why there is no winner once the list is exhausted, for people."""
    if plan.top == 0:
        return "confirmation is switched off (confirm.top is 0): nothing was measured again"
    groups = by_configuration(runs)
    says = [standing(groups.get(c.fingerprint, []), plan.repeats, retries) for c in ranked[: plan.top]]
    missed, unknown = says.count("missed"), says.count("undecided")
    parts = [f"{missed} missed the limits at the guarded rate"] if missed else []
    if unknown:
        parts.append(f"{unknown} could not be measured again (every run was lost or invalid)")
    return f"of the best {len(says)} candidates {' and '.join(parts)}"
