"""Charts: finite coordinates whatever comes in, the same data as text, and names for those who do not see them."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.report.charts.agreement import agreement
from tuner.report.charts.bars import Amount, bars
from tuner.report.charts.canvas import number, shortened
from tuner.report.charts.course import course
from tuner.report.charts.forest import forest
from tuner.report.charts.load_curve import CURVES, Curve, Load, Quantity, load_curve
from tuner.report.charts.scale import scale_of, tick_text
from tuner.report.charts.trade_off import Point, trade_off
from tuner.report.facts.effects import Effect, Level
from tuner.report.facts.prediction import Agreement, Pair, Predictions
from tuner.report.facts.progress import Expected, Progress, Step

ANY = st.floats(allow_nan=True, allow_infinity=True)
POSITIVE = st.floats(min_value=1e-9, max_value=1e9)
MARKUP = '<b>"&'


def coordinates(svg):
    """Every number of every coordinate of a drawing that is well-formed XML."""
    found = []
    for element in ET.fromstring(svg).iter():
        for name in ("x", "y", "cx", "cy", "r", "width", "height", "d", "transform", "viewBox"):
            if name in element.attrib:
                assert "nan" not in element.attrib[name].lower()
                assert "inf" not in element.attrib[name].lower()
                found += [float(text) for text in re.findall(r"-?\d+\.?\d*", element.attrib[name])]
    assert all(map(math.isfinite, found))
    return found


def is_complete(chart):
    """Title, description and table are there, and nothing is drawn outside the picture."""
    assert all(-100 <= v <= 2000 for v in coordinates(chart.svg))
    assert chart.svg.startswith("<svg")
    assert 'role="img"' in chart.svg
    assert "<title" in chart.svg
    assert "<desc" in chart.svg
    assert chart.description
    assert all(len(row) == len(chart.columns) for row in chart.rows)
    return chart


@settings(max_examples=25)
@given(st.lists(ANY), ANY, st.booleans(), st.booleans())
def test_a_scale_is_finite_for_any_values(values, asked, zero, logarithmic):
    scale = scale_of(values, 10.0, 400.0, zero=zero, logarithmic=logarithmic)
    assert scale.low < scale.high
    assert 10.0 - 1e-6 <= scale(asked) <= 400.0 + 1e-6
    assert all(scale.low <= t * (1 + 1e-6) + 1e-9 and math.isfinite(t) for t in scale.ticks())


@settings(max_examples=25)
@given(POSITIVE, POSITIVE, st.booleans())
def test_ticks_lie_within_the_scale_and_rise(a, b, logarithmic):
    scale = scale_of([a, b], 0.0, 1.0, logarithmic=logarithmic)
    ticks = scale.ticks()
    assert ticks == sorted(set(ticks))
    assert 1 <= len(ticks) <= 16
    assert all(scale.low - abs(scale.low) * 1e-6 <= t <= scale.high * (1 + 1e-6) for t in ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"), [(0, 10, [0, 2, 4, 6, 8, 10]), (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 3, [0, 1, 2, 3])]
)
def test_ticks_are_round(low, high, ticks):
    assert scale_of([low, high], 0, 1, zero=True, margin=0).ticks() == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.5, "0.5"), (1500, "1,500"), (2e7, "2e+07"), (1e-5, "1e-05"), (12.5, "12.5")]
)
def test_ticks_are_short(value, text):
    assert tick_text(value) == text


def test_a_coordinate_that_is_not_finite_is_a_fault():
    with pytest.raises(ValueError, match="finite"):
        number(math.nan)
    assert (number(-0.01), number(3.0), number(3.14159)) == ("0", "3", "3.1")


def test_a_long_label_is_shortened():
    assert shortened("abcdef", 4) == "abc…"
    assert shortened("abc", 4) == "abc"


POINTS = st.builds(
    Point, st.integers(0, 99), st.sampled_from(["measured", "dropped", "missed"]), ANY, ANY, st.just("n")
)


@settings(max_examples=25)
@given(st.lists(POINTS, max_size=8), st.none() | POSITIVE, st.booleans())
def test_the_trade_off_is_drawn_for_any_points(points, limit, simulated):
    chart = is_complete(trade_off(points, limit, simulated=simulated))
    assert len(chart.rows) == len(points)
    assert ("SIMULATED" in chart.svg) is simulated


def test_the_trade_off_marks_the_winner_the_limit_and_bounds():
    points = [
        Point(3, "measured", 1.5, 2.0, "best: trial 3", winner=True),
        Point(4, "measured", 4.0, 3.0, MARKUP),
        Point(5, "dropped", 5.5, 2.5),
    ]
    chart = trade_off(points, 5.0, simulated=False)
    assert "trial 3, costs 2 USD" in chart.description
    assert "limit 5 s" in chart.svg
    assert chart.rows[1] == ("5", "", "dropped", "5.5", "≥ 2.5")
    assert MARKUP not in chart.svg
    assert "No trial was measured" in trade_off([], 5.0, simulated=False).description


LOADS = st.lists(st.builds(Load, POSITIVE, ANY, st.sampled_from(["holds", "misses"]), st.just("search")), max_size=5)


@settings(max_examples=25)
@given(
    st.lists(st.builds(Curve, st.text(max_size=5), LOADS.map(tuple)), max_size=6), st.none() | POSITIVE, st.booleans()
)
def test_load_curves_are_drawn_for_any_levels(curves, limit, logarithmic):
    quantity = Quantity("load-x", "X", "x", limit, logarithmic=logarithmic)
    chart = load_curve(quantity, curves, simulated=True)
    missed = any(load.verdict == "misses" for curve in curves[:CURVES] for load in curve.loads)
    assert len(chart.legend) == min(CURVES, len(curves)) + missed
    if all(c.name.isprintable() for c in curves):
        is_complete(chart)


def test_a_level_that_missed_is_crossed():
    curve = Curve("trial 1", (Load(1.0, 2.0, "holds", "search"), Load(2.0, 9.0, "misses", "search")))
    chart = load_curve(Quantity("load-x", "X", "x", 5.0), [curve], simulated=False)
    assert (chart.svg.count("<circle"), chart.svg.count("l8 8m0 -8l-8 8")) == (1, 1)
    assert chart.rows[1] == ("trial 1", "2", "9", "misses", "search")


STEPS = st.lists(st.tuples(st.none() | POSITIVE, st.none() | POSITIVE), max_size=12)


@settings(max_examples=25)
@given(STEPS, st.lists(POSITIVE, max_size=12))
def test_the_course_is_drawn_for_any_study(costs, random):
    steps = tuple(Step(i + 1, i, "measured", cost, best) for i, (cost, best) in enumerate(costs))
    expected = tuple(Expected(i + 1, mean, mean * 0.9, mean * 1.1) for i, mean in enumerate(random))
    chart = is_complete(course(Progress(steps, expected, 1.0, None), simulated=False))
    assert len(chart.rows) == (len(steps) if steps and steps[-1].best else 0)


def test_the_course_falls_in_stairs_and_names_the_baseline():
    steps = (Step(1, 0, "measured", 4.0, 4.0), Step(2, 1, "pruned", None, 4.0), Step(3, 2, "measured", 2.0, 2.0))
    chart = course(Progress(steps, (Expected(1, 5.0, 3.0, 7.0),), 1.0, 9), simulated=False)
    assert chart.rows[2] == ("3", "2", "measured", "2", "2", "-")
    assert chart.rows[0][-1] == "5 (3 to 7)"
    assert "random sampling is expected to reach 5" in chart.description
    assert "No trial" in course(Progress((), (), None, None), simulated=False).description
    assert (
        "none of them measured"
        in course(Progress((Step(1, 0, "failed", None, None),), (), None, None), simulated=False).description
    )


LEVELS = st.lists(
    st.builds(Level, st.text(max_size=4), POSITIVE, POSITIVE, POSITIVE, *[st.integers(0, 9)] * 3, st.booleans()),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25)
@given(st.lists(st.builds(Effect, st.just("p"), LEVELS.map(tuple)), max_size=4))
def test_the_forest_is_drawn_for_any_effects(effects):
    chart = forest(effects, simulated=True)
    assert len(chart.rows) == sum(len(e.levels) for e in effects)
    if all(level.value.isprintable() for e in effects for level in e.levels):
        is_complete(chart)


def test_the_forest_tells_what_is_sure():
    sure = Level("8", 1.5, 1.2, 1.9, 2, 0, 0, reference=False)
    base = Level("4", 1.0, 1.0, 1.0, 5, 1, 0, reference=True)
    unsure = Level("a", 1.1, 0.8, 1.6, 1, 0, 3, reference=False)
    chart = forest([Effect("tp", (sure, base)), Effect("x", (unsure, base))], simulated=False)
    assert chart.description.endswith("Told apart from chance: tp.")
    assert chart.rows[1][3] == "the best one's"
    assert "none" in forest([Effect("x", (unsure, base))], simulated=False).description
    assert forest([], simulated=False).description == "No parameter was varied."


@settings(max_examples=25)
@given(
    st.lists(
        st.builds(
            Pair, st.integers(0, 9), st.just("c"), POSITIVE, st.none() | POSITIVE, st.none() | POSITIVE, st.none()
        ),
        max_size=6,
    )
)
def test_predictions_are_drawn_for_any_pairs(pairs):
    chart = is_complete(agreement(Predictions(tuple(pairs), Agreement(3, 1.2, 0.1, 0.9), None, None), simulated=False))
    assert "1.20 times" in chart.description


def test_without_predictions_the_chart_says_so():
    assert "No prediction" in agreement(Predictions((), None, None, None), simulated=False).description


@settings(max_examples=25)
@given(st.lists(st.builds(Amount, st.just("a"), st.floats(min_value=0, max_value=1e12), st.just("t")), max_size=6))
def test_bars_are_drawn_for_any_amounts(amounts):
    is_complete(bars("spent", "Spent", amounts, ("what", "how much"), simulated=True))


def test_bars_are_as_long_as_their_amounts():
    chart = bars("spent", "Spent", [Amount("a", 10, "10"), Amount("b", 5, "5")], ("what", "how much"), simulated=False)
    long, short = (float(w) for w in re.findall(r'width="([\d.]+)"', chart.svg))
    assert long == pytest.approx(2 * short, rel=0.01)
