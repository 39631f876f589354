"""Load curves of a few configurations: a figure over the request rate, with its limit where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tuner.report.charts import canvas
from tuner.report.charts.canvas import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Chart
from tuner.report.charts.scale import scale_of

Verdict = Literal["holds", "misses"]
CURVES = 4
"""More lines than this cannot be told apart."""
CONFIRMATION = "confirmation"


@dataclass(frozen=True, slots=True)
class Load:
    """One load level: what was offered, what came of it, and whether the limits held."""

    rate_req_per_s: float
    value: float
    verdict: Verdict
    source: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A configuration's levels."""

    name: str
    loads: tuple[Load, ...]


@dataclass(frozen=True, slots=True)
class Quantity:
    """What is drawn over the rate; `limit` has the same unit, `logarithmic` where misses dwarf what holds."""

    key: str
    title: str
    axis: str
    limit: float | None = None
    logarithmic: bool = False


def load_curve(quantity: Quantity, curves: Sequence[Curve], *, simulated: bool) -> Chart:
    """The chart of the first few curves."""
    shown = list(curves[:CURVES])
    loads = [load for curve in shown for load in curve.loads]
    x = Axis(scale_of([load.rate_req_per_s for load in loads], LEFT, WIDTH - RIGHT), "requests per second, offered")
    values = [load.value for load in loads] + ([quantity.limit] if quantity.limit is not None else [])
    scale = scale_of(values, HEIGHT - BOTTOM, TOP, logarithmic=quantity.logarithmic, zero=not quantity.logarithmic)
    y = Axis(scale, quantity.axis)
    marks = []
    if quantity.limit is not None:
        at = canvas.number(y.scale(quantity.limit))
        marks.append(f'<path class="k4 n" d="M{canvas.number(LEFT)} {at}H{canvas.number(WIDTH - RIGHT)}"/>')
        marks.append(canvas.label(LEFT + 5, y.scale(quantity.limit) - 5, f"limit {quantity.limit:g}"))
    for i, curve in enumerate(shown, start=1):
        marks += _curve(curve, f"c{i}", x, y)
    marks += _names(shown, x, y)
    description = _description(shown, loads)
    return Chart(
        quantity.key,
        quantity.title,
        description,
        canvas.drawing(quantity.key, quantity.title, description, x, y, marks, simulated=simulated),
        _legend(shown, loads),
        ("configuration", "req/s", quantity.axis, "limits", "from"),
        tuple(
            (curve.name, f"{load.rate_req_per_s:.3g}", f"{load.value:.4g}", load.verdict, load.source)
            for curve in shown
            for load in sorted(curve.loads, key=lambda load: load.rate_req_per_s)
        ),
    )


def _curve(curve: Curve, kind: str, x: Axis, y: Axis) -> list[str]:
    ordered = sorted(curve.loads, key=lambda load: load.rate_req_per_s)
    joined = [p for p in ordered if p.source != CONFIRMATION]  # a rate run again is no step of the curve
    found = [canvas.line([(x.scale(p.rate_req_per_s), y.scale(p.value)) for p in joined], kind)]
    for load in ordered:
        mark = canvas.dot if load.verdict == "holds" else canvas.cross
        tip = f"{curve.name}: {load.rate_req_per_s:.3g} req/s, {load.value:.4g}, {load.verdict} ({load.source})"
        found.append(mark(x.scale(load.rate_req_per_s), y.scale(load.value), kind, tip))
    return found


def _names(curves: Sequence[Curve], x: Axis, y: Axis) -> list[str]:
    """Each curve's name at its last level that held, so that nothing hangs on colour."""
    found = []
    for curve in curves:
        held = [load for load in curve.loads if load.verdict == "holds"]
        last = max(held, key=lambda load: load.rate_req_per_s, default=None)
        if last is not None:
            at = x.scale(last.rate_req_per_s)
            anchor = "e" if at > WIDTH * 0.8 else "s" if at < WIDTH * 0.3 else "m"
            found.append(canvas.Name(at, y.scale(last.value) - 9, curve.name, anchor))
    return canvas.names(found)


def _legend(curves: Sequence[Curve], loads: Sequence[Load]) -> tuple[tuple[str, str], ...]:
    named = tuple((f"c{i} dash", curve.name) for i, curve in enumerate(curves, start=1))
    return (*named, ("k2 x", "did not hold a limit")) if any(load.verdict == "misses" for load in loads) else named


def _description(curves: Sequence[Curve], loads: Sequence[Load]) -> str:
    if not loads:
        return "No load level was stored."
    held = sum(load.verdict == "holds" for load in loads)
    return f"{len(loads)} load levels of {len(curves)} configurations, {held} of them within the limits."
