"""The cheapest so far over the trials, every trial's own cost, and the random baseline with its band."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.report.charts import canvas
from tuner.report.charts.canvas import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Chart
from tuner.report.charts.scale import scale_of
from tuner.report.facts.progress import Expected, Progress, Step

_TITLE = "Progress over trials"
_LEGEND = (
    ("k3 dash", "cheapest so far"),
    ("k1", "a trial's own cost"),
    ("k2 x", "no cost: dropped, missed or failed"),
)


def course(progress: Progress, *, simulated: bool) -> Chart:
    """The chart."""
    steps = progress.steps
    random = progress.random
    costs = [s.cost for s in steps] + [s.best for s in steps] + [e.mean for e in random] + [e.low for e in random]
    x = Axis(scale_of([1.0, 5.0, *(float(s.number) for s in steps)], LEFT, WIDTH - RIGHT), "trials that told something")
    y = Axis(scale_of(costs, HEIGHT - BOTTOM, TOP, logarithmic=True, margin=0.1), "USD per million output tokens")
    marks = [*_random(random, x, y), *_steps(steps, x, y)]
    best = [(x.scale(s.number), y.scale(s.best)) for s in steps if s.best is not None]
    marks.append(canvas.line(_stairs(best), "k3"))
    description = _description(progress)
    legend = (*_LEGEND, ("k5 dash", "random sampling, expected (computed)")) if random else _LEGEND
    expected = {e.draws: e for e in random}
    return Chart(
        "course",
        _TITLE,
        description,
        canvas.drawing("course", _TITLE, description, x, y, marks, simulated=simulated),
        legend,
        ("n", "trial", "outcome", "USD/M tokens", "cheapest so far", "random, expected"),
        tuple(
            (str(s.number), str(s.trial), s.state, _text(s.cost), _text(s.best), _expected(expected.get(s.number)))
            for s in steps
            if best  # without any cost there is nothing to draw
        ),
    )


def _stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """What was the cheapest stays so until the next trial."""
    found: list[tuple[float, float]] = []
    for x, y in points:
        if found and found[-1][1] != y:
            found.append((x, found[-1][1]))
        found.append((x, y))
    return found


def _steps(steps: Sequence[Step], x: Axis, y: Axis) -> list[str]:
    floor = HEIGHT - BOTTOM - 6
    return [
        canvas.dot(x.scale(s.number), y.scale(s.cost), "k1", f"trial {s.trial}: ${s.cost:.4g}/M", 3.5)
        if s.cost is not None
        else canvas.cross(x.scale(s.number), floor, "k2", f"trial {s.trial}: {s.state}")
        for s in steps
    ]


def _random(random: Sequence[Expected], x: Axis, y: Axis) -> list[str]:
    high = [(x.scale(e.draws), y.scale(e.high)) for e in random]
    low = [(x.scale(e.draws), y.scale(e.low)) for e in random]
    return [canvas.band(high, low, "k5"), canvas.line([(x.scale(e.draws), y.scale(e.mean)) for e in random], "k5")]


def _text(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:.4g}"


def _expected(expected: Expected | None) -> str:
    return "-" if expected is None else f"{expected.mean:.4g} ({expected.low:.4g} to {expected.high:.4g})"


def _description(progress: Progress) -> str:
    if not progress.steps:
        return "No trial has told anything yet."
    best = progress.steps[-1].best
    if best is None:
        return f"{len(progress.steps)} trials, none of them measured."
    text = f"{len(progress.steps)} trials; the cheapest costs {best:.4g} USD per million output tokens"
    if progress.random:
        text += f", random sampling is expected to reach {progress.random[-1].mean:.4g}"
    return text + "."
