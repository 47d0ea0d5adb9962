"""mapjax.report.plots: ticks and scales, and that every chart is well-formed XML."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mapjax.metrics.calibration import bins
from mapjax.report import plots

STEPS = np.arange(5.0)


def circles(chart):
    return list(ElementTree.fromstring(chart).iter("circle"))


@settings(max_examples=60)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
@example(1.0, 41.0, 2)  # no multiple of 50 is there
def test_ticks_are_few_even_and_inside(low, width, most):
    high = low + width
    found = np.array(plots.ticks(low, high, most))
    assert 1 <= len(found) <= most + 1
    slack = 1e-6 * max(width, abs(low))
    assert found[0] >= low - slack and found[-1] <= high + slack
    if len(found) > 2:
        np.testing.assert_allclose(np.diff(found), np.diff(found)[0], rtol=1e-3, atol=slack)


@pytest.mark.parametrize(("low", "high"), [(1e-4, 1.0), (0.3, 4.0), (9.0, 60.0), (1e-9, 1e6)])
def test_log_ticks_are_few_and_inside(low, high):
    found = plots.log_ticks(low, high)
    assert 1 <= len(found) <= 9 and low <= found[0] and found[-1] <= high


@pytest.mark.parametrize(("low", "high"), [(2.17, 4.8), (5.5, 9.5), (3.0, 3.1)])
def test_log_ticks_of_a_narrow_range_are_at_least_two(low, high):
    found = plots.log_ticks(low, high)
    assert 2 <= len(found) <= 9 and low <= found[0] and found[-1] <= high


def test_lines_place_points_by_value():
    chart = plots.lines([plots.Series("loss", STEPS, STEPS * 2)], x_label="step", y_label="loss", y_range=(0.0, 8.0))
    first, *_, last = circles(chart)
    assert (float(first.get("cx")), float(first.get("cy"))) == (plots.LEFT, plots.HEIGHT - plots.BOTTOM)
    assert (float(last.get("cx")), float(last.get("cy"))) == (plots.WIDTH - plots.RIGHT, plots.TOP)


def test_lines_leave_out_what_is_not_finite():
    values = np.array([1.0, np.nan, np.inf, 2.0, 3.0])
    assert len(circles(plots.lines([plots.Series("a", STEPS, values)], x_label="x", y_label="y"))) == 3
    assert plots.lines([plots.Series("a", STEPS, values * np.nan)], x_label="x", y_label="y") == ""
    assert plots.lines([], x_label="x", y_label="y") == ""


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [STEPS * 0, STEPS * 0 + 3, STEPS - 2, STEPS[:1] + 1, STEPS * 1e-9], ids=str)
def test_lines_of_any_values_are_well_formed(values, log):
    series = plots.Series("<a&b>", STEPS[: len(values)], values)
    chart = plots.lines([series, series], x_label="x<y", y_label="&", log=log)
    if chart:
        assert ElementTree.fromstring(chart).find("ul") is not None
        assert "nan" not in chart and "inf" not in chart


def test_long_lines_are_thinned_to_means():
    x = np.arange(10_000.0)
    chart = plots.lines([plots.Series("a", x, x % 2)], x_label="x", y_label="y")
    assert len(chart) < 20_000
    path = next(n for n in ElementTree.fromstring(chart).iter("path") if n.get("class") == "line")
    assert path.get("d", "").count("L") == plots.MOST_POINTS - 1


def test_histogram_stacks_counts():
    counts = {"good": np.array([1, 0, 2]), "bad": np.array([3, 0, 0])}
    chart = plots.histogram(counts, np.array([0.0, 1, 2, 3]), x_label="score", y_label="n")
    bars = list(ElementTree.fromstring(chart).iter("rect"))
    assert len(bars) == 3
    heights = [float(bar.get("height", 0)) for bar in bars]
    assert heights[2] == pytest.approx(3 * heights[0], abs=0.3)
    assert float(bars[2].get("y", 0)) + heights[2] == pytest.approx(float(bars[0].get("y", 0)), abs=0.2)
    assert plots.histogram({"good": np.zeros(3, int)}, np.arange(4.0), x_label="a", y_label="b") == ""


def test_reliability_has_a_bar_and_a_gap_for_each_bin_with_answers():
    confidence = np.array([0.3] * 20 + [0.9] * 40 + [0.1] * 2)
    correct = np.array([True] * 12 + [False] * 8 + [True] * 30 + [False] * 10 + [True] * 2)
    chart = plots.reliability(bins(confidence, correct, 5), x_label="a<b", y_label="accuracy")
    root = ElementTree.fromstring(chart)
    heights = {
        kind: [float(r.get("height")) for r in root.iter("rect") if r.get("class") == kind] for kind in ("bar", "gap")
    }
    whole = plots.HEIGHT - plots.BOTTOM - plots.TOP
    assert heights["bar"] == pytest.approx([1.0 * whole, 0.6 * whole, 0.75 * whole], abs=0.1)
    assert heights["gap"] == pytest.approx([0.9 * whole, 0.3 * whole, 0.15 * whole], abs=0.1)
    assert [g.get("class") for g in root.iter("g")] == ["faint", None, None]
    assert plots.reliability(bins(np.zeros(0), np.zeros(0, bool)), x_label="a", y_label="b") == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234, "1,234"), (0.5, "0.5"), (0.12345, "0.123"), (5e-4, "5e-4"), (2e-6, "2e-6"), (0, "0"), (float("nan"), "–")],
)
def test_number_text(value, text):
    assert plots.number_text(value) == text


def test_small_is_well_formed():
    chart = ElementTree.fromstring(plots.small(np.linspace(0, 1, 101), np.ones(101), "#123456"))
    _, line = chart.iter("path")
    points = [tuple(map(float, point)) for point in re.findall(r"([\d.]+)[ ,]([\d.]+)", line.get("d"))]
    x = [a for a, _ in points]
    assert len(points) == 50 and {b for _, b in points} == {2} and x == sorted(set(x))  # means of two or three
    assert x[0] == pytest.approx(2 + 0.66, abs=0.1) and x[-1] == pytest.approx(68 - 0.33, abs=0.1)
