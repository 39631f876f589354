"""What a space holds before anything runs: valid points, rejections by rule, memory, the model's best, a forecast.

Every figure here is a prediction and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich.table import Table

from tuner.model.accuracy import relative_error
from tuner.model.memory import plan_memory
from tuner.report.console import new_table, print_table
from tuner.report.fleet import Fleet, fleets
from tuner.report.words import STOPPED, differing, duration, label, money, several, shared
from tuner.space.config import Choice, ServingConfig
from tuner.study.forecast import Forecast
from tuner.study.points import Point, Points, accelerator_of, architecture_of

TOP = 10


@dataclass(frozen=True, slots=True)
class Asked:
    """What beside the plan itself is wanted: the memory arithmetic, what serving a rate takes, rendered Jobs."""

    arithmetic: bool = False
    target_req_per_s: float | None = None
    jobs: Sequence[Mapping[str, Any]] = ()


def best_by_kind(points: Points) -> list[Point]:
    """The best predicted point of each combination of pool, layout and bundles, cheapest first."""
    best: dict[tuple[Any, ...], Point] = {}
    for p in points.valid:
        best.setdefault((p.config.pool, p.config.layout, *(v for _, v in p.config.values if isinstance(v, Choice))), p)
    return list(best.values())[:TOP]


def memory_rows(points: Points) -> list[dict[str, Any]]:
    """One row per pool, layout and bundle choice: the point with the most and the least memory left."""
    rows: dict[tuple[str, str, str], list[Point]] = {}
    for point in points.valid:
        choices = ", ".join(v.name for _, v in point.config.values if isinstance(v, Choice))
        rows.setdefault((point.config.pool, point.config.layout.label, choices), []).append(point)
    return [
        {
            "pool": pool,
            "layout": layout,
            "choices": choices,
            "points": len(group),
            "margin_gib_min": round(min(p.candidate.margin_gib for p in group), 1),
            "margin_gib_max": round(max(p.candidate.margin_gib for p in group), 1),
        }
        for (pool, layout, choices), group in sorted(rows.items())
    ]


def memory_arithmetic(points: Points) -> list[tuple[str, list[str]]]:
    """The arithmetic of the tightest point of every row of the memory table."""
    arch = architecture_of(points.space)
    context = points.space.workload.max_context_tokens
    tightest: dict[tuple[str, str, str], Point] = {}
    for p in points.valid:
        key = (p.config.pool, p.config.layout.label, p.deployment.precision)
        if key not in tightest or p.candidate.margin_gib < tightest[key].candidate.margin_gib:
            tightest[key] = p
    return [
        (
            p.config.describe(),
            plan_memory(arch, accelerator_of(points.space, p.config.pool), p.settings, context).explain(),
        )
        for _, p in sorted(tightest.items())
    ]


def plan_json(points: Points, forecast: Forecast, asked: Asked) -> dict[str, Any]:
    """The plan as one JSON document."""
    doc: dict[str, Any] = {
        "space": points.space.name,
        "points": points.total,
        "valid": len(points.valid),
        "rejected": {
            rule: {"points": r.count, "reason": r.reason, "example": r.example}
            for rule, r in sorted(points.rejected.items())
        },
        "memory": memory_rows(points),
        "predicted_best": [
            {
                "config": p.config.as_json(),
                "fingerprint": p.config.fingerprint,
                "predicted_usd_per_million_output_tokens": p.candidate.predicted_usd_per_million,
                "predicted_relative_error": relative_error(p.deployment.accelerator),
                "predicted_capacity_req_per_s": p.prediction.capacity_req_per_s,
                "margin_gib": p.candidate.margin_gib,
                "known_issues": {w.rule: w.reason for w in points.space.warnings(p.config)},
            }
            for p in best_by_kind(points)
        ],
        "forecast": {
            "trials": forecast.trials,
            "confirmations": forecast.confirmations,
            "seconds_per_trial": round(forecast.trial_s),
            "hours": round(forecast.wall_s / 3600, 2),
            "gpu_hours": round(forecast.gpu_hours, 1),
            "usd": round(forecast.usd, 2),
            "nodes": forecast.nodes,
            "ends_by": forecast.ends_by,
            "computed": forecast_sums(forecast),
        },
    }
    if asked.arithmetic:
        doc["memory_arithmetic"] = dict(memory_arithmetic(points))
    if asked.jobs:
        doc["jobs"] = list(asked.jobs)
    if asked.target_req_per_s is not None:
        doc["capacity"] = {
            "target_req_per_s": asked.target_req_per_s,
            "guard": points.space.spec.objective.guard,
            "pools": {f.pool: _fleet_json(f) for f in fleets(points, asked.target_req_per_s)},
        }
    return doc


def print_plan(
    points: Points,
    forecast: Forecast,
    asked: Asked,
    out: TextIO,
    *,
    seeds: Sequence[tuple[str, ServingConfig]] = (),
) -> None:
    """The plan for people."""
    print(f"{points.space.name}: {points.total:,} points, {len(points.valid):,} can be tried\n", file=out)
    if points.rejected:
        print_table(_rejected(points), out)
        print(file=out)
    print_table(_memory(points), out)
    print(file=out)
    _print_best(points, out)
    issues = {w.rule: w.reason for p in best_by_kind(points) for w in points.space.warnings(p.config)}
    for rule, reason in sorted(issues.items()):
        print(f"known issue of some of them, {rule}: {reason}", file=out)
    if seeds:
        print(f"\ntried first: {', '.join(name for name, _ in seeds)}; then what the model holds for best", file=out)
    print(forecast_line(forecast), file=out)
    for line in forecast_sums(forecast):
        print(f"  {line}", file=out)
    if asked.target_req_per_s is not None:
        print(file=out)
        _print_fleets(points, asked.target_req_per_s, out)
    if asked.arithmetic:
        for name, lines in memory_arithmetic(points):
            print(f"\nmemory of one GPU, {name}", file=out)
            for line in lines:
                print(f"  {line}", file=out)


def forecast_line(forecast: Forecast) -> str:
    """What the search will take, and what ends it."""
    return (
        f"forecast (predicted): {forecast.trials} trials of about {duration(forecast.trial_s)} and up to "
        f"{forecast.confirmations} confirmation runs: about {duration(forecast.wall_s)} on "
        f"{several(forecast.nodes, 'node')}, {forecast.gpu_hours:,.0f} GPU-hours, {money(forecast.usd)}; it "
        f"ends when {STOPPED[forecast.ends_by]}"
    )


def forecast_sums(forecast: Forecast) -> list[str]:
    """How the forecast comes about."""
    trying_h = forecast.trials * forecast.trial_s / 3600
    confirming_h = forecast.confirmations * forecast.confirm_s / 3600
    together = f"{trying_h + confirming_h:.1f} node-hours"
    terms = " + ".join(f"{name} {duration(term_s)}" for name, term_s in forecast.parts)
    hours = f"{trying_h:.1f} h of trials + {confirming_h:.1f} h of confirmations"
    gpus, price = f"{forecast.gpus:.3g} GPUs a trial", f"{money(forecast.usd_per_hour)} an hour"
    return [
        f"a trial: {terms} = {duration(forecast.trial_s)} (mean of the cheaper half by prediction)",
        f"a confirmation run: {duration(forecast.confirm_s)}",
        f"{hours} = {together}; over {several(forecast.nodes, 'node')} {duration(forecast.wall_s)}",
        f"x {gpus} = {forecast.gpu_hours:,.0f} GPU-hours; x {price} = {money(forecast.usd)}",
    ]


def _fleet_json(fleet: Fleet) -> dict[str, Any]:
    return {
        "config": fleet.config.config.as_json(),
        "predicted_req_per_s_per_replica": fleet.guarded_req_per_s,
        "replicas": fleet.replicas,
        "nodes": fleet.nodes,
        "nodes_if_the_model_errs": [fleet.nodes_least, fleet.nodes_most],
        "usd_per_month": round(fleet.usd_per_month, 2),
    }


def _print_fleets(points: Points, target_req_per_s: float, out: TextIO) -> None:
    guard = points.space.spec.objective.guard
    numbers = ("req/s a\nreplica", "replicas", "nodes", "USD a\nmonth")
    title = f"serving {target_req_per_s:g} req/s with the model's best (predicted; {guard:.0%} guard kept)"
    table = new_table(title, "pool", *numbers, "configuration", right=numbers, whole=("pool",))
    for f in fleets(points, target_req_per_s):
        span = f"{f.nodes}" if f.nodes_least == f.nodes_most else f"{f.nodes} ({f.nodes_least}-{f.nodes_most})"
        cells = (f"{f.guarded_req_per_s:.2f}", f"{f.replicas:,}", span, f"{f.usd_per_month:,.0f}")
        table.add_row(f.pool, *cells, f.config.config.describe().removeprefix(f"{f.pool} "))
    print_table(table, out)
    print("in brackets: the nodes if the model errs by as much as it may; a month has 730.5 hours", file=out)


def _rejected(points: Points) -> Table:
    table = new_table("rejected before deployment", "rule", "points", "reason", right=("points",), whole=("rule",))
    for rule, entry in sorted(points.rejected.items(), key=lambda item: -item[1].count):
        table.add_row(rule, f"{entry.count:,}", entry.reason)
    return table


def _memory(points: Points) -> Table:
    title = "GiB left per GPU (predicted; -1 to 0 is doubtful, and kept)"
    numbers = ("points", "least", "most")
    table = new_table(title, "pool", "layout", "bundles", *numbers, right=numbers, whole=("pool", "layout"))
    for row in memory_rows(points):
        margins = (f"{row['margin_gib_min']:.1f}", f"{row['margin_gib_max']:.1f}")
        table.add_row(row["pool"], row["layout"], row["choices"], f"{row['points']:,}", *margins)
    return table


def _print_best(points: Points, out: TextIO) -> None:
    best = best_by_kind(points)
    common = shared([p.config for p in best])
    table = new_table(
        f"the model's best {len(best)}, one per layout and bundles (predicted, not measured)",
        *("", "USD/M\ntokens", "from - to", "req/s", "GiB left", "configuration"),
        right=("", "USD/M\ntokens", "from - to", "req/s", "GiB left"),
    )
    for rank, p in enumerate(best, start=1):
        cost, rate = p.candidate.predicted_usd_per_million, p.prediction.capacity_req_per_s
        error = relative_error(p.deployment.accelerator)
        span = f"{cost / (1 + error):.2f} - {cost / (1 - error):.2f}"
        cells = (f"{cost:.3f}", span, f"{rate:.2f}", f"{p.candidate.margin_gib:.1f}")
        table.add_row(str(rank), *cells, differing(p.config, common))
    print_table(table, out)
    print(_uncertainty(best), file=out)
    if common:
        print(f"all of them: {' '.join(f'{k}={label(v)}' for k, v in common.items())}", file=out)


def _uncertainty(best: Sequence[Point]) -> str:
    errors = sorted({(p.deployment.accelerator, relative_error(p.deployment.accelerator)) for p in best})
    each = ", ".join(f"{error:.0%} on {name}" for name, error in errors)
    return f"from - to: the model's capacity may be off by {each}; order is better known than size"
