"""Figures of a trial -> cost per token and slack of every limit; and the costs and rates they imply for others.

Pure. Knows no study, no budget and no incumbent. Everybody is priced at (1 - guard) x the lower end of the capacity
bracket: that is the rate an operator would run.

    usd per million tokens = usd_per_hour / (3600 s/h x rate req/s x tokens per request) x 1e6
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tuner.space.workload import Limits, Workload
from tuner.study.problem import TokenWeights
from tuner.trial.result import TrialResult

FAILURE = "failure"
"""Constraint key beside one per limit: 1 when the configuration cannot serve, 0 when it can."""

_SECONDS_PER_HOUR = 3600.0
_MAX_SLACK = 100.0  # a miss a hundred times over says no more than a miss of thousands; keeps sums finite
_UNKNOWN_MISS = 1.0  # a limit missed by an unknown amount counts as missed by 100 %


@dataclass(frozen=True, slots=True)
class Score:
    """`usd_per_million_output_tokens` (weighted by the token weights) and (value - limit) / limit per limit."""

    usd_per_million_output_tokens: float
    slack: Mapping[str, float]


def score(
    result: TrialResult,
    usd_per_hour: float,
    guard: float,
    token_weights: TokenWeights,
    workload: Workload,
    limits: Limits,
) -> Score:
    """Price a measured trial.

    Raises:
        ValueError: the result has no capacity to price.
    """
    rate = result.capacity_req_per_s
    if not rate:
        raise ValueError(f"trial {result.id} has no capacity to price: its state is {result.state}")
    tokens = paid_tokens_per_request(token_weights, workload, _output_tokens(result, workload))
    return Score(usd_per_million(usd_per_hour, (1 - guard) * rate, tokens), held_slack(result, limits))


def usd_per_million(usd_per_hour: float, rate_req_per_s: float, tokens_per_request: float) -> float:
    """Cost of a million paid tokens at a rate; infinite when nothing is served or nothing is paid for."""
    tokens_per_hour = _SECONDS_PER_HOUR * rate_req_per_s * tokens_per_request
    return usd_per_hour / tokens_per_hour * 1e6 if tokens_per_hour > 0 else math.inf


def bound_cost(
    rate_req_per_s: float, usd_per_hour: float, guard: float, token_weights: TokenWeights, workload: Workload
) -> float:
    """Lower bound of the cost of a configuration whose capacity is at most the given rate."""
    tokens = paid_tokens_per_request(token_weights, workload, workload.output_tokens.mean_tokens)
    return usd_per_million(usd_per_hour, (1 - guard) * rate_req_per_s, tokens)


def rate_to_beat(
    usd_per_million_tokens: float, usd_per_hour: float, guard: float, token_weights: TokenWeights, workload: Workload
) -> float:
    """Capacity in req/s at which a configuration of this price costs exactly what the incumbent costs."""
    tokens = paid_tokens_per_request(token_weights, workload, workload.output_tokens.mean_tokens)
    return usd_per_hour * 1e6 / (usd_per_million_tokens * _SECONDS_PER_HOUR * (1 - guard) * tokens)


def paid_tokens_per_request(weights: TokenWeights, workload: Workload, output_tokens: float) -> float:
    """Tokens of one request that count as paid, weighted.

    The cached part is what the traffic offers, not what an engine achieved: a request is worth the same to its
    sender however lucky the cache was, and a lost cache must not look like more tokens sold.
    """
    prompt = workload.input_tokens.mean_tokens
    cached = prompt * workload.cached_fraction
    return weights.output * output_tokens + weights.input * (prompt - cached) + weights.cached_input * cached


def _output_tokens(result: TrialResult, workload: Workload) -> float:
    """Output tokens per request.

    Where the engine must write the drawn length, that length's mean is exact and the measured ratio only adds
    sampling noise. Where answers end by themselves, or a user's own command measured, the measured ratio counts.
    """
    drawn = workload.output_tokens.mean_tokens
    if (workload.sampling.ignore_eos and result.measurement) or not result.output_tokens_per_s:
        return drawn
    return result.output_tokens_per_s / (result.capacity_req_per_s or math.inf)


def held_slack(result: TrialResult, limits: Limits) -> dict[str, float]:
    """Slack of a trial that held its limits: never above 0. A figure nobody reported has slack 0."""
    return {key: min(0.0, slack or 0.0) for key, slack in _slacks(result, limits).items()}


def missed_slack(result: TrialResult, limits: Limits) -> dict[str, float]:
    """Slack of a trial that held them at no rate: at least one is above 0."""
    known = _slacks(result, limits)
    slacks = {key: slack or 0.0 for key, slack in known.items()}
    if not any(slack > 0 for slack in slacks.values()):
        silent = [key for key, slack in known.items() if slack is None]
        slacks[(silent or list(slacks))[0]] = _UNKNOWN_MISS
    return slacks


def breaks_a_limit(result: TrialResult, limits: Limits) -> bool:
    """Whether a sparse result contradicts its own claim to be measured within the limits.

    Our own probe decides by its samples, so its word stands; a user's command may only have reported a figure.
    """
    return result.measurement is None and any((slack or 0.0) > 0 for slack in _slacks(result, limits).values())


def _slacks(result: TrialResult, limits: Limits) -> dict[str, float | None]:
    return {key: _slack(_figure(result, key), limit) for key, limit in limits.as_json().items()}


def _slack(value: float | None, limit: float) -> float | None:
    if value is None:
        return None
    relative = (value - limit) / limit if limit > 0 else value
    return max(-1.0, min(_MAX_SLACK, relative))


def _figure(result: TrialResult, key: str) -> float | None:
    """The figure a limit is about: the trial's own, the measurement's, or that of the mildest open level."""
    own: float | None = getattr(result, key, None)
    if own is None and result.measurement is not None:
        own = getattr(result.measurement, key, None)
    if own is None:
        own = _mildest_level_figure(result, key)
    return own if own is None or math.isfinite(own) else None


def _mildest_level_figure(result: TrialResult, key: str) -> float | None:
    levels = [level for level in result.levels if level.kind == "open" and level.rate_req_per_s]
    if not levels:
        return None
    mildest = min(levels, key=lambda level: level.rate_req_per_s or 0.0)
    if key == "error_rate":
        return mildest.errors / mildest.requests if mildest.requests else None
    figure: float | None = getattr(mildest, key, None)
    return figure
