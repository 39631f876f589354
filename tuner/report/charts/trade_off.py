"""Cost against TTFT p95 with the limit's line: every trial that has both, the winner marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tuner.report.charts import canvas
from tuner.report.charts.canvas import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Chart
from tuner.report.charts.scale import scale_of

Kind = Literal["measured", "dropped", "missed"]


@dataclass(frozen=True, slots=True)
class Point:
    """A trial: its cost (for `dropped` and `missed` the least it can be), its TTFT p95, and what it is called."""

    trial: int
    kind: Kind
    ttft_p95_s: float
    usd_per_million: float
    name: str = ""
    winner: bool = False


_LEGEND = (
    ("k1", "measured"),
    ("k2 up", "dropped or over a limit: costs at least this"),
    ("k3 ring", "the best"),
    ("k4 rule", "limit"),
)


def trade_off(points: Sequence[Point], limit_s: float | None, *, simulated: bool) -> Chart:
    """The chart; costs on a logarithmic axis because the dearest are many times the best."""
    x = Axis(scale_of([*(p.ttft_p95_s for p in points), limit_s], LEFT, WIDTH - RIGHT, zero=True), "TTFT p95, s")
    y = Axis(
        scale_of([p.usd_per_million for p in points], HEIGHT - BOTTOM, TOP, logarithmic=True, margin=0.1),
        "USD per million output tokens",
    )
    marks = []
    if limit_s is not None:
        at = canvas.number(x.scale(limit_s))
        marks.append(f'<path class="k4 n" d="M{at} {canvas.number(TOP)}V{canvas.number(HEIGHT - BOTTOM)}"/>')
        left = x.scale(limit_s) > WIDTH / 3
        marks.append(
            canvas.label(x.scale(limit_s) + (-4 if left else 4), TOP + 11, f"limit {limit_s:g} s", "e" if left else "s")
        )
    marks += [_mark(p, x, y) for p in sorted(points, key=lambda p: p.winner)]
    marks += canvas.names([_name(p, x, y) for p in sorted(points, key=lambda p: not p.winner) if _is_named(p)])
    title = "Cost against TTFT p95"
    rows = tuple(
        (
            str(p.trial),
            p.name,
            p.kind,
            f"{p.ttft_p95_s:.3g}",
            ("≥ " if p.kind != "measured" else "") + f"{p.usd_per_million:.4g}",
        )
        for p in sorted(points, key=lambda p: p.usd_per_million)
    )
    return Chart(
        "tradeoff",
        title,
        _description(points, limit_s),
        canvas.drawing("tradeoff", title, _description(points, limit_s), x, y, marks, simulated=simulated),
        _LEGEND,
        ("trial", "", "outcome", "TTFT p95, s", "USD/M tokens"),
        rows,
    )


def _mark(p: Point, x: Axis, y: Axis) -> str:
    at = x.scale(p.ttft_p95_s), y.scale(p.usd_per_million)
    least = "at least " if p.kind != "measured" else ""
    name = f" ({p.name})" if p.name else ""
    tip = f"trial {p.trial}{name}: TTFT p95 {p.ttft_p95_s:.3g} s, {least}${p.usd_per_million:.4g}/M"
    if p.kind != "measured":
        return canvas.triangle(*at, "k2", tip)
    drawn = canvas.dot(*at, "k1", tip)
    if p.winner:
        drawn += canvas.ring(*at, "k3")
    return drawn


def _is_named(p: Point) -> bool:
    return bool(p.name) and p.kind == "measured"


def _name(p: Point, x: Axis, y: Axis) -> canvas.Name:
    at = x.scale(p.ttft_p95_s), y.scale(p.usd_per_million)
    left = at[0] > WIDTH * 0.6
    return canvas.Name(at[0] + (-10 if left else 10), at[1] + (18 if p.winner else 4), p.name, "e" if left else "s")


def _description(points: Sequence[Point], limit_s: float | None) -> str:
    measured = [p for p in points if p.kind == "measured"]
    within = f", limit {limit_s:g} s" if limit_s is not None else ""
    if not measured:
        return f"No trial was measured{within}."
    best = min(measured, key=lambda p: (not p.winner, p.usd_per_million))
    return (
        f"{len(measured)} measured trials{within}. The best, trial {best.trial}, costs "
        f"{best.usd_per_million:.4g} USD per million output tokens at a TTFT p95 of {best.ttft_p95_s:.3g} s."
    )
