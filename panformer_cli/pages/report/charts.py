"""Bars, and how far scores can be believed, as SVG that takes its colours from the page's style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from panformer_cli.pages.report.tables import Markup

_SIDE, _MARGIN = 300, 44
_WIDTH, _HEIGHT = _SIDE + 2 * _MARGIN, _SIDE + 3 * _MARGIN // 2
"""Units of the calibration chart: the square that it draws in, the room for its numbers, and all of it."""

FEW = 12
"""Bars up to this number stand below each other."""


@dataclass(frozen=True)
class Bar:
    """One bar with its name in front and its value behind.

    value: 0 or more. style: a class of the page's style, for the colour: `things`, `stuff`, `lost`.
    detail: a few words that the pointer brings up.
    """

    name: str
    value: float
    style: str = "lost"
    detail: str = ""


@dataclass(frozen=True)
class CalibrationBin:
    """Predicted segments whose scores lie in one range: their mean score and mean hit rate, 0..1, and their number."""

    score: float
    precision: float
    count: int


def bars_html(bars: Sequence[Bar], label: str, full: float | None = None) -> str:
    """A list of bars, many of them in as many columns as fit.

    full: the value of a bar of full length; the largest by default.
    """
    longest = full or max((bar.value for bar in bars), default=0.0) or 1.0
    items = "".join(_bar(bar, longest) for bar in bars)
    kind = "bars few" if len(bars) <= FEW else "bars"
    return f'<ul class="{kind}" aria-label="{escape(label)}">{items}</ul>'


def bar_svg(value: float, full: float, style: str) -> str:
    """The bar alone: `value` of `full`, stretched to the room that it gets."""
    length = 100 * min(max(value / full, 0.0), 1.0)
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="10"/><rect class="{escape(style)}" width="{length:.2f}" height="10"/>'
        "</svg>"
    )


def bar_cell(value: float, full: float, style: str, decimals: int = 1) -> Markup:
    """For a table: the bar of `value` of `full`, and the number behind it."""
    return Markup(f"{bar_svg(value, full, style)}<span>{value:.{decimals}f}</span>", float(value))


def calibration_svg(bins: Sequence[CalibrationBin], label: str) -> str:
    """A reliability diagram: score across, share of matched segments upwards, circles as large as their bins are full.

    On the diagonal, scores are true: of segments with a score of 0.8, 80 % match.
    """
    most = max((entry.count for entry in bins), default=1) or 1
    points = "".join(_bin(entry, most) for entry in bins if entry.count)
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{_grid()}'
        f'<path class="diagonal" d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}"/>{points}</svg>'
    )


def _bar(bar: Bar, longest: float) -> str:
    title = f' title="{escape(bar.detail)}"' if bar.detail else ""
    return (
        f"<li{title}><span>{escape(bar.name)}</span>{bar_svg(bar.value, longest, bar.style)}<b>{bar.value:.1f}</b></li>"
    )


def _grid() -> str:
    lines = []
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        lines.append(f'<path class="grid" d="M{_x(tick)} {_y(0)}V{_y(1)}M{_x(0)} {_y(tick)}H{_x(1)}"/>')
        lines.append(f'<text x="{_x(tick)}" y="{_y(0) + 18}" text-anchor="middle">{tick:.1f}</text>')
        lines.append(f'<text x="{_x(0) - 8}" y="{_y(tick) + 4}" text-anchor="end">{tick:.1f}</text>')
    middle = _x(0.5)
    lines.append(f'<text x="{middle}" y="{_y(0) + 36}" text-anchor="middle">score</text>')
    lines.append(f'<text transform="translate(12 {_y(0.5)}) rotate(-90)" text-anchor="middle">matched share</text>')
    return "".join(lines)


def _bin(entry: CalibrationBin, most: int) -> str:
    radius = 3 + 9 * (entry.count / most) ** 0.5
    words = f"score {entry.score:.2f}: {100 * entry.precision:.0f} % of {entry.count:,} segments match"
    return (
        f'<circle class="bin" cx="{_x(entry.score)}" cy="{_y(entry.precision)}" r="{radius:.1f}">'
        f"<title>{words}</title></circle>"
    )


def _x(share: float) -> float:
    return round(_MARGIN + _SIDE * share, 1)


def _y(share: float) -> float:
    return round(_MARGIN / 2 + _SIDE * (1 - share), 1)
