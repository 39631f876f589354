"""A small search problem with a known truth, for tests of the study and of what reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from tuner.space.config import Choice, Layout, Scalar, ServingConfig
from tuner.space.workload import Length, Limits, Workload
from tuner.study.problem import Budget, Candidate, ConfirmPlan, Problem
from tuner.trial.result import Failure, TrialResult
from tuner.trial.spec import Confirm, TrialSpec

LAYOUTS = (Layout(8), Layout(4, dp=2))
WEIGHTS = ("fp8", "mxfp4")
SPECULATION = (Choice("off"), Choice("mtp", (("steps", 1),)), Choice("mtp", (("steps", 3),)))
RUNNING = (32, 64, 128, 256)
FRACTIONS = (0.8, 0.84, 0.88)
WORKLOAD = Workload(Length.fixed(20_000), Length.fixed(1_000), cached_fraction=0.6)
LIMITS = Limits(ttft_p95_s=5.0, error_rate=0.005)


def a_config(
    pool: str = "mi355x",
    layout: Layout = LAYOUTS[0],
    weights: str = "fp8",
    speculation: Choice = SPECULATION[0],
    running: int = 128,
    fraction: float = 0.84,
) -> ServingConfig:
    """One point of the small space."""
    values: list[tuple[str, Scalar | Choice]] = [
        ("max-running-requests", running),
        ("mem-fraction-static", fraction),
        ("speculation", speculation),
        ("weights", Choice(weights)),
    ]
    return ServingConfig(pool, layout, tuple(values))


ENGINE_DEFAULT = ServingConfig("mi355x", Layout(8), (("weights", Choice("fp8")),), only=("model", "tp"))


def true_capacity(config: ServingConfig) -> float:
    """Requests per second the configuration really serves."""
    capacity = 1.0 + 0.5 * (config.layout.dp == 2) + 0.4 * (config.get("weights") == Choice("mxfp4"))
    speculation = config.get("speculation")
    steps = dict(speculation.params).get("steps", 0) if isinstance(speculation, Choice) else 0
    running = config.get("max-running-requests") or 64
    return capacity * (1 + 0.1 * int(steps)) * (1 - abs(int(running) - 128) / 1000)


def candidates(pools: tuple[str, ...] = ("mi355x",)) -> list[Candidate]:
    """All valid points: full batches do not fit beside the largest fraction."""
    found = []
    for pool, layout, weights, speculation, running, fraction in product(
        pools, LAYOUTS, WEIGHTS, SPECULATION, RUNNING, FRACTIONS
    ):
        if running == 256 and fraction == 0.88:
            continue
        config = a_config(pool, layout, weights, speculation, running, fraction)
        predicted = true_capacity(config) * (1.1 if weights == "fp8" else 0.95)
        margin = 8.0 if fraction < 0.88 else -0.5
        found.append(Candidate(config, 16.8e6 / (3600 * predicted * 1000), predicted, margin))
    return found


def dimensions(pools: tuple[str, ...] = ("mi355x",)) -> Mapping[str, tuple[Scalar, ...]]:
    return {
        "pool": pools,
        "layout": tuple(layout.label for layout in LAYOUTS),
        "weights": WEIGHTS,
        "speculation": tuple(choice.label for choice in SPECULATION),
        "max-running-requests": RUNNING,
        "mem-fraction-static": FRACTIONS,
    }


def make_spec(
    config: ServingConfig,
    trial_id: str,
    attempt: int,
    seed: int,
    incumbent: float | None,
    confirm: Confirm | None,
    *,
    study: str = "demo",
    usd_per_hour: float = 16.8,
) -> TrialSpec:
    return TrialSpec(
        id=trial_id,
        study=study,
        config=config.as_json(),
        fingerprint=config.fingerprint,
        argv=("python3", "-m", "sglang.launch_server", f"--tp={config.layout.tp}"),
        env={},
        gpus=config.layout.gpus,
        usd_per_hour=usd_per_hour,
        workload=WORKLOAD,
        limits=LIMITS,
        guard=0.05,
        incumbent_req_per_s=incumbent,
        seed=seed,
        simulated=True,
        attempt=attempt,
        pool=config.pool,
        confirm=confirm,
        context={"args": [f"--tp={config.layout.tp}"], "program": ["python3"], "env": {"A": "1"}},
    )


def a_problem(**changes: Any) -> Problem:
    """A problem of eight trials and two seeds, one of them outside the grid."""
    pools = changes.pop("pools", ("mi355x",))
    problem = Problem(
        name="demo",
        identity={"workload": {"input_tokens": 20_000}, "image": "sglang@sha256:1"},
        candidates=candidates(pools),
        seeds=[("engine-default", ENGINE_DEFAULT), ("baseline", a_config())],
        dimensions=dimensions(pools),
        workload=WORKLOAD,
        limits=LIMITS,
        guard=0.05,
        make_spec=make_spec,
        budget=Budget(trials=8),
        confirm=ConfirmPlan(top=3, repeats=2, minutes=10),
    )
    return replace(problem, **changes)


def config_of(spec: TrialSpec) -> ServingConfig:
    return ServingConfig.from_json(spec.config)


def measured(spec: TrialSpec, capacity: float | None = None, **changes: Any) -> TrialResult:
    """A good result at the true capacity; a confirmation holds when its rate is at most that."""
    capacity = true_capacity(config_of(spec)) if capacity is None else capacity
    if spec.confirm is not None:
        capacity = spec.confirm.rate_req_per_s
    result = TrialResult(
        spec.id,
        "measured",
        capacity_req_per_s=capacity,
        ttft_p95_s=4.2,
        output_tokens_per_s=1000 * capacity,
        start_up_s=300.0,
        gpu_seconds=600.0 * spec.gpus,
        node="node-1",
        simulated=spec.simulated,
    )
    return replace(result, **changes)


def infeasible(spec: TrialSpec, ttft_p95_s: float = 7.5) -> TrialResult:
    return TrialResult(
        spec.id, "infeasible", ttft_p95_s=ttft_p95_s, bound_req_per_s=0.2, gpu_seconds=600.0 * spec.gpus, simulated=True
    )


def raced_out(spec: TrialSpec, bound: float = 0.5) -> TrialResult:
    return TrialResult(
        spec.id, "pruned", ttft_p95_s=3.0, bound_req_per_s=bound, gpu_seconds=300.0 * spec.gpus, simulated=True
    )


def failed(
    spec: TrialSpec, failure_class: str = "configuration", kind: str = "oom_weights", **changes: Any
) -> TrialResult:
    message = changes.pop("message", "ran out of accelerator memory while loading weights")
    failure = Failure(failure_class, kind, message, **changes)
    state = "invalid" if failure_class == "measurement" else "failed"
    return TrialResult(spec.id, state, failure=failure, gpu_seconds=100.0 * spec.gpus, node="node-1", simulated=True)
