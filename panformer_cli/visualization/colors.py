"""Colors of categories and of their instances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import Category, CategoryTable, ids_by_name
from panformer_cli.visualization.coco_colors import COCO_COLORS
from panformer_cli.visualization.color_vision import oklab_of_all
from panformer_cli.visualization.oklab import Colors, Floats, in_srgb, lch_to_rgb, rgb_to_oklab

Palette = Literal["standard", "safe"]
"""`standard`: the colors of the table, else COCO's for categories with COCO's names, else generated ones. `safe`: all
generated, as different as possible for people with normal vision, protanopia or deuteranopia alike."""

VOID = (0, 0, 0)
"""Color of pixels without a segment; no category has it."""

SMALLEST_DISTANCE = 0.015
"""OKLab distance below which two colors are treated as equal; about 0.02 is just noticeable."""

_SHADES = 0.36
"""Difference in OKLab lightness between the darkest and the lightest shade of a color."""


@lru_cache(maxsize=8)
def category_colors(categories: CategoryTable) -> Colors:
    """Return one color per category: (len(categories), 3) uint8 RGB, in the order of labels; read-only.

    Colors depend only on the table, so a category looks the same in every image. A color from the table, or COCO's
    color for a category with a name of COCO, is kept if it differs from earlier ones and from black (void). The other
    colors are as far apart as possible.
    """
    return _standard(categories.categories)


@lru_cache(maxsize=8)
def with_colors(
    reference: CategoryTable, *others: CategoryTable, palette: Palette = "standard"
) -> tuple[CategoryTable, ...]:
    """Return the tables with a color for every category, which `category_colors` then returns.

    A category of another table has the color of its counterpart in `reference`: the category with its name if the
    tables have other ids for some name, else the one with its id. So the same category looks the same in ground truth
    and prediction.
    """
    rows = list(reference.categories)
    positions = [list(range(len(rows)))]
    for table in others:
        position_of_id = _counterparts(table, reference)
        positions.append([])
        for category in table.categories:
            positions[-1].append(position_of_id.get(category.id, len(rows)))
            rows += [category] if category.id not in position_of_id else []
    colors: list[tuple[int, int, int]] = [
        (red, green, blue) for red, green, blue in (_safe(len(rows)) if palette == "safe" else _standard(rows)).tolist()
    ]
    return tuple(
        CategoryTable(replace(row, color=colors[i]) for row, i in zip(table.categories, own, strict=True))
        for table, own in zip((reference, *others), positions, strict=True)
    )


def shade(color: npt.ArrayLike, number: int) -> Colors:
    """Return the color of instance `number` of a category: (3,) uint8, a shade of `color`; 0 is `color` itself.

    Lightness and hue follow a low-discrepancy sequence, so that instances with near numbers are easy to tell apart.
    """
    red, green, blue = np.asarray(color, np.uint8).tolist()
    return _shade((red, green, blue), number)


@lru_cache(maxsize=4096)
def _shade(color: tuple[int, int, int], number: int) -> Colors:
    base = np.array(color, np.uint8)
    if number == 0:
        return base
    lightness, a, b = rgb_to_oklab(base[None])[0]
    chroma, hue = max(float(np.hypot(a, b)), 0.05), float(np.arctan2(b, a))
    # The golden ratio keeps near numbers apart in lightness, which all people see; the square of the plastic number in
    # hue.
    step_l, step_h = 0.6180339887 * number, (0.5 + 0.5698402910 * number) % 1 - 0.5
    start = max(float(lightness), 0.2)
    darkest = float(np.clip(np.clip(start - _SHADES / 2, 0.27, 0.54), start - _SHADES, start))
    shaded = darkest + (start - darkest + _SHADES * step_l) % _SHADES
    return np.asarray(lch_to_rgb(np.array([[shaded, chroma, hue + np.radians(52) * step_h]]))[0])


def _counterparts(table: CategoryTable, reference: CategoryTable) -> dict[int, int]:
    """Return the label in `reference` of each id of `table` that has a counterpart there."""
    ids = [category.id for category in table.categories]
    by_name = ids_by_name([(category.id, category.name) for category in table.categories], reference)
    pairs = by_name.items() if by_name is not None else zip(ids, ids, strict=True)
    return {own: reference.label(other) for own, other in pairs if other in reference}


def _standard(categories: Sequence[Category]) -> Colors:
    """Return the standard colors of categories: (N, 3) uint8; read-only."""
    colors = np.zeros((len(categories), 3), np.uint8)
    taken = rgb_to_oklab(np.array([VOID], np.uint8))
    missing = list(range(len(categories)))
    own = [category.color for category in categories]
    of_coco = [COCO_COLORS.get(category.name.strip().casefold()) for category in categories]
    for label, color in _known(own, of_coco):
        lab = rgb_to_oklab(np.clip(np.array([color]), 0, 255).astype(np.uint8))
        if label in missing and np.linalg.norm(taken - lab, axis=1).min() >= SMALLEST_DISTANCE:
            colors[label] = np.clip(color, 0, 255)
            taken = np.concatenate([taken, lab])
            missing.remove(label)
    colors[missing] = _spread(_standard_candidates(), taken[None], len(missing))
    colors.setflags(write=False)
    return colors


def _known(*sources: Sequence[tuple[int, int, int] | None]) -> Iterable[tuple[int, tuple[int, int, int]]]:
    """Yield label and color, all of the first source before those of the next."""
    for source in sources:
        for label, color in enumerate(source):
            if color is not None:
                yield label, color


def _safe(count: int) -> Colors:
    """Return colors that are far apart with normal vision and in simulated dichromacy: (count, 3) uint8.

    The first ones are the farthest apart. In dichromacy, only lightness and one color axis remain, so all lightnesses
    are used.
    """
    void = oklab_of_all(np.array([VOID], np.uint8))
    return _spread(_safe_candidates(), void, count)


class _Candidates(NamedTuple):
    """Colors to choose from, (K, 3) uint8, and their OKLab values in the views that must differ, (V, K, 3)."""

    colors: Colors
    labs: Floats


def _spread(candidates: _Candidates, taken: Floats, count: int) -> Colors:
    """Return `count` colors, as far as possible from each other and from `taken` in every view: (count, 3) uint8.

    Args:
        candidates: The colors to choose from.
        taken: (V, N, 3) OKLab values, in the views of the candidates.
        count: Number of colors.
    """
    colors, labs = candidates
    distance = np.linalg.norm(labs[:, :, None] - taken[:, None], axis=3).min(axis=(0, 2))
    chosen = np.zeros((count, 3), np.uint8)
    for position in range(count):
        best = int(distance.argmax())
        chosen[position] = colors[best]
        distance = np.minimum(distance, np.linalg.norm(labs - labs[:, best : best + 1], axis=2).min(axis=0))
    return chosen


@lru_cache(maxsize=1)
def _standard_candidates() -> _Candidates:
    """Return colors for overlays on photos: not too dark, pale or saturated."""
    colors = _grid(np.linspace(0.48, 0.88, 11), np.linspace(0.05, 0.17, 7))
    return _Candidates(colors, rgb_to_oklab(colors)[None])


@lru_cache(maxsize=1)
def _safe_candidates() -> _Candidates:
    colors = _grid(np.linspace(0.3, 0.95, 17), np.linspace(0, 0.25, 9))
    return _Candidates(colors, oklab_of_all(colors))


def _grid(lightness: Floats, chroma: Floats) -> Colors:
    """Return the colors of sRGB with these values, and hues in steps of 7.5 degrees: (K, 3) uint8."""
    axes = np.meshgrid(lightness, chroma, np.radians(np.arange(0, 360, 7.5)), indexing="ij")
    lch = np.stack([axis.ravel() for axis in axes], axis=1)
    return lch_to_rgb(lch[in_srgb(lch)])
