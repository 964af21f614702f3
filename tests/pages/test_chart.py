from __future__ import annotations

import math

import pytest

from panformer_cli.pages.base import short_number
from panformer_cli.pages.chart import (
    HEIGHT,
    MAX_POINTS,
    SERIES_COLORS,
    WIDTH,
    Chart,
    Series,
    chart_svg,
    draw,
    linear_ticks,
    log_ticks,
    series_class,
)
from tests.pages.html import NASTY, Html


def svg_of(*series: Series, log_y: bool = False) -> Html:
    return Html(chart_svg(Chart("c", series, log_y=log_y)))


def points_of(svg: Html, number: int = 0) -> list[tuple[float, float]]:
    pairs = [point.split(",") for point in (svg.all("polyline")[number]["points"] or "").split()]
    return [(float(x), float(y)) for x, y in pairs]


def test_a_curve_is_drawn_to_scale() -> None:
    (x0, y0), (x1, y1), (x2, y2) = points_of(svg_of(Series("s", [(0, 0), (50, 5), (100, 10)])))
    assert 0 < x0 < x1 < x2 < WIDTH and HEIGHT > y0 > y1 > y2 > 0
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.11) and y1 == pytest.approx((y0 + y2) / 2, abs=0.11)


def test_an_exponential_is_a_straight_line_on_a_logarithmic_axis() -> None:
    heights = [y for _, y in points_of(svg_of(Series("s", [(x, 10.0**-x) for x in range(5)]), log_y=True))]
    steps = [after - before for before, after in zip(heights, heights[1:], strict=False)]
    assert max(steps) - min(steps) < 0.25 and min(steps) > 1


def test_values_that_are_not_finite_are_left_out() -> None:
    svg = svg_of(Series("s", [(0.0, 1.0), (1.0, math.nan), (2.0, math.inf), (3.0, 2.0)]), log_y=True)
    assert len(points_of(svg)) == 2
    assert "nan" not in svg.text and "inf" not in svg.text


@pytest.mark.parametrize("points", [[], [(0.0, math.nan)], [(5.0, 3.0)], [(5.0, 0.0)], [(1.0, -2.0), (1.0, -2.0)]])
def test_charts_with_few_points(points: list[tuple[float, float]]) -> None:
    svg = svg_of(Series("s", points), log_y=True)
    finite = [point for point in points if math.isfinite(point[1])]
    assert len(svg.all("circle")) == len(finite)
    assert ("No data to plot" in svg.text) == (not finite)


def test_only_curves_with_few_points_have_dots() -> None:
    svg = svg_of(Series("few", [(0, 0), (1, 1)]), Series("many", [(x / 100, 0.5) for x in range(100)]))
    assert len(svg.all("circle")) == 2 and len(svg.all("polyline")) == 2


def test_a_long_curve_is_averaged() -> None:
    points = [(float(x), float(x % 2)) for x in range(10 * MAX_POINTS)]
    chart = Chart("c", [Series("s", points), Series("top", [(0.0, 1.0)])])
    curve = points_of(Html(chart_svg(chart)))
    assert len(curve) == MAX_POINTS
    assert len({y for _, y in curve}) == 1  # each averaged piece has as many zeros as ones
    assert draw(chart).curves[0].last == 1.0, "the last value itself, not the mean of the last piece"


def test_curves_keep_their_colors_if_another_has_no_values() -> None:
    curves = draw(Chart("c", [Series("a", []), Series("b", [(0, 1)])])).curves
    assert [(curve.name, curve.style) for curve in curves] == [("b", "s1")]
    assert series_class(SERIES_COLORS + 1) == "s1 dashed"


def test_texts_are_escaped() -> None:
    svg = Html(chart_svg(Chart(NASTY, [Series(NASTY, [(0, 1), (1, 2)])], NASTY, NASTY)))
    assert svg.text.count(NASTY) == 5 and svg.all("svg")[0]["aria-label"] == NASTY
    assert {tag for tag, _ in svg.elements} == {"svg", "path", "text", "polyline", "circle", "title"}


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (3.2, 98.7), (1e-6, 3e-4), (-5, 5), (7, 7), (0, 0), (120_000, 360_001), (-2e-9, 0)]
)
def test_linear_ticks_are_round_and_enclose_the_range(low: float, high: float) -> None:
    ticks = linear_ticks(low, high)
    steps = [after - before for before, after in zip(ticks, ticks[1:], strict=False)]
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 9
    assert f"{steps[0]:.0e}"[0] in "125" and max(steps) - min(steps) < 1e-6 * steps[0]


@pytest.mark.parametrize(("low", "high"), [(0.3, 9.2), (1, 1), (1e-5, 1e3), (0.05, 0.051), (2.0, 5.0)])
def test_log_ticks_enclose_the_range(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert ticks == sorted(set(ticks)) and ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 12
    assert all(f"{tick:.0e}"[0] in "125" for tick in ticks)


def test_short_numbers() -> None:
    values = (0, 0.0001, 950, 9000, 12_000, 2_500_000)
    assert [short_number(value) for value in values] == ["0", "0.0001", "950", "9000", "12k", "2.5M"]
