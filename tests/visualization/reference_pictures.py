"""Pictures whose look is kept in `references/`; run this module to write them again, and look at them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.visualization.colors import with_colors
from panformer_cli.visualization.drawing import DrawOptions, colorize, draw_panoptic, highlight, side_by_side
from panformer_cli.visualization.labels import IndexMap
from tests.visualization.maps import panoptic_of

FOLDER = Path(__file__).parent / "references"

TABLE = CategoryTable(
    [
        Category(1, "person", True),
        Category(3, "car", True),
        Category(184, "tree-merged", False),
        Category(187, "sky-other-merged", False),
        Category(193, "grass-merged", False),
        Category(900, "my own class", True),
    ]
)

_CATEGORIES = {1: 187, 2: 193, 3: 184, 4: 1, 5: 1, 6: 3, 7: 900, 8: 1}


def scene(height: int, width: int) -> PanopticMap:
    """Return a meadow with trees, three persons, a car, a disc with a hole, and void."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = (y + 0.5) / height, (x + 0.5) / width
    index: IndexMap = np.asarray(np.where(y < 0.45 + 0.05 * np.sin(9 * x), 1, 2), np.uint16)
    index[(y < 0.5) & (y > 0.3 + 0.08 * np.sin(31 * x)) & (x < 0.45)] = 3
    index[np.hypot((x - 0.62) / 0.05, (y - 0.55) / 0.3) < 1] = 4
    index[np.hypot((x - 0.69) / 0.05, (y - 0.6) / 0.3) < 1] = 5
    index[(np.abs(x - 0.25) < 0.17) & (np.abs(y - 0.72) < 0.11)] = 6
    index[np.hypot((x - 0.86) / 0.11, (y - 0.22) / 0.17) < 1] = 7
    index[np.hypot((x - 0.86) / 0.03, (y - 0.22) / 0.05) < 1] = 1
    index[np.hypot((x - 0.98) / 0.07, (y - 0.75) / 0.2) < 1] = 8
    index[(y > 0.95) & (x < 0.5)] = 0
    return panoptic_of(index, _CATEGORIES, score=0.87)


def photo(height: int, width: int) -> ImageArray:
    """Return four gray bands."""
    row = np.linspace(0, 4, width, endpoint=False).astype(np.uint8) * np.uint8(40) + np.uint8(60)
    return np.repeat(np.tile(row, (height, 1))[..., None], 3, axis=2)


def _overlay(height: int, width: int, options: DrawOptions | None = None) -> ImageArray:
    return draw_panoptic(photo(height, width), scene(height, width), TABLE, options or DrawOptions(scores=True))


def _safe() -> ImageArray:
    return draw_panoptic(photo(240, 320), scene(240, 320), with_colors(TABLE, palette="safe")[0])


def _highlight() -> ImageArray:
    panoptic = scene(160, 240)
    return highlight(photo(160, 240), PanopticMap(panoptic.ids, panoptic.segments[3:6]), TABLE)


def _pair() -> ImageArray:
    return side_by_side([colorize(scene(120, 160), TABLE), photo(120, 160)], ["ground truth", "image"])


PICTURES: dict[str, Callable[[], ImageArray]] = {
    "small": partial(_overlay, 48, 64),
    "overlay": partial(_overlay, 300, 400),
    "upright": partial(_overlay, 320, 180),
    "contours": partial(_overlay, 240, 320, DrawOptions(labels=False)),
    "safe": _safe,
    "highlight": _highlight,
    "pair": _pair,
}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        Image.fromarray(draw()).save(FOLDER / f"{name}.png", optimize=True)
