"""Closed-form capacity of a configuration under limits: orders what is worth measuring, and never replaces it.

Steady state of one engine, evenly routed. Retracted requests, routing luck and the first, cold request of a prefix
group are the simulator's business.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from tuner.model.architecture import Architecture
from tuner.model.catalogue import Accelerator
from tuner.model.load import LoadCurve, LoadPoint
from tuner.model.memory import MemoryPlan, plan_memory
from tuner.model.protocol import StepTimes
from tuner.model.settings import EngineSettings
from tuner.model.steps import RooflineSteps
from tuner.space.workload import Limits, Workload

_ITERATIONS = 6  # halvings between two neighbours of a doubling ladder: within 1 % of the batch
_IDLE_BATCH = 0.02  # "almost idle": one request in fifty finds another one running
_OPERATING_SHARE = 0.95  # the rate an operator would run, see the guard of the space file


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model expects of one engine (all replicas). Times at 95 % of the capacity.

    With `capacity_req_per_s` 0 the times are those of an almost idle engine, the nearest miss; they are infinite
    where it does not fit. `limit` names what binds: a memory part, a limit (`ttft_p95_s`, ...), `running requests` or
    `kv cache`. `cached_fraction` is the share of prompt tokens found cached, of the share the traffic offers.
    """

    fits: bool
    margin_gib: float
    capacity_req_per_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    tpot_s: float
    e2e_p95_s: float
    output_tokens_per_s: float
    running_batch: float
    cached_fraction: float
    limit: str

    @property
    def meets_limits(self) -> bool:
        return self.capacity_req_per_s > 0


def predict(
    arch: Architecture,
    acc: Accelerator,
    settings: EngineSettings,
    workload: Workload,
    limits: Limits,
    *,
    steps: StepTimes | None = None,
) -> Prediction:
    """The highest request rate at which every limit holds, and what is seen at 95 % of it.

    `steps` replaces the roofline's step times, for hardware that is known better than the catalogue knows it.
    """
    plan = plan_memory(arch, acc, settings, workload.max_context_tokens)
    if not plan.fits:
        return _does_not_fit(plan)
    model = steps or _steps(arch, acc, _step_settings(settings))
    curve = LoadCurve(model, settings, workload, plan.kv_capacity_tokens)
    best, limit = _highest(curve, limits)
    seen = curve.at_share(best, _OPERATING_SHARE) if best else curve.at(_IDLE_BATCH)
    capacity = best.rate if best else 0.0
    return Prediction(
        fits=True,
        margin_gib=plan.margin_gib,
        capacity_req_per_s=capacity,
        ttft_p50_s=seen.ttft_p50_s,
        ttft_p95_s=seen.ttft_p95_s,
        tpot_s=seen.tpot_s,
        e2e_p95_s=seen.e2e_p95_s,
        output_tokens_per_s=capacity * workload.output_tokens.mean_tokens,
        running_batch=best.batch if best else 0.0,
        cached_fraction=seen.cached_fraction,
        limit=limit,
    )


def _does_not_fit(plan: MemoryPlan) -> Prediction:
    never = math.inf
    return Prediction(False, plan.margin_gib, 0.0, never, never, never, never, 0.0, 0.0, 0.0, plan.binds)


def _highest(curve: LoadCurve, limits: Limits) -> tuple[LoadPoint | None, str]:
    """The point with the highest rate that holds all limits, and what stops it from going higher.

    Every latency grows with the running batch; the rate may fall again where a larger batch evicts cached prefixes.
    """
    if missed := _missed(curve.at(_IDLE_BATCH), limits):
        return None, missed
    best, above = _bracket(curve, limits)
    if above is not None:
        low = best.batch
        for _ in range(_ITERATIONS):
            point = curve.at((low + above.batch) / 2)
            if _missed(point, limits):
                above = point
            else:
                low, best = point.batch, max(best, point)
    return best, _what_binds(curve, above, limits)


def _bracket(curve: LoadCurve, limits: Limits) -> tuple[LoadPoint, LoadPoint | None]:
    """Halve the batch from its cap until the limits hold: that point, and the one above it that misses a limit."""
    above: LoadPoint | None = None
    batch = curve.batch_cap
    while batch > _IDLE_BATCH:
        point = curve.at(batch)
        if not _missed(point, limits):
            return point, above
        above, batch = point, batch / 2
    return curve.at(_IDLE_BATCH), above


def _what_binds(curve: LoadCurve, above: LoadPoint | None, limits: Limits) -> str:
    """What the next higher load breaks; a TTFT lost to waiting for a place in the batch names what caps the batch."""
    missed = _missed(above, limits) if above is not None else ""
    if above is None or (missed == "ttft_p95_s" and above.slots_bind):
        return "kv cache" if curve.kv_bound else "running requests"
    return missed


def _missed(point: LoadPoint, limits: Limits) -> str:
    """The first limit the point breaks, or nothing."""
    if limits.ttft_p95_s is not None and point.ttft_p95_s > limits.ttft_p95_s:
        return "ttft_p95_s"
    if limits.tpot_p95_ms is not None and point.tpot_p95_s * 1e3 > limits.tpot_p95_ms:
        return "tpot_p95_ms"
    if limits.e2e_p95_s is not None and point.e2e_p95_s > limits.e2e_p95_s:
        return "e2e_p95_s"
    return ""


def _step_settings(settings: EngineSettings) -> EngineSettings:
    """The part of the settings that step times depend on, so that one entry serves many configurations."""
    return EngineSettings(
        tp=settings.tp,
        precision=settings.precision,
        attn_dp=settings.attn_dp,
        ep=settings.ep,
        kv_dtype=settings.kv_dtype,
        speculation_steps=settings.speculation_steps,
        speculation_topk=settings.speculation_topk,
        draft_tokens=settings.draft_tokens,
        decode_graph_max_batch=settings.decode_graph_max_batch,
    )


@lru_cache(maxsize=4096)
def _steps(arch: Architecture, acc: Accelerator, settings: EngineSettings) -> RooflineSteps:
    return RooflineSteps(arch, acc, settings)
