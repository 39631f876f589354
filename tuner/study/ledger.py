"""What a search has used, what it is expected to take, and its best so far, as one event. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuner.study.budget import Used, expected
from tuner.study.events import Best, Ledger
from tuner.study.history import PastTrial, measured_by_cost
from tuner.study.problem import Budget, ConfirmPlan


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
    best = next(iter(measured_by_cost(history)), None)
    ahead = expected(budget, used, history, confirmed, plan, slots)
    return Ledger(used, ahead, budget, dict(limits), None if best is None else _best(best))


def _best(trial: PastTrial) -> Best:
    return Best(trial.number, trial.config, trial.usd_per_million, trial.capacity_req_per_s, trial.ttft_p95_s)
