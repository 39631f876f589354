"""What a result means to the study: the decision table of failures, as one pure function.

Knows no Optuna study and no database; `record` writes what this decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tuner.space.workload import Limits
from tuner.study.history import PastState
from tuner.study.problem import TokenWeights
from tuner.study.score import (
    FAILURE,
    bound_cost,
    breaks_a_limit,
    held_slack,
    missed_slack,
    paid_tokens_per_request,
    score,
    usd_per_million,
)
from tuner.trial.result import UNSPECIFIED, TrialResult
from tuner.trial.spec import TrialSpec

Told = Literal["COMPLETE", "PRUNED", "FAIL"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is told of a trial.

    `constraints` is empty for FAIL, else one slack per limit and `failure`. `value` is set for COMPLETE only.
    `bound_usd_per_million` is the least a dropped trial can cost. `failure` is a short sentence.
    """

    told: Told
    state: PastState
    constraints: Mapping[str, float]
    value: float | None = None
    bound_usd_per_million: float | None = None
    failure: str | None = None


def judge(result: TrialResult, spec: TrialSpec, token_weights: TokenWeights) -> Verdict:
    """Sort a result by what must happen next."""
    failure = result.failure
    if result.state == "failed" and failure and failure.failure_class == "infrastructure":
        return Verdict("FAIL", "failed", {}, failure=sentence(result))
    if result.state == "invalid" or (failure and failure.failure_class == "measurement"):
        return Verdict("FAIL", "invalid", {}, failure=sentence(result))
    if result.state == "failed":
        slack = dict.fromkeys(spec.limits.as_json(), 0.0)
        return Verdict("PRUNED", "failed", {**slack, FAILURE: 1.0}, failure=sentence(result))
    if result.state == "pruned":
        constraints = {**held_slack(result, spec.limits), FAILURE: 0.0}
        return Verdict("PRUNED", "pruned", constraints, bound_usd_per_million=_bound(result, spec, token_weights))
    if result.state == "infeasible" or not _capacity(result, spec) or breaks_a_limit(result, spec.limits):
        constraints = {**missed_slack(result, spec.limits), FAILURE: 0.0}
        return Verdict(
            "PRUNED",
            "infeasible",
            constraints,
            bound_usd_per_million=_bound(result, spec, token_weights),
            failure=_nearest_miss(result, spec.limits, constraints),
        )
    constraints = {**held_slack(result, spec.limits), FAILURE: 0.0}
    return Verdict("COMPLETE", "measured", constraints, value=_cost(result, spec, token_weights))


def _capacity(result: TrialResult, spec: TrialSpec) -> float:
    return spec.confirm.rate_req_per_s if spec.confirm else result.capacity_req_per_s or 0.0


def _cost(result: TrialResult, spec: TrialSpec, weights: TokenWeights) -> float:
    """A search is priced below its capacity by the guard; a confirmation at the very rate it held."""
    if spec.confirm is None:
        return score(
            result, spec.usd_per_hour, spec.guard, weights, spec.workload, spec.limits
        ).usd_per_million_output_tokens
    tokens = paid_tokens_per_request(weights, spec.workload, spec.workload.output_tokens.mean_tokens)
    return usd_per_million(spec.usd_per_hour, spec.confirm.rate_req_per_s, tokens)


def _bound(result: TrialResult, spec: TrialSpec, weights: TokenWeights) -> float | None:
    if not result.bound_req_per_s:
        return None
    return bound_cost(result.bound_req_per_s, spec.usd_per_hour, spec.guard, weights, spec.workload)


def _nearest_miss(result: TrialResult, limits: Limits, constraints: Mapping[str, float]) -> str:
    ttft = result.ttft_p95_s
    if ttft is not None and limits.ttft_p95_s is not None and ttft > limits.ttft_p95_s:
        return f"missed at every rate: nearest TTFT p95 {ttft:.2f} s, limit {limits.ttft_p95_s:g} s"
    missed = [key for key, slack in constraints.items() if slack > 0]
    return f"missed at every rate: {', '.join(missed)}"


def sentence(result: TrialResult) -> str | None:
    """Why the trial has no figures, in one line: `oom_weights: ran out of memory while loading weights`."""
    failure = result.failure
    if failure is None:
        return None
    message = " ".join(failure.message.split())
    text = ": ".join(part for part in (failure.kind if failure.kind != UNSPECIFIED else "", message) if part)
    text = text or failure.kind
    return text if len(text) <= _SENTENCE_CHARACTERS else text[: _SENTENCE_CHARACTERS - 3] + "..."


_SENTENCE_CHARACTERS = 300
_LOG_TAIL_BYTES = 4096


def stored_result(result: TrialResult) -> dict[str, Any]:
    """The result as the database keeps it: its log tail cut to the last 4 KiB."""
    doc = result.as_json()
    if doc["failure"]:
        tail = doc["failure"]["log_tail"].encode()[-_LOG_TAIL_BYTES:]
        doc["failure"] = {**doc["failure"], "log_tail": tail.decode(errors="ignore")}
    return doc
