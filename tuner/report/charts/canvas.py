"""What all charts share: the frame with axes, grid and marks, text for those who do not see it, the data as a table.

Pure text. Colours are classes, so that the page's style sheet decides for light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tuner.report.charts.scale import Scale, tick_text

WIDTH, HEIGHT = 480.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 66.0, 16.0, 14.0, 48.0
"""Room for the axes' texts, in units of the drawing."""

_TICK_CHARACTERS = 7


@dataclass(frozen=True, slots=True)
class Chart:
    """A finished chart. `legend` pairs a mark's class with what it means; `rows` are the same data as text."""

    key: str
    title: str
    description: str
    svg: str
    legend: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: its scale and what stands beside it, unit included. `ticks` replaces the scale's own."""

    scale: Scale
    text: str
    ticks: tuple[float, ...] | None = None

    @property
    def at(self) -> Sequence[float]:
        return self.scale.ticks() if self.ticks is None else self.ticks


def number(value: float) -> str:
    """A coordinate: one decimal, never NaN."""
    if not math.isfinite(value):
        raise ValueError("a coordinate must be finite")
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"


def drawing(
    key: str,
    title: str,
    description: str,
    x: Axis,
    y: Axis,
    marks: Sequence[str],
    *,
    simulated: bool,
    height: float = HEIGHT,
) -> str:
    """The SVG: grid and axes, then the marks, then the stamp of a simulated study."""
    bottom = height - BOTTOM
    parts = [
        f'<svg viewBox="0 0 {number(WIDTH)} {number(height)}" role="img" aria-labelledby="{key}-t {key}-d">',
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(description)}</desc>',
    ]
    for value in y.at:
        at = number(y.scale(value))
        parts.append(f'<path class="g" d="M{number(LEFT)} {at}H{number(WIDTH - RIGHT)}"/>')
        parts.append(text(LEFT - 6, y.scale(value) + 4, tick_text(value), "e"))
    for value in x.at:
        at = number(x.scale(value))
        parts.append(f'<path class="g" d="M{at} {number(TOP)}V{number(bottom)}"/>')
        parts.append(text(x.scale(value), bottom + 16, tick_text(value), "m"))
    parts.append(f'<path class="a" d="M{number(LEFT)} {number(TOP)}V{number(bottom)}H{number(WIDTH - RIGHT)}"/>')
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, height - 10, x.text, "m"))
    middle = number((TOP + bottom) / 2)
    parts.append(f'<text class="m" transform="translate(13 {middle})rotate(-90)">{escape(y.text)}</text>')
    if simulated:
        parts.append(stamp(height))
    return "".join([*parts, *marks, "</svg>"])


def stamp(height: float) -> str:
    """Across the drawing: nothing here was measured."""
    centre = f"{number((LEFT + WIDTH) / 2)} {number((TOP + height - BOTTOM) / 2)}"
    return f'<text class="w" transform="translate({centre})rotate(-18)" aria-hidden="true">SIMULATED</text>'


def text(x: float, y: float, content: str, anchor: str = "s") -> str:
    """A text; `anchor` is s(tart), m(iddle) or e(nd)."""
    return f'<text class="{anchor}" x="{number(x)}" y="{number(y)}">{escape(content)}</text>'


def label(x: float, y: float, content: str, anchor: str = "s") -> str:
    """A text that stands out from what it lies on."""
    return f'<text class="{anchor} l" x="{number(x)}" y="{number(y)}">{escape(content)}</text>'


@dataclass(frozen=True, slots=True)
class Name:
    """A label that may give way: where it would stand best, its text, its anchor."""

    x: float
    y: float
    content: str
    anchor: str = "s"

    def box(self, y: float) -> tuple[float, float, float, float]:
        """(left, top, right, bottom), letters reckoned wide."""
        width = _LETTER * len(self.content)
        left = self.x - {"s": 0.0, "m": width / 2, "e": width}[self.anchor]
        return left, y - _LINE, left + width, y


_LETTER, _LINE = 6.8, 13.0


def names(wanted: Sequence[Name]) -> list[str]:
    """Labels that do not lie on each other: the first ones stand where they like, others a line away, or not at all."""
    found: list[str] = []
    taken: list[tuple[float, float, float, float]] = []
    for name in wanted:
        for shift in (0, -_LINE, _LINE, -2 * _LINE, 2 * _LINE):
            left, top, right, bottom = box = name.box(name.y + shift)
            if top >= 0 and all(left >= r or right <= x or top >= b or bottom <= y for x, y, r, b in taken):
                taken.append(box)
                found.append(label(name.x, name.y + shift, name.content, name.anchor))
                break
    return found


def dot(x: float, y: float, kind: str, tip: str = "", size: float = 4.5) -> str:
    """A filled circle; `tip` is shown under the pointer."""
    return _tipped("circle", f'class="{kind}" cx="{number(x)}" cy="{number(y)}" r="{number(size)}"', tip)


def ring(x: float, y: float, kind: str, tip: str = "", size: float = 8.0) -> str:
    """A circle around something."""
    return dot(x, y, f"{kind} o", tip, size)


def triangle(x: float, y: float, kind: str, tip: str = "") -> str:
    """Pointing up: at least so much."""
    path = f"M{number(x - 4.5)} {number(y + 4)}h9l-4.5 -8z"
    return _tipped("path", f'class="{kind} o" d="{path}"', tip)


def cross(x: float, y: float, kind: str, tip: str = "") -> str:
    """Something that did not hold."""
    path = f"M{number(x - 4)} {number(y - 4)}l8 8m0 -8l-8 8"
    return _tipped("path", f'class="{kind} o" d="{path}"', tip)


def line(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A polyline; nothing for fewer than two points."""
    if len(points) < 2:
        return ""
    joined = "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return f'<path class="{kind} n" d="M{joined}"/>'


def band(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], kind: str) -> str:
    """The area between two lines."""
    if len(upper) < 2:
        return ""
    joined = "L".join(f"{number(x)} {number(y)}" for x, y in [*upper, *reversed(lower)])
    return f'<path class="{kind} b" d="M{joined}Z"/>'


def bar(x: float, y: float, width: float, height: float, kind: str, tip: str = "") -> str:
    """A filled rectangle."""
    box = f'x="{number(x)}" y="{number(y)}" width="{number(max(0.0, width))}" height="{number(max(0.0, height))}"'
    return _tipped("rect", f'class="{kind}" {box}', tip)


def _tipped(tag: str, attributes: str, tip: str) -> str:
    return f"<{tag} {attributes}><title>{escape(tip)}</title></{tag}>" if tip else f"<{tag} {attributes}/>"


def shortened(content: str, most: int) -> str:
    """A label that must fit; its full text is in the table."""
    return content if len(content) <= most else content[: most - 1] + "…"
