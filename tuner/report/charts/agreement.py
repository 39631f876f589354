"""Predicted against measured cost; on the diagonal a prediction was right."""

from __future__ import annotations

from tuner.report.charts import canvas
from tuner.report.charts.canvas import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Chart
from tuner.report.charts.scale import scale_of
from tuner.report.facts.prediction import Pair, Predictions

_TITLE = "Predicted against measured"
_LEGEND = (
    ("k1", "engine model, before anything ran"),
    ("k3 ring", "sampler, just before the trial"),
    ("k4 rule", "measured = predicted"),
)


def agreement(predictions: Predictions, *, simulated: bool) -> Chart:
    """The chart; both axes logarithmic, the diagonal dashed."""
    pairs = [p for p in predictions.pairs if p.model or p.believed]
    predicted = [v for p in pairs for v in (p.model, p.believed) if v]
    x = Axis(scale_of(predicted, LEFT, WIDTH - RIGHT, logarithmic=True), "predicted USD per million output tokens")
    y = Axis(scale_of([p.measured for p in pairs], HEIGHT - BOTTOM, TOP, logarithmic=True), "measured, USD per million")
    low, high = max(x.scale.low, y.scale.low), min(x.scale.high, y.scale.high)
    diagonal = [(x.scale(low), y.scale(low)), (x.scale(high), y.scale(high))] if low < high else []
    marks = [canvas.line(diagonal, "k4")]
    for p in pairs:
        if p.model:
            marks.append(canvas.dot(x.scale(p.model), y.scale(p.measured), "k1", _tip(p, p.model, "engine model"), 4))
        if p.believed:
            marks.append(canvas.ring(x.scale(p.believed), y.scale(p.measured), "k3", _tip(p, p.believed, "sampler"), 5))
    description = _description(predictions)
    return Chart(
        "predicted",
        _TITLE,
        description,
        canvas.drawing("predicted", _TITLE, description, x, y, marks, simulated=simulated),
        _LEGEND,
        ("trial", "configuration", "measured USD/M", "engine model", "sampler"),
        tuple((str(p.trial), p.label, f"{p.measured:.4g}", _text(p.model), _text(p.believed)) for p in pairs),
    )


def _tip(pair: Pair, predicted: float, who: str) -> str:
    return f"trial {pair.trial}: {who} {predicted:.4g}, measured {pair.measured:.4g}"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _description(predictions: Predictions) -> str:
    model = predictions.model
    if model is None:
        return "No prediction of the engine model was kept with these trials."
    return (
        f"{model.count} trials. Measured cost was {model.ratio:.2f} times the engine model's prediction in the median, "
        f"off that by {model.off_by:.0%} in the median."
    )
