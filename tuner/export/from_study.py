"""From a study's summary and its space to what is exported: the winner and its target."""

from __future__ import annotations

import math

from tuner.errors import NothingFeasible, UsageError
from tuner.export.target import Target, Volume
from tuner.export.winner import Alternative, Figures, Winner
from tuner.model.definition import accelerator_of
from tuner.space.schema import Volume as VolumeSpec
from tuner.space.space import Space
from tuner.study import summary as study

ALTERNATIVES = 3


def winner_of(summary: study.StudySummary, rank: int) -> Winner:
    """The configuration of a rank: the best first (a confirmed one goes before a cheaper unconfirmed one).

    Raises:
        NothingFeasible: fewer configurations were measured than the rank asks for.
    """
    ranked = by_rank(summary)
    if rank > len(ranked):
        raise NothingFeasible(f"{summary.study}: rank {rank} was asked for, {len(ranked)} configurations were measured")
    chosen = ranked[rank - 1]
    return Winner(
        study=summary.study,
        trial=chosen.trial,
        rank=rank,
        config=chosen.config,
        program=chosen.program,
        args=chosen.args,
        env=chosen.env,
        image=chosen.image,
        image_digest=chosen.image_digest,
        engine_version=chosen.engine_version,
        model=str((chosen.spec.get("context") or {}).get("model", "")),
        gpus=chosen.gpus,
        figures=_figures(chosen, summary),
        simulated=chosen.simulated,
        confirmed=chosen.confirmed,
        uid=summary.uid,
        versions={str(k): str(v) for k, v in (chosen.result.get("versions") or {}).items()},
        refuted=chosen.standing == "missed",
        alternatives=tuple(
            Alternative(
                f.trial, f.label, f.usd_per_million_output_tokens or 0.0, f.confirmed, refuted=f.standing == "missed"
            )
            for f in ranked[rank : rank + ALTERNATIVES]
        ),
    )


def replicas(winner: Winner, target_rate_req_per_s: float | None) -> int:
    """Replicas that serve a rate, each at its guarded rate; one without a rate."""
    if target_rate_req_per_s is None:
        return 1
    # A rate that is a whole number of replicas must not become one more by rounding.
    return max(1, math.ceil(target_rate_req_per_s / winner.figures.guarded_req_per_s - 1e-9))


def by_rank(summary: study.StudySummary) -> list[study.Figures]:
    """Measured configurations as an operator should consider them."""
    rest = [f for f in summary.ranked if f is not summary.best]
    return [summary.best, *rest] if summary.best else rest


def _figures(chosen: study.Figures, summary: study.StudySummary) -> Figures:
    capacity = chosen.capacity_req_per_s or 0.0
    guard = float(summary.plan.get("guard") or 0.0)
    return Figures(
        usd_per_million_output_tokens=chosen.usd_per_million_output_tokens or 0.0,
        capacity_req_per_s=capacity,
        guarded_req_per_s=chosen.confirmed_rate_req_per_s or (1 - guard) * capacity,
        ttft_p95_s=chosen.confirmed_ttft_p95_s or chosen.ttft_p95_s or 0.0,
        output_tokens_per_s=chosen.output_tokens_per_s or 0.0,
        limits=summary.plan.get("limits") or {},
    )


def target_of(space: Space, pool_name: str) -> Target:
    """Where the winner runs: the pool it was measured on.

    Raises:
        UsageError: the space file no longer has that pool.
    """
    pool = space.spec.pools.get(pool_name)
    if pool is None:
        raise UsageError(f"{space.file}: has no pool {pool_name}; the study was made with one")
    acc = accelerator_of(space.accelerator_said(pool_name))
    return Target(
        vendor=acc.vendor,
        gpu_resource=acc.resource_name,
        node_selector=pool.node_selector,
        tolerations=pool.tolerations,
        model_cache=_volume(pool.model_cache),
        compile_cache=_volume(pool.compile_cache),
        image_pull_secrets=pool.image_pull_secrets,
        priority_class=pool.priority_class or "",
    )


def _volume(spec: VolumeSpec | None) -> Volume | None:
    return Volume(pvc=spec.pvc or "", host_path=spec.host_path or "") if spec else None
