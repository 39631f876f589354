"""HTML in small pieces, everything from outside escaped. Knows no study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from tuner.report.charts.canvas import Chart


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """A table with a caption; columns listed in `numbers` are aligned to the right. Cells are text."""
    head = "".join(f'<th scope="col"{_right(i, numbers)}>{escape(c)}</th>' for i, c in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(f"<td{_right(i, numbers)}>{escape(c)}</td>" for i, c in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="x" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _right(i: int, numbers: Sequence[int]) -> str:
    return ' class="r"' if i in numbers else ""


def folded(summary: str, body: str, *, key: str = "") -> str:
    """Something to open; `body` is HTML."""
    name = f' id="{escape(key)}"' if key else ""
    return f"<details{name}><summary>{escape(summary)}</summary>{body}</details>"


def figure(chart: Chart) -> str:
    """A chart with its legend, and its data as a table to open; in words only where there is nothing to draw."""
    head = f'<figure class="chart" id="chart-{chart.key}"><figcaption>{escape(chart.title)}</figcaption>'
    if not chart.rows:  # axes around nothing would show figures that nobody measured
        return f"{head}{paragraph(chart.description, 'm0')}</figure>"
    legend = "".join(f"<li>{_sample(kind)}{escape(meaning)}</li>" for kind, meaning in chart.legend)
    data = folded("data as a table", table(chart.title, chart.columns, chart.rows))
    return (
        f"{head}{chart.svg}"
        + (f'<ul class="legend">{legend}</ul>' if legend else "")
        + f'<p class="sr">{escape(chart.description)}</p>{data}</figure>'
    )


_SAMPLES = {
    "": '<circle class="{kind}" cx="9" cy="7" r="4.5"/>',
    "up": '<path class="{kind} o" d="M4.5 11h9l-4.5 -8z"/>',
    "x": '<path class="{kind} o" d="M5 3l8 8m0 -8l-8 8"/>',
    "ring": '<circle class="{kind} o" cx="9" cy="7" r="5.5"/>',
    "rule": '<path class="{kind} n" d="M1 7h16"/>',
    "dash": '<path class="{kind} n" d="M1 7h16"/>',
}


def _sample(kind: str) -> str:
    """The mark a legend's line is about; its class may name the shape."""
    colour, _, shape = kind.partition(" ")
    return f'<svg viewBox="0 0 18 14" aria-hidden="true">{_SAMPLES[shape].format(kind=colour)}</svg>'


def pairs(values: Mapping[str, str]) -> str:
    """Names and values as a description list."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in values.items()) + "</dl>"


def block(content: str) -> str:
    """Preformatted text that scrolls by itself, also from the keyboard."""
    return f'<pre tabindex="0">{escape(content)}</pre>'


def paragraph(content: str, kind: str = "") -> str:
    """A paragraph of text, of a class where one is named."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{escape(content)}</p>"
