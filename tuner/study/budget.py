"""What a study has used of its budget, whether that ends it, and what the rest will take.

Pure. Everything is a sum over resumes: trials from their stored results, wall time from the stored sessions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuner.study.events import StoppedBy
from tuner.study.history import PastTrial, counted, measured_by_cost
from tuner.study.problem import Budget, ConfirmPlan

SESSION = "session:"
"""Study attribute prefix; one per controller that owned the study, with its `wall_s` so far."""

_MAX_RESERVED_SHARE = 1 / 3  # of a limit, so that a small budget still searches


@dataclass(frozen=True, slots=True)
class Used:
    """An amount of everything a budget limits."""

    trials: int = 0
    wall_s: float = 0.0
    gpu_hours: float = 0.0
    usd: float = 0.0

    def plus(self, other: Used) -> Used:
        return Used(
            self.trials + other.trials,
            self.wall_s + other.wall_s,
            self.gpu_hours + other.gpu_hours,
            self.usd + other.usd,
        )

    def times(self, factor: float) -> Used:
        return Used(round(self.trials * factor), self.wall_s * factor, self.gpu_hours * factor, self.usd * factor)


def used(history: Iterable[PastTrial], confirmations: Iterable[PastTrial], attrs: Mapping[str, Any]) -> Used:
    """What search and confirmation have used. Only the search's trials count as trials."""
    searched, confirmed = list(history), list(confirmations)
    both = searched + confirmed
    return Used(
        trials=counted(searched),
        wall_s=sum(float(v.get("wall_s", 0.0)) for k, v in attrs.items() if k.startswith(SESSION)),
        gpu_hours=sum(trial.gpu_hours for trial in both),
        usd=sum(trial.usd for trial in both),
    )


def per_trial(history: Sequence[PastTrial]) -> Used:
    """The mean finished trial; nothing known yet is nothing."""
    ended = [trial for trial in history if trial.result is not None]
    if not ended:
        return Used()
    n = len(ended)
    gpu_hours, usd = sum(t.gpu_hours for t in ended) / n, sum(t.usd for t in ended) / n
    wall_s = sum(3600 * t.gpu_hours / int((t.spec or {}).get("gpus") or 1) for t in ended) / n
    return Used(1, wall_s, gpu_hours, usd)


def reserve(plan: ConfirmPlan, best: PastTrial | None) -> Used:
    """What confirming `top` candidates like the best so far will take; nothing while there is no candidate."""
    if best is None or best.spec is None:
        return Used()
    start_up_s = float((best.result or {}).get("start_up_s") or 0.0)
    hours = plan.top * plan.repeats * (start_up_s + 60 * plan.minutes) / 3600
    return Used(
        wall_s=3600 * hours,
        gpu_hours=hours * int(best.spec.get("gpus") or 1),
        usd=hours * float(best.spec.get("usd_per_hour") or 0.0),
    )


def spent(budget: Budget, used: Used, in_flight: int = 0, each: Used | None = None) -> StoppedBy | None:
    """The limit that forbids starting another trial, or None. Running trials count as what the mean one takes."""
    if budget.trials is not None and used.trials + in_flight >= budget.trials:
        return "trials"
    ahead = (each or Used()).times(in_flight)
    if budget.wall_s is not None and used.wall_s >= budget.wall_s:
        return "wall"
    if budget.gpu_hours is not None and used.gpu_hours + ahead.gpu_hours >= budget.gpu_hours:
        return "gpu_hours"
    if budget.usd is not None and used.usd + ahead.usd >= budget.usd:
        return "usd"
    return None


def without(budget: Budget, reserved: Used) -> Budget:
    """The budget left for searching once the confirmation's share is set aside."""
    return replace(
        budget,
        wall_s=_less(budget.wall_s, reserved.wall_s),
        gpu_hours=_less(budget.gpu_hours, reserved.gpu_hours),
        usd=_less(budget.usd, reserved.usd),
    )


def _less(limit: float | None, reserved: float) -> float | None:
    return None if limit is None else limit - min(reserved, limit * _MAX_RESERVED_SHARE)


def forecast(budget: Budget, used: Used, each: Used, reserved: Used, slots: int) -> Used:
    """Totals at the end, if the remaining trials are like the mean one and `slots` run at once."""
    left = float("inf") if budget.trials is None else max(0.0, budget.trials - used.trials)
    for limit, so_far, one in (
        (budget.gpu_hours, used.gpu_hours, each.gpu_hours),
        (budget.usd, used.usd, each.usd),
        (budget.wall_s, used.wall_s, each.wall_s / max(1, slots)),
    ):
        if limit is not None and one > 0:
            left = min(left, max(0.0, limit - so_far) / one)
    if left == float("inf"):
        left = 0.0  # nothing bounds the search, so nothing can be foretold
    rest = each.times(left)
    return used.plus(replace(rest, wall_s=rest.wall_s / max(1, slots))).plus(reserved)


def expected(
    budget: Budget,
    used: Used,
    history: Sequence[PastTrial],
    confirmations: Sequence[PastTrial],
    plan: ConfirmPlan,
    slots: int,
) -> Used | None:
    """Totals at the end of a running search, confirmation included; None while nothing can be said.

    Once the search is over and confirmations have begun, only their own rest is still to come. A study that goes on
    with a larger budget has confirmations and is searched again.
    """
    each = per_trial(history)
    if not each.trials or budget == Budget():
        return None
    reserved = reserve(plan, next(iter(measured_by_cost(history)), None))
    left = without(budget, reserved)
    searching = any(not trial.finished for trial in history) or spent(left, used) is None
    if confirmations and (not searching or any(not run.finished for run in confirmations)):
        ended = sum(run.result is not None for run in confirmations)
        return used.plus(reserved.times(max(0.0, 1 - ended / max(1, plan.top * plan.repeats))))
    return forecast(left, used, each, reserved, slots)
