"""Line charts as SVG, inside HTML pages or as separate files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from panformer_cli.pages.base import render

WIDTH, HEIGHT = 720, 320
"""Size in SVG units; the page scales the chart."""

LEFT, RIGHT, TOP, BOTTOM = 76, WIDTH - 26, 14, HEIGHT - 44
"""The area inside the axes."""

MAX_POINTS = 400
"""Longer curves are averaged to this many points."""

SERIES_COLORS = 8
"""Number of style classes s0 .. s7; further curves reuse them with dashes."""

Point = tuple[float, float]
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: Name in the legend.
        points: (x, y), sorted by x. Points that are not finite are left out.
    """

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Chart:
    """Curves that share their axes.

    Attributes:
        heading: Title of the chart.
        series: The curves.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        log_y: Whether the y axis is logarithmic; ignored if a value is 0 or less.
    """

    heading: str
    series: Sequence[Series]
    x_label: str = ""
    y_label: str = ""
    log_y: bool = False


@dataclass(frozen=True)
class Curve:
    """A series ready to draw: thinned, with its style classes and its last value."""

    name: str
    style: str
    points: Sequence[Point]
    last: float


@dataclass(frozen=True)
class Drawing:
    """The layout of a chart, for `templates/line_chart.svg`.

    Attributes:
        chart: The chart.
        curves: The curves; empty if no point can be drawn.
        x_ticks: Values of the ticks on the x axis.
        y_ticks: Values of the ticks on the y axis.
        to_x: Maps an x value to SVG units.
        to_y: Maps a y value to SVG units.
        area: Left, right, top and bottom of the area inside the axes, SVG units.
        size: Width and height, SVG units.
    """

    chart: Chart
    curves: Sequence[Curve]
    x_ticks: Sequence[float] = ()
    y_ticks: Sequence[float] = ()
    to_x: Scale = float
    to_y: Scale = float
    area: tuple[int, int, int, int] = (LEFT, RIGHT, TOP, BOTTOM)
    size: tuple[int, int] = (WIDTH, HEIGHT)


def chart_svg(chart: Chart) -> str:
    """Return the chart as an `<svg>` element, or a message in a `<p>` element if no point can be drawn.

    The style sheet of the page colors the classes `axis`, `grid` and `s0`, `s1`, ... (`series_class`).
    """
    return render("line_chart.svg", drawing=draw(chart))


def draw(chart: Chart) -> Drawing:
    """Return the layout of a chart."""
    thinned = [(number, series.name, *_thinned(series.points)) for number, series in enumerate(chart.series)]
    curves = [Curve(name, series_class(number), points, last) for number, name, points, last in thinned if points]
    if not curves:
        return Drawing(chart, [])
    xs, ys = zip(*(point for curve in curves for point in curve.points), strict=True)
    is_log = chart.log_y and min(ys) > 0
    y_ticks = (log_ticks if is_log else linear_ticks)(min(ys), max(ys))
    to_x = _scale(min(xs), max(xs), LEFT, RIGHT)
    to_y = _scale(min(y_ticks[0], *ys), max(y_ticks[-1], *ys), BOTTOM, TOP, math.log if is_log else float)
    x_ticks = [tick for tick in linear_ticks(min(xs), max(xs)) if LEFT - 1 <= to_x(tick) <= WIDTH]
    return Drawing(chart, curves, x_ticks, y_ticks, to_x, to_y)


def series_class(number: int) -> str:
    """Return the style classes of curve `number`: a color, and dashes from the ninth curve on."""
    return f"s{number % SERIES_COLORS}" + (" dashed" if number >= SERIES_COLORS else "")


def linear_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Return round numbers (1, 2 or 5 times a power of ten apart) that enclose low .. high.

    >>> linear_ticks(0.3, 9.2)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if high <= low:
        margin = abs(low) / 2 or 0.5
        low, high = low - margin, high + margin
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten that enclose low .. high; only powers of ten for a wide range.

    >>> log_ticks(0.3, 9.2)
    [0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
    """
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = (1, 2, 5) if high / low < 2000 else (1,)
    ticks = [float(f"{m}e{power}") for power in powers for m in steps]
    first = max(i for i, tick in enumerate(ticks) if tick <= low)
    last = min(i for i, tick in enumerate(ticks) if tick >= high)
    return ticks[first : max(last, first + 1) + 1]


def _thinned(points: Sequence[Point]) -> tuple[list[Point], float]:
    """Return the finite points, averaged to at most `MAX_POINTS`, and the last finite value."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = max(1, -(-len(finite) // MAX_POINTS))
    pieces = [finite[start : start + size] for start in range(0, len(finite), size)]
    means = [(sum(x for x, _ in piece) / len(piece), sum(y for _, y in piece) / len(piece)) for piece in pieces]
    return means, finite[-1][1] if finite else math.nan


def _scale(low: float, high: float, start: float, end: float, warp: Callable[[float], float] = float) -> Scale:
    """Return a map from low .. high to start .. end, rounded to one decimal; an empty range maps to the middle."""
    first, extent = warp(low), warp(high) - warp(low)
    if extent <= 0:
        return lambda value: (start + end) / 2
    return lambda value: round(start + (warp(value) - first) / extent * (end - start), 1)
