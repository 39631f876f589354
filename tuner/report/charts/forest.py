"""Effects as a forest: one row per level with its interval, grouped by parameter, 1 is the winner's own level."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tuner.report.charts import canvas
from tuner.report.charts.canvas import BOTTOM, RIGHT, TOP, WIDTH, Axis, Chart
from tuner.report.charts.scale import Scale, scale_of, tick_text
from tuner.report.facts.effects import Effect, Level

_TITLE = "What each parameter changed"
_ROW, _GAP, _NAMES = 19.0, 25.0, 176.0
_LEGEND = (
    ("k1", "cost as a factor of the best one's level, 90% interval"),
    ("k3 ring", "the level of the best"),
)


def forest(effects: Sequence[Effect], *, simulated: bool) -> Chart:
    """The chart, as tall as it has rows."""
    levels = [level for effect in effects for level in effect.levels]
    height = TOP + BOTTOM + _ROW * len(levels) + _GAP * max(1, len(effects))
    scale = scale_of(
        [1.0, *(f for level in levels for f in (level.low, level.high))], _NAMES, WIDTH - RIGHT, logarithmic=True
    )
    marks, y = [], TOP
    for effect in effects:
        y += _GAP
        marks.append(f'<text class="s h" x="4" y="{canvas.number(y - 8)}">{escape(effect.parameter)}</text>')
        for level in effect.levels:
            marks.append(_row(effect, level, y + _ROW / 2 - 4, scale))
            y += _ROW
    description = _description(effects)
    return Chart(
        "effects",
        _TITLE,
        description,
        _drawing(scale, marks, height, description, simulated=simulated),
        _LEGEND,
        ("parameter", "value", "cost factor", "90% interval", "measured", "dropped", "failed or missed"),
        tuple(_table_row(effect, level) for effect in effects for level in effect.levels),
    )


def _row(effect: Effect, level: Level, y: float, scale: Scale) -> str:
    kind = "k3" if level.reference else "k1"
    tip = f"{effect.parameter} {level.value}: x {level.factor:.3g} ({level.low:.3g} to {level.high:.3g})"
    reach = canvas.line([(scale(level.low), y), (scale(level.high), y)], kind)
    name = canvas.text(_NAMES - 10, y + 4, canvas.shortened(level.value, 24), "e")
    mark = canvas.ring if level.reference else canvas.dot
    return name + reach + mark(scale(level.factor), y, kind, tip, 5)


def _drawing(scale: Scale, marks: Sequence[str], height: float, description: str, *, simulated: bool) -> str:
    """Rows have names instead of a second axis, so the frame is this chart's own."""
    axis = Axis(scale, "cost, as a multiple of the best one's level")
    bottom = height - BOTTOM
    parts = [
        f'<svg viewBox="0 0 {canvas.number(WIDTH)} {canvas.number(height)}" role="img" '  # noqa: ISC004 - one tag
        'aria-labelledby="effects-t effects-d">',
        f'<title id="effects-t">{_TITLE}</title><desc id="effects-d">{escape(description)}</desc>',
    ]
    for value in axis.at:
        at = canvas.number(scale(value))
        parts.append(f'<path class="g" d="M{at} {canvas.number(TOP)}V{canvas.number(bottom)}"/>')
        parts.append(canvas.text(scale(value), bottom + 16, tick_text(value), "m"))
    one = canvas.number(scale(1.0))
    parts.append(f'<path class="a" d="M{one} {canvas.number(TOP)}V{canvas.number(bottom)}"/>')
    parts.append(canvas.text((_NAMES + WIDTH - RIGHT) / 2, height - 10, axis.text, "m"))
    if simulated:
        parts.append(canvas.stamp(height))
    return "".join([*parts, *marks, "</svg>"])


def _table_row(effect: Effect, level: Level) -> tuple[str, ...]:
    interval = "the best one's" if level.reference else f"{level.low:.3g} to {level.high:.3g}"
    counts = (str(level.measured), str(level.dropped), str(level.failed))
    return (effect.parameter, level.value, f"{level.factor:.3g}", interval, *counts)


def _description(effects: Sequence[Effect]) -> str:
    if not effects:
        return "No parameter was varied."
    sure = [effect.parameter for effect in effects if effect.told_apart]
    return f"Effects of {len(effects)} parameters on cost. Told apart from chance: {', '.join(sure) or 'none'}."
