"""What a search has used, what it is expected to take, and its best so far, as one event. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuner.study.budget import Used, expected
from tuner.study.confirm import standing
from tuner.study.events import Best, Ledger
from tuner.study.history import PastTrial, measured_by_cost
from tuner.study.problem import Budget, ConfirmPlan
from tuner.study.retry import by_configuration


def ledger(
    budget: Budget,
    plan: ConfirmPlan,
    limits: Mapping[str, float],
    used: Used,
    history: Sequence[PastTrial],
    confirmed: Sequence[PastTrial],
    slots: int,
) -> Ledger:
    """The ledger of a search with these trials and confirmation runs; `slots` of them may run at once."""
    ahead = expected(budget, used, history, confirmed, plan, slots)
    return Ledger(used, ahead, budget, dict(limits), _best(history, confirmed, plan))


def _best(history: Sequence[PastTrial], confirmed: Sequence[PastTrial], plan: ConfirmPlan) -> Best | None:
    runs = by_configuration(confirmed)
    says = {key: standing(found, max(1, plan.repeats), retries=len(found)) for key, found in runs.items()}
    ranked = measured_by_cost(history)
    if not ranked:
        return None
    order = {"holds": 0, "missed": 2}
    best = min(ranked, key=lambda trial: order.get(says.get(trial.fingerprint, ""), 1))  # the first of equals
    figures = best.usd_per_million, best.capacity_req_per_s, best.ttft_p95_s
    return Best(best.number, best.config, *figures, says.get(best.fingerprint))
