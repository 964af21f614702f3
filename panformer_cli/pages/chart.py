"""Line charts as SVG, for the pages that panformer writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 320
"""Units of the drawing; the page scales it."""

MOST_POINTS = 400
"""A longer curve is drawn as the means of this many pieces."""

SERIES_COLORS = 8
"""The page's style has the colours s0 .. s7; curves beyond them are dashed."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 26, 14, 44

Point = tuple[float, float]
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Series:
    """One curve. Points with a value that is not finite are left out.

    points: (x, y), in the order of x.
    """

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Chart:
    """Curves over one pair of axes.

    log_y: a logarithmic y axis; ignored when a value is 0 or less.
    """

    heading: str
    series: Sequence[Series]
    x_label: str = ""
    y_label: str = ""
    log_y: bool = False


def chart_svg(chart: Chart) -> str:
    """The chart as an `<svg>` element, or a sentence in a `<p>` when no point can be drawn.

    Colours come from the page's style: `axis`, `grid` and `s0`, `s1`, ... for the curves.
    """
    curves = [(series.name, _thinned(series.points)) for series in chart.series]
    points = [point for _, curve in curves for point in curve]
    if not points:
        return '<p class="muted">No values to draw.</p>'
    log_y = chart.log_y and min(y for _, y in points) > 0
    x_ticks = linear_ticks(min(x for x, _ in points), max(x for x, _ in points))
    y_ticks = (log_ticks if log_y else linear_ticks)(min(y for _, y in points), max(y for _, y in points))
    to_x = _scale(min(x for x, _ in points), max(x for x, _ in points), _LEFT, WIDTH - _RIGHT)
    low, high = min(y_ticks[0], *(y for _, y in points)), max(y_ticks[-1], *(y for _, y in points))
    to_y = _scale(low, high, HEIGHT - _BOTTOM, _TOP, math.log if log_y else float)
    pieces = [_axes(chart, [t for t in x_ticks if _LEFT - 1 <= to_x(t) <= WIDTH], y_ticks, to_x, to_y)]
    pieces += [_curve(i, name, curve, to_x, to_y) for i, (name, curve) in enumerate(curves) if curve]
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.heading)}">'
        + "".join(pieces)
        + "</svg>"
    )


def linear_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that enclose low .. high.

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
    """1, 2 and 5 times powers of ten that enclose low .. high, or powers of ten alone over a wide range.

    >>> log_ticks(0.3, 9.2)
    [0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
    """
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = (1, 2, 5) if high / low < 2000 else (1,)
    ticks = [float(f"{m}e{power}") for power in powers for m in steps]
    first = max(i for i, tick in enumerate(ticks) if tick <= low)
    last = min(i for i, tick in enumerate(ticks) if tick >= high)
    return ticks[first : max(last, first + 1) + 1]


def short_number(value: float) -> str:
    """For an axis: 12000 is 12k, 2500000 is 2.5M."""
    for size, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{value:g}"


def _thinned(points: Sequence[Point]) -> list[Point]:
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = max(1, -(-len(finite) // MOST_POINTS))
    pieces = [finite[start : start + size] for start in range(0, len(finite), size)]
    return [(sum(x for x, _ in piece) / len(piece), sum(y for _, y in piece) / len(piece)) for piece in pieces]


def _scale(low: float, high: float, start: float, end: float, warp: Callable[[float], float] = float) -> Scale:
    """From low .. high to start .. end; a range of one value goes to the middle."""
    first, extent = warp(low), warp(high) - warp(low)
    if extent <= 0:
        return lambda value: (start + end) / 2
    return lambda value: start + (warp(value) - first) / extent * (end - start)


def _axes(chart: Chart, x_ticks: Sequence[float], y_ticks: Sequence[float], to_x: Scale, to_y: Scale) -> str:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    pieces = [f'<path class="grid" d="M{_LEFT} {to_y(tick):.1f}H{right}"/>' for tick in y_ticks]
    pieces.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
    for tick in x_ticks:
        pieces.append(f'<path class="axis" d="M{to_x(tick):.1f} {bottom}v4"/>')
        pieces.append(f'<text x="{to_x(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{short_number(tick)}</text>')
    for tick in y_ticks:
        pieces.append(f'<text x="{_LEFT - 7}" y="{to_y(tick) + 4:.1f}" text-anchor="end">{short_number(tick)}</text>')
    middle = (_TOP + bottom) / 2
    pieces.append(
        f'<text x="{(_LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    pieces.append(
        f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{escape(chart.y_label)}</text>'
    )
    return "".join(pieces)


def _curve(number: int, name: str, points: Sequence[Point], to_x: Scale, to_y: Scale) -> str:
    style = series_class(number)
    title = f"<title>{escape(name)}</title>"
    places = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in points)
    if len(points) > 60:
        return f'<polyline class="{style}" points="{places}">{title}</polyline>'
    dots = "".join(
        f'<circle class="{style}" cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="2.5">'
        f"<title>{escape(name)}: {y:.4g} at {short_number(x)}</title></circle>"
        for x, y in points
    )
    return f'<polyline class="{style}" points="{places}">{title}</polyline>{dots}'


def series_class(number: int) -> str:
    """The style classes of curve `number`: a colour, and from the ninth curve on dashes."""
    return f"s{number % SERIES_COLORS}" + (" dashed" if number >= SERIES_COLORS else "")
