"""Outlines along the edges of pixels: rasterized by pycocotools and by SciPy's labels, not by our own code."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco_mask
from scipy import ndimage

from panformer_cli.prepare.export.outlines import as_one, changed_pixels, joined, simplified, trace


def mask_of(text: str) -> npt.NDArray[np.bool_]:
    """Return the mask that lines of `#` and `.` draw."""
    return np.array([[mark == "#" for mark in line] for line in text.split()])


def rasterized(rings: Any, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return the pixels in an odd number of rings."""
    found = np.zeros(size, np.bool_)
    for ring in rings:
        found ^= coco_mask.decode(coco_mask.frPyObjects([ring.ravel().tolist()], *size))[..., 0].astype(bool)
    return found


def test_a_pixel_is_a_square() -> None:
    (part,) = trace(mask_of(".. .#"))
    assert part.outer.tolist() == [[1, 1], [2, 1], [2, 2], [1, 2]]
    assert part.holes == ()


def test_only_turns_are_listed_and_holes_belong_to_their_part() -> None:
    first, second = trace(mask_of("###.# #.#.# ###.#"))
    assert first.outer.tolist() == [[0, 0], [3, 0], [3, 3], [0, 3]]
    assert [hole.tolist() for hole in first.holes] == [[[1, 1], [2, 1], [2, 2], [1, 2]]]
    assert second.outer.tolist() == [[4, 0], [5, 0], [5, 3], [4, 3]]


@pytest.mark.parametrize("drawn", ["#. .#", ".# #."])
def test_pixels_that_touch_at_a_corner_are_one_part(drawn: str) -> None:
    (part,) = trace(mask_of(drawn))
    assert len(part.outer) == 8
    assert part.outer.tolist().count([1, 1]) == 2


def test_an_empty_mask_has_no_parts() -> None:
    assert trace(np.zeros((3, 4), np.bool_)) == []


def test_random_masks_are_rasterized_back_exactly() -> None:
    draws = np.random.default_rng(0)
    holes = 0
    for _ in range(120):
        size = (int(draws.integers(1, 12)), int(draws.integers(1, 12)))
        mask = draws.random(size) < draws.choice([0.2, 0.5, 0.7, 0.9])
        parts = trace(mask)
        assert np.array_equal(rasterized([ring for part in parts for ring in (part.outer, *part.holes)], size), mask)
        assert len(parts) == ndimage.label(mask, np.ones((3, 3)))[1]
        number = ndimage.label(~np.pad(mask, 1))[1] - 1
        assert sum(len(part.holes) for part in parts) == number
        holes += number
        if parts:
            assert np.array_equal(rasterized([as_one(parts)], size), mask)
            each = [rasterized([joined([part.outer, *part.holes])], size) for part in parts]
            assert np.array_equal(np.any(each, axis=0), mask)
        assert changed_pixels(parts, mask) == 0
    assert holes > 40


def test_a_line_leads_to_a_hole_and_back() -> None:
    (part,) = trace(mask_of("#### #..# #### ####"))
    polygon = joined([part.outer, *part.holes])
    assert len(polygon) == 4 + 4 + 2
    assert polygon[0].tolist() == [0, 0] and polygon.tolist().count([0, 0]) == 2
    assert polygon.tolist().count([1, 1]) == 2


def test_simplified_outlines_stay_near_and_their_changes_are_counted() -> None:
    y, x = np.mgrid[:40, :40] + 0.5
    mask = (x - 20) ** 2 + (y - 20) ** 2 < 18**2
    parts = trace(mask)
    (part,) = fewer = simplified(parts, mask.shape, 1.0)
    assert len(part.outer) < len(parts[0].outer) / 2
    changed = int((rasterized([part.outer], mask.shape) != mask).sum())
    assert 0 < changed_pixels(fewer, mask) == changed < 0.05 * mask.sum()


def test_an_outline_does_not_vanish() -> None:
    mask = mask_of("... .#. ...")
    assert changed_pixels(simplified(trace(mask), mask.shape, 50), mask) == 0


def test_every_simplified_part_has_pixels() -> None:
    """A part without pixels would be lost when the labels are read."""
    draws = np.random.default_rng(0)
    for _ in range(100):
        mask = draws.random((8, 9)) < 0.4
        for part in simplified(trace(mask), mask.shape, float(draws.uniform(0.5, 4))):
            assert rasterized([part.outer, *part.holes], mask.shape).any()
