"""What the engine model expects of one configuration under one load: closed form and simulated, and the terms of both.

Every figure here is computed; nothing is measured. A figure that does not exist (a layout that does not fit, a queue
that grows without end) is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TextIO

import numpy as np

from tuner.model.architecture import Architecture
from tuner.model.capacity import predict, step_table
from tuner.model.catalogue import GIB, Accelerator
from tuner.model.checkpoint import weight_parts
from tuner.model.load import LoadCurves
from tuner.model.memory import MemoryPlan, plan_memory
from tuner.model.settings import EngineSettings
from tuner.model.steps import RooflineSteps
from tuner.runtime.steady import Laboratory, Load, Seen
from tuner.space.workload import Limits, Workload

FIGURES = (
    "fits",
    "margin_gib",
    "output_tokens_per_s",
    "total_tokens_per_s_per_gpu",
    "tpot_s",
    "ttft_p50_s",
    "ttft_p95_s",
    "capacity_req_per_s",
)
_OVERLOAD = 1.001  # asked over served rate, beyond which the closed form has no steady state


@dataclass(frozen=True, slots=True)
class Case:
    """One configuration, its traffic and its load; a `load` of neither kind means: at its capacity."""

    name: str
    arch: Architecture
    acc: Accelerator
    settings: EngineSettings
    workload: Workload
    limits: Limits
    load: Load


def predict_json(case: Case) -> dict[str, Any]:
    """Both predictions and their terms, as one JSON document without infinities."""
    plan = plan_memory(case.arch, case.acc, case.settings, case.workload.max_context_tokens)
    doc: dict[str, Any] = {
        "configuration": case.name,
        "architecture": case.arch.name,
        "accelerator": case.acc.name,
        "gpus": case.settings.gpus,
        "settings": {k: v for k, v in asdict(case.settings).items() if v is not None},
        "input_tokens": case.workload.input_tokens.mean_tokens,
        "output_tokens": case.workload.output_tokens.mean_tokens,
        "offered_cached_fraction": case.workload.cached_fraction,
        "limits": case.limits.as_json(),
        "load": _load_json(case.load),
        "memory": _memory(plan),
    }
    nothing: dict[str, Any] = dict.fromkeys(FIGURES) | {"fits": plan.fits, "margin_gib": round(plan.margin_gib, 2)}
    if not plan.fits:
        why = {"limit": plan.binds}
        return doc | {"closed_form": nothing | why, "simulated": nothing | why | {"simulated": True}, "time": {}}
    closed, point = _closed_form(case, plan)
    simulated = _simulated(case, closed["capacity_req_per_s"])
    return doc | {
        "closed_form": nothing | closed,
        "simulated": nothing | simulated | {"simulated": True},
        "time": _time(case, point),
    }


def _load_json(load: Load) -> dict[str, Any]:
    if load.concurrency is not None:
        return {"kind": "closed loop", "concurrency": load.concurrency}
    if load.rate_req_per_s is not None:
        return {"kind": "open loop", "rate_req_per_s": load.rate_req_per_s}
    return {"kind": "open loop", "rate_req_per_s": "capacity"}


# ---- closed form ------------------------------------------------------------------------------------------------


def _closed_form(case: Case, plan: MemoryPlan) -> tuple[dict[str, Any], dict[str, float]]:
    found = predict(case.arch, case.acc, case.settings, case.workload, case.limits)
    table = step_table(case.arch, case.acc, [case.settings])
    curves = LoadCurves(table, [case.settings], case.workload, [plan.kv_capacity_tokens])
    asked = case.load.rate_req_per_s or found.capacity_req_per_s
    if case.load.concurrency is not None:
        columns = curves.closed(float(case.load.concurrency))
    else:
        columns = curves.at_rate(asked) if asked else curves.at(np.array([0.02]))
    point = {name: float(value[0]) for name, value in columns._asdict().items()}
    overloaded = case.load.concurrency is None and asked > _OVERLOAD * point["rate"]
    figures = _rates(case, point["rate"]) | {
        "tpot_s": point["tpot_s"],
        "ttft_p50_s": None if overloaded else _finite(point["ttft_p50_s"]),
        "ttft_p95_s": None if overloaded else _finite(point["ttft_p95_s"]),
        "capacity_req_per_s": found.capacity_req_per_s,
        "capacity_limited_by": found.limit,
        "running_per_scheduler": point["batch"],
        "cached_fraction": point["cached_fraction"],
        "overloaded": overloaded,
    }
    return figures, point


def _rates(case: Case, rate: float) -> dict[str, float]:
    asked, answered = case.workload.input_tokens.mean_tokens, case.workload.output_tokens.mean_tokens
    return {
        "rate_req_per_s": rate,
        "output_tokens_per_s": rate * answered,
        "total_tokens_per_s_per_gpu": rate * (asked + answered) / case.settings.gpus,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# ---- simulated --------------------------------------------------------------------------------------------------


def _simulated(case: Case, guess_req_per_s: float) -> dict[str, Any]:
    laboratory = Laboratory(case.arch, case.acc, case.settings, case.workload)
    capacity = laboratory.capacity(case.limits, guess_req_per_s=guess_req_per_s or None)
    load = case.load
    if load.concurrency is None and load.rate_req_per_s is None:
        load = Load(rate_req_per_s=capacity) if capacity else Load(concurrency=1)
    seen = laboratory.hold(load)
    return _seen_json(case, seen) | {"capacity_req_per_s": capacity}


def _seen_json(case: Case, seen: Seen) -> dict[str, Any]:
    return {
        "rate_req_per_s": seen.rate_req_per_s,
        "output_tokens_per_s": seen.output_tokens_per_s,
        "total_tokens_per_s_per_gpu": (seen.input_tokens_per_s + seen.output_tokens_per_s) / case.settings.gpus,
        "tpot_s": seen.tpot_s,
        "ttft_p50_s": seen.ttft_p50_s,
        "ttft_p95_s": seen.ttft_p95_s,
        "cached_fraction": seen.cached_fraction,
        "overloaded": seen.overloaded,
        "requests": seen.requests,
        "seeds": seen.seeds,
    }


# ---- terms ------------------------------------------------------------------------------------------------------


def _memory(plan: MemoryPlan) -> dict[str, Any]:
    """GiB of one GPU, and the pool in tokens."""
    weights = {part.label: round(part.bytes_per_gpu / GIB, 2) for part in weight_parts(plan.arch, plan.settings)}
    return {
        "hbm_gib": round(plan.acc.hbm_bytes / GIB, 1),
        "weights_gib": weights,
        "weights_together_gib": round(plan.weights_bytes / GIB, 2),
        "kv_pool_gib": round(plan.kv_capacity_tokens * plan.kv_bytes_per_token / GIB, 2),
        "kv_bytes_per_token": round(plan.kv_bytes_per_token),
        "kv_tokens_per_scheduler": plan.kv_capacity_tokens,
        "activations_gib": round(plan.activation_bytes / GIB, 2),
        "graphs_gib": round(plan.graph_bytes / GIB, 2),
        "runtime_gib": round(plan.runtime_bytes / GIB, 2),
        "margin_gib": round(plan.margin_gib, 2),
        "decided_by": plan.binds,
    }


def _time(case: Case, point: Mapping[str, float]) -> dict[str, Any]:
    """Where a step's time goes, milliseconds, at the closed form's operating point."""
    steps = RooflineSteps(case.arch, case.acc, case.settings)
    asked = case.workload.input_tokens.mean_tokens
    cached = point["cached_fraction"] * asked
    new = max(1.0, asked - cached)
    chunk = case.settings.chunked_prefill_tokens
    size = new / math.ceil(new / chunk) if chunk > 0 else new
    batch = max(1.0, point["batch"])
    context = asked + case.workload.output_tokens.mean_tokens / 2
    return {
        "tokens_per_decode_step": steps.tokens_per_verify,
        "prefill_share_of_time": point["busy"],
        "request_overhead_ms": steps.request_overhead_s * 1e3,
        "prefill_step": _terms(steps.breakdown_prefill(size, cached + new / 2), uncached_tokens=size),
        "decode_step": _terms(steps.breakdown_decode(batch, context), running=batch),
    }


def _terms(parts: Mapping[str, float], **at: float) -> dict[str, Any]:
    return {
        **at,
        "total_ms": sum(parts.values()) * 1e3,
        "terms_ms": {name: float(seconds) * 1e3 for name, seconds in parts.items() if seconds > 0},
    }


# ---- for people -------------------------------------------------------------------------------------------------


def print_prediction(doc: Mapping[str, Any], out: TextIO) -> None:
    """The document for people."""
    print(f"{doc['configuration']} on {doc['gpus']} x {doc['accelerator']}, {doc['architecture']}", file=out)
    load = ", ".join(f"{k} {v}" for k, v in doc["load"].items() if k != "kind")
    print(
        f"{doc['input_tokens']:,.0f} tokens in, {doc['output_tokens']:,.0f} out,"
        f" {doc['offered_cached_fraction']:.0%} cached; {doc['load']['kind']}, {load}",
        file=out,
    )
    print(f"\n{'(computed, nothing is measured)':34}{'closed form':>14}{'simulated':>14}", file=out)
    for name in FIGURES:
        cells = "".join(f"{_cell(doc[kind].get(name)):>14}" for kind in ("closed_form", "simulated"))
        print(f"{name:34}{cells}", file=out)
    for kind in ("closed_form", "simulated"):
        if doc[kind].get("overloaded"):
            print(f"{kind.replace('_', ' ')}: overloaded, the queue grows without end", file=out)
    _print_terms(doc, out)


def _print_terms(doc: Mapping[str, Any], out: TextIO) -> None:
    for name in ("prefill_step", "decode_step"):
        if name not in doc["time"]:
            continue
        step = doc["time"][name]
        size = ", ".join(
            f"{k.replace('_', ' ')} {v:,.0f}" for k, v in step.items() if k not in ("total_ms", "terms_ms")
        )
        print(f"\n{name.replace('_', ' ')} ({size}): {step['total_ms']:.1f} ms", file=out)
        for term, ms in sorted(step["terms_ms"].items(), key=lambda item: -item[1]):
            print(f"  {term:32}{ms:10.2f} ms {ms / step['total_ms']:6.0%}", file=out)
    memory = doc["memory"]
    print(f"\nmemory of one GPU, {memory['hbm_gib']} GiB (decided by {memory['decided_by']})", file=out)
    lines = {**memory["weights_gib"], **{k.removesuffix("_gib").replace("_", " "): memory[k] for k in _GIB_LINES}}
    for name, gib in lines.items():
        print(f"  {name:42}{gib:8.2f} GiB", file=out)
    print(f"  KV pool: {memory['kv_tokens_per_scheduler']:,} tokens per scheduler", file=out)


_GIB_LINES = ("kv_pool_gib", "activations_gib", "graphs_gib", "runtime_gib", "margin_gib")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
