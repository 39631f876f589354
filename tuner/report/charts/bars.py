"""Amounts as horizontal bars with their figures written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tuner.report.charts import canvas
from tuner.report.charts.canvas import WIDTH, Chart
from tuner.report.charts.scale import scale_of

_ROW, _NAMES, _FIGURES = 30.0, 100.0, 195.0


@dataclass(frozen=True, slots=True)
class Amount:
    """One bar: its name, how long it is, the text beside it."""

    name: str
    value: float
    text: str


def bars(key: str, title: str, amounts: Sequence[Amount], columns: tuple[str, str], *, simulated: bool) -> Chart:
    """The chart, as tall as it has bars."""
    height = 16 + _ROW * max(1, len(amounts))
    scale = scale_of([a.value for a in amounts], _NAMES, WIDTH - _FIGURES, zero=True, margin=0.0)
    description = "; ".join(f"{a.name}: {a.text}" for a in amounts) or "Nothing yet."
    parts = [
        f'<svg viewBox="0 0 {canvas.number(WIDTH)} {canvas.number(height)}" role="img"',
        f' aria-labelledby="{key}-t {key}-d">',
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(description)}</desc>',
    ]
    for i, amount in enumerate(amounts):
        y, end = 8 + _ROW * i, scale(amount.value)
        parts.append(canvas.text(_NAMES - 8, y + 18, amount.name, "e"))
        parts.append(canvas.bar(_NAMES, y + 3, end - _NAMES, _ROW - 10, "k1 f"))
        parts.append(canvas.text(end + 8, y + 18, amount.text))
    if simulated:
        centre = canvas.number(height / 2 + 8)
        parts.append(f'<text class="w" x="240" y="{centre}" aria-hidden="true">SIMULATED</text>')
    rows = tuple((a.name, a.text) for a in amounts)
    return Chart(key, title, description, "".join([*parts, "</svg>"]), (), columns, rows)
