"""Closed-form capacity of configurations under limits: orders what is worth measuring, and never replaces it.

Steady state of one engine, evenly routed. Retracted requests, routing luck and the first, cold request of a prefix
group are the simulator's business. Many configurations are computed together, as columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuner.model.architecture import Architecture
from tuner.model.catalogue import Accelerator
from tuner.model.load import LoadCurves, LoadPoint
from tuner.model.memory import MemoryPlan, plan_memory
from tuner.model.settings import EngineSettings
from tuner.model.steps import Coefficients, RooflineSteps
from tuner.model.table import Column, HasCoefficients, StepTable
from tuner.space.workload import Limits, Workload

_ITERATIONS = 6  # halvings between two neighbours of a doubling ladder: within 1 % of the batch
_IDLE_BATCH = 0.02  # "almost idle": one request in fifty finds another one running
_OPERATING_SHARE = 0.95  # the rate an operator would run, see the guard of the space file
_LADDER = 24  # halvings from any batch cap to an idle engine

_MISSED = ("", "ttft_p95_s", "tpot_p95_ms", "e2e_p95_s")


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
    steps: HasCoefficients | None = None,
) -> Prediction:
    """The highest request rate at which every limit holds, and what is seen at 95 % of it.

    `steps` replaces the roofline's step times, for hardware that is known better than the catalogue knows it.
    """
    return predict_many(arch, acc, [settings], workload, limits, steps=None if steps is None else [steps])[0]


def predict_many(
    arch: Architecture,
    acc: Accelerator,
    settings: Sequence[EngineSettings],
    workload: Workload,
    limits: Limits,
    *,
    steps: Sequence[HasCoefficients] | None = None,
) -> list[Prediction]:
    """`predict` for many configurations of one architecture and accelerator, in a fraction of the time."""
    plans = [plan_memory(arch, acc, s, workload.max_context_tokens) for s in settings]
    found = [_does_not_fit(plan) for plan in plans]
    rows = [i for i, plan in enumerate(plans) if plan.fits]
    if not rows:
        return found
    chosen = [settings[i] for i in rows]
    table = step_table(arch, acc, chosen) if steps is None else StepTable([steps[i].coefficients for i in rows])
    curves = LoadCurves(table, chosen, workload, [plans[i].kv_capacity_tokens for i in rows])
    best, capacity, limit = _highest(curves, limits)
    idle = curves.at(np.full_like(capacity, _IDLE_BATCH))
    seen = curves.at_share(best, _OPERATING_SHARE).where(capacity > 0, idle)
    tokens = workload.output_tokens.mean_tokens
    columns = np.stack([capacity, *seen[2:5], seen.e2e_p95_s, best.batch, seen.cached_fraction]).T.tolist()
    for i, row, name in zip(rows, columns, limit, strict=True):
        rate, p50, p95, tpot, e2e, batch, cached = row
        found[i] = Prediction(
            True,
            plans[i].margin_gib,
            rate,
            p50,
            p95,
            tpot,
            e2e,
            rate * tokens,
            batch if rate else 0.0,
            cached,
            name,
        )
    return found


def step_table(arch: Architecture, acc: Accelerator, settings: Sequence[EngineSettings]) -> StepTable:
    """Step times of all configurations; those that differ only in what step times do not depend on share an entry."""
    index: dict[tuple[object, ...], int] = {}
    entries: list[Coefficients] = []
    rows: list[int] = []
    for s in settings:
        key = (
            s.tp,
            s.precision,
            s.attn_dp,
            s.ep,
            s.kv_dtype,
            s.speculation_steps,
            s.draft_tokens,
            s.decode_graph_max_batch,
            s.overlap,
        )
        if key not in index:
            index[key] = len(entries)
            entries.append(RooflineSteps(arch, acc, s).coefficients)
        rows.append(index[key])
    return StepTable(entries, rows)


def _does_not_fit(plan: MemoryPlan) -> Prediction:
    never = math.inf
    return Prediction(False, plan.margin_gib, 0.0, never, never, never, never, 0.0, 0.0, 0.0, plan.binds)


def _highest(curves: LoadCurves, limits: Limits) -> tuple[LoadPoint, Column, list[str]]:
    """The points with the highest rate that hold all limits, their rates (0: none), and what stops each from more.

    Every latency grows with the running batch; the rate may fall again where a larger batch evicts cached prefixes.
    """
    first_missed = _missed(curves.at(np.full_like(curves.batch_cap, _IDLE_BATCH)), limits)
    best, above, broken, slots = _bracket(curves, limits)
    low = best.batch
    open_ = broken > 0
    for _ in range(_ITERATIONS):
        point = curves.at(np.where(open_, (low + above) / 2, low))
        missed = _missed(point, limits)
        holds, misses = open_ & (missed == 0), open_ & (missed > 0)
        best = point.where(holds & (point.rate > best.rate), best)
        low = np.where(holds, point.batch, low)
        above, broken = np.where(misses, point.batch, above), np.where(misses, missed, broken)
        slots = np.where(misses, point.slots_bind, slots)
    by_batch = (broken == 0) | ((broken == 1) & slots.astype(bool))
    capacity = np.where(first_missed > 0, 0.0, best.rate)
    names = [
        _MISSED[first] if first else ("kv cache" if kv else "running requests") if full else _MISSED[word]
        for first, full, kv, word in zip(
            first_missed.tolist(), by_batch.tolist(), curves.kv_bound.tolist(), broken.tolist(), strict=True
        )
    ]
    return best, capacity, names


def _bracket(curves: LoadCurves, limits: Limits) -> tuple[LoadPoint, Column, Column, Column]:
    """Halve the batch from its cap until the limits hold: that point, the batch above it, what that broke and how."""
    batch = curves.batch_cap
    best = curves.at(batch)
    broken = _missed(best, limits)
    above, word, slots = batch, broken, best.slots_bind
    for _ in range(_LADDER):
        still = broken > 0
        if not still.any():
            break
        above, word = np.where(still, batch, above), np.where(still, broken, word)
        slots = np.where(still, best.slots_bind, slots)
        batch = np.where(still, np.maximum(_IDLE_BATCH, batch / 2), batch)
        best = curves.at(batch)
        broken = np.where(still & (batch > _IDLE_BATCH), _missed(best, limits), 0)
    return best, above, word, slots


def _missed(point: LoadPoint, limits: Limits) -> Column:
    """Number of the first limit each point breaks, 0 for none."""
    never = math.inf
    tpot_s = never if limits.tpot_p95_ms is None else limits.tpot_p95_ms / 1e3
    return np.select(
        [
            point.ttft_p95_s > (never if limits.ttft_p95_s is None else limits.ttft_p95_s),
            point.tpot_p95_s > tpot_s,
            point.e2e_p95_s > (never if limits.e2e_p95_s is None else limits.e2e_p95_s),
        ],
        [1, 2, 3],
        0,
    )
