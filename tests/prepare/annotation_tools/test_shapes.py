"""Rasterizing shapes: compared with pycocotools, supersampling, and areas computed by hand."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco_mask

from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.shapes import (
    Box,
    Patch,
    Size,
    bitmap,
    check_not_fractions,
    coco_runs,
    ellipse,
    polygon,
    rectangle,
    run_lengths,
    union,
)
from panformer_cli.prepare.left_out import NoAreaError

Array = npt.NDArray[np.float64]
SIZE = (40, 60)


def whole(patch: Patch, size: tuple[int, int] = SIZE) -> npt.NDArray[np.bool_]:
    """Return the patch as a mask of the whole image."""
    mask = np.zeros(size, np.bool_)
    height, width = patch.mask.shape
    mask[patch.top : patch.top + height, patch.left : patch.left + width] = patch.mask
    assert mask.sum() == patch.mask.sum(), "the patch is inside the image"
    return mask


def of_pycocotools(points: Array) -> npt.NDArray[np.bool_]:
    (runs,) = coco_mask.frPyObjects([points.ravel().tolist()], *SIZE)
    return np.asarray(coco_mask.decode(runs), np.bool_)


def covered(inside: npt.NDArray[np.bool_], finer: int) -> Array:
    """Return the fraction of each pixel covered by a mask of `finer` times the size."""
    height, width = SIZE
    shares: Array = inside.reshape(height, finer, width, finer).mean(axis=(1, 3))
    return shares


def fine_grid(finer: int) -> tuple[Array, Array]:
    """Return x (1, W) and y (H, 1) of the centers of `finer` x `finer` points per pixel."""
    height, width = SIZE
    return ((np.arange(width * finer) + 0.5) / finer)[None], ((np.arange(height * finer) + 0.5) / finer)[:, None]


def inside_polygon(points: Array, finer: int) -> npt.NDArray[np.bool_]:
    """Apply the even-odd rule at each grid point, edge by edge."""
    x, y = fine_grid(finer)
    inside = np.zeros((y.size, x.size), np.bool_)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        crosses = (y1 <= y) != (y2 <= y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (x < x1 + (y - y1) / (y2 - y1) * (x2 - x1))
    return inside


@pytest.mark.parametrize("decimals", [0, 1, 2, 6])
def test_polygons_match_pycocotools(decimals: int) -> None:
    """At tenths of pixels its rounding matters; corners are inside and outside of the image."""
    generator = np.random.default_rng(decimals)
    for _ in range(300):
        low, high = sorted(generator.uniform(-30, 79, 2))
        points = generator.uniform(low, high, (generator.integers(3, 9), 2)).round(decimals)
        try:
            patch = polygon(points, SIZE, "here")
        except DataError:
            assert not of_pycocotools(points).any(), points
        else:
            np.testing.assert_array_equal(whole(patch), of_pycocotools(points), err_msg=str(points))


def test_a_polygon_contains_the_pixels_it_mostly_covers() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        turns = np.sort(generator.uniform(0, 2 * math.pi, 12))
        reach = generator.uniform(8, 25, (12, 1))
        points = np.stack([np.cos(turns), np.sin(turns)], axis=1) * reach + generator.uniform(10, 40, 2)
        share = covered(inside_polygon(points, 8), 8)
        mask = whole(polygon(points, SIZE, "here"))
        assert mask[share == 1].mean() > 0.995 and mask[share == 0].mean() < 0.005
        # It follows outlines to a fifth of a pixel, so single pixels may differ but areas hardly do.
        assert abs(mask.sum() - share.sum()) < 0.03 * share.sum() + 5


def test_the_mask_of_a_polygon_is_no_larger_than_its_box() -> None:
    patch = polygon(np.array([[1000.0, 2000], [1010, 2000], [1010, 2020], [1000, 2020]]), (4000, 4000), "here")
    assert patch.mask.shape == (20, 10) and (patch.top, patch.left) == (2000, 1000)
    assert patch.mask.sum() == 200


def test_parts_joined_by_a_line_in_both_directions_stay_separate() -> None:
    """Ultralytics writes an object with two parts like this."""
    first, second = [[2, 2], [8, 2], [8, 8], [2, 8]], [[20, 20], [30, 20], [30, 30], [20, 30]]
    points = np.array([*first, first[0], *second, second[0], first[0]], np.float64)
    expected = np.zeros(SIZE, np.bool_)
    expected[2:8, 2:8] = expected[20:30, 20:30] = True
    np.testing.assert_array_equal(whole(polygon(points, SIZE, "here")), expected)


def test_a_polygon_without_area_has_no_pixels() -> None:
    assert polygon(np.array([[3.0, 3], [9, 9], [3, 3]]), SIZE, "here").mask.sum() == 0
    assert polygon(np.full((3, 2), 5.0), SIZE, "here").mask.sum() == 0
    for edge in ([[60, 1], [60, 5], [60, 9]], [[0, 1], [0, 5], [0, 9]], [[1, 40], [5, 40], [9, 40]]):
        assert polygon(np.array(edge, float), SIZE, "here").mask.sum() == 0, "it only touches the image"


def test_rectangles() -> None:
    expected = np.zeros(SIZE, np.bool_)
    expected[4:10, 3:20] = True
    for corners in ([[3, 4], [20, 10]], [[20, 4], [3, 10]], [[20, 10], [3, 4]]):
        np.testing.assert_array_equal(whole(rectangle(np.array(corners, float), SIZE, "here")), expected)
    over_the_edge = whole(rectangle(np.array([[50.0, -5], [75, 6]]), SIZE, "here"))
    assert over_the_edge[:6, 50:].all() and over_the_edge.sum() == 60
    assert whole(rectangle(np.array([[-9.0, -9], [99, 79]]), SIZE, "here")).all()


def test_a_rectangle_rotates_clockwise_about_its_center() -> None:
    corners = np.array([[10.0, 15], [30, 25]])  # 20 x 10 about (20, 20)
    upright = whole(rectangle(corners, SIZE, "here", rotation=90))
    assert upright[10:30, 15:25].all() and upright.sum() == 200
    turned = whole(rectangle(corners, SIZE, "here", rotation=30))
    x, y = fine_grid(8)
    c, s = math.cos(math.radians(30)), math.sin(math.radians(30))
    along, across = (x - 20) * c + (y - 20) * s, (y - 20) * c - (x - 20) * s
    share = covered((abs(along) < 10) & (abs(across) < 5), 8)
    assert turned[share > 0.9].all() and not turned[share < 0.1].any()
    assert turned[24, 27] and not turned[15, 27], "the right end goes down"


@pytest.mark.parametrize(
    ("center", "radii", "rotation"),
    [((30, 20), (10, 10), 0), ((30.3, 19.8), (14, 6), 0), ((30, 20), (18, 5), 35), ((2, 38), (9, 4), 120)],
)
def test_ellipses(center: tuple[float, float], radii: tuple[float, float], rotation: float) -> None:
    mask = whole(ellipse(center, radii, SIZE, "here", rotation))
    x, y = fine_grid(16)
    turn = complex(math.cos(math.radians(rotation)), -math.sin(math.radians(rotation)))
    point = ((x - center[0]) + 1j * (y - center[1])) * turn
    share = covered((point.real / radii[0]) ** 2 + (point.imag / radii[1]) ** 2 <= 1, 16)
    assert mask[share > 0.8].all() and not mask[share < 0.2].any()
    assert abs(mask.sum() - share.sum()) < 0.03 * share.sum()


def test_an_ellipse_without_area_has_no_pixels() -> None:
    assert ellipse((10.5, 10.5), (0, 0), SIZE, "here").mask.sum() == 0
    assert ellipse((10.5, 10.5), (0, 7), SIZE, "here").mask.sum() == 0
    for center in ((63, 20), (-3, 20), (30, 43), (30, -3)):
        assert ellipse(center, (3, 3), SIZE, "here").mask.sum() == 0, "it only touches the image"


def test_bitmaps_are_clipped() -> None:
    mask = np.ones((5, 6), np.bool_)
    mask[4, 5] = False
    inner = whole(bitmap(mask, 10, 20, SIZE, "here"))
    assert inner[10:15, 20:26].sum() == 29 and not inner[14, 25] and inner.sum() == 29
    corner = whole(bitmap(mask, -3, -4, SIZE, "here"))
    assert corner.sum() == 3 and not corner[1, 1] and corner[0, 0]
    assert whole(bitmap(mask, 38, 57, SIZE, "here"))[38:, 57:].all()


def test_run_lengths_are_row_major() -> None:
    """The mask in CVAT's documentation: a ring of 13 x 15 pixels."""
    text = "3, 5, 7, 7, 5, 9, 3, 11, 2, 11, 2, 12, 1, 12, 1, 26, 1, 12, 1, 12, 2, 11, 3, 9, 5, 7, 7, 5, 3"
    counts = [int(count) for count in text.split(",")]
    patch = run_lengths(counts, Box(8, 7, 23, 20), SIZE, "here")
    pixels = []
    for number, count in enumerate(counts):
        pixels += [number % 2 == 1] * count
    rows = [pixels[start : start + 13] for start in range(0, 13 * 15, 13)]
    assert patch.mask.tolist() == rows and (patch.top, patch.left) == (8, 7)


def test_coco_runs_are_decoded_into_their_box() -> None:
    generator = np.random.default_rng(3)
    masks = [np.zeros(SIZE), np.ones(SIZE), np.eye(*SIZE), np.ones(SIZE) * (np.arange(60) == 7), np.ones((1, 1))]
    for _ in range(50):
        mask = np.zeros(SIZE)
        (y, x), (bottom, right) = generator.integers(0, 30, 2), generator.integers(30, 41, 2)
        mask[y:bottom, x:right] = generator.random((bottom - y, right - x)) < generator.random()
        masks.append(mask)
    for mask in masks:
        runs = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        patch = coco_runs(runs["counts"], mask.shape, "here")
        np.testing.assert_array_equal(whole(patch, mask.shape), mask)
        box = coco_mask.toBbox(runs).tolist()
        assert not mask.any() or box == [patch.left, patch.top, *patch.mask.shape[::-1]]


def test_empty_runs_are_ignored() -> None:
    runs = coco_mask.frPyObjects({"size": [4, 3], "counts": [0, 0, 5, 2, 4, 0, 1]}, 4, 3)
    patch = coco_runs(runs["counts"], (4, 3), "here")
    assert (patch.mask.tolist(), patch.top, patch.left) == ([[True], [True]], 1, 1)


@pytest.mark.parametrize("text", [b"", b"\x01", b"\xff0", b"PPP", b"5", b"n" * 20])
def test_invalid_runs(text: bytes) -> None:
    with pytest.raises(DataError, match="^here has run lengths that"):
        coco_runs(text, SIZE, "here")


def test_the_union_of_patches() -> None:
    parts = [
        Patch(np.ones((2, 3), np.bool_), 5, 6),
        Patch(np.ones((4, 1), np.bool_), 3, 8),
        Patch(np.eye(2) > 0, 5, 7),
    ]
    expected = np.zeros(SIZE, np.bool_)
    expected[5:7, 6:9] = expected[3:7, 8] = True  # the last one adds no pixels
    np.testing.assert_array_equal(whole(union(parts)), expected)
    assert union(parts[:1]) is parts[0]


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[1, 1], [2, 2]], "has 2 points; expected 3 or more"),
        ([[1, 1], [2, 2], [NAN, 1]], "non-finite coordinate"),
        ([[1, 1], [2, 2], [INF, 1]], "non-finite coordinate"),
        ([[1, 1], [2, 2], [1e9, 1]], r"extends to \(1e\+09, 1\), far outside of its 60x40 image"),
        ([[70, 1], [80, 2], [75, 9]], "is outside of its 60x40 image"),
        ([[7, -1], [8, -2], [7, -9]], "is outside of its"),
    ],
)
def test_invalid_polygons(points: list[list[float]], message: str) -> None:
    with pytest.raises(DataError, match=f"^a.json: polygon 3 .*{message}"):
        polygon(np.array(points, float), SIZE, "a.json: polygon 3")


@pytest.mark.parametrize(
    ("counts", "box", "message"),
    [
        ([3, 3], Box(0, 0, 2, 4), "run lengths of 6 pixels in total; .* its 4x2 pixels"),
        ([9, -1], Box(0, 0, 2, 4), "lengths of 0 or more"),
        ([8], Box(39, 0, 41, 4), "starting at column 0 and row 39; expected a part of its 60x40 image"),
        ([8], Box(-1, 0, 1, 4), "expected a part"),
        ([0], Box(5, 5, 5, 5), "expected a part"),
    ],
)
def test_invalid_run_lengths(counts: list[int], box: Box, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run_lengths(counts, box, SIZE, "here")


def test_other_invalid_shapes() -> None:
    for center, radii, rotation in [
        ((1, 1), (NAN, 1), 0),
        ((1, 1), (2, 2), INF),
        ((1, 1), (900, 2), 0),
        ((90, 5), (3, 3), 0),
    ]:
        with pytest.raises(DataError, match="^here "):
            ellipse(center, radii, SIZE, "here", rotation)
    with pytest.raises(DataError, match="non-finite rotation"):
        rectangle(np.array([[1.0, 1], [5, 5]]), SIZE, "here", NAN)
    with pytest.raises(DataError, match="is outside of its"):
        bitmap(np.ones((3, 3), np.bool_), 40, 0, SIZE, "here")


@pytest.mark.parametrize(
    ("points", "size", "are_fractions"),
    [
        ((0.1, 0.1, 0.5, 0.1, 0.5, 0.5), (40, 60), True),
        ((0, 0, 1, 0, 1, 0.5), (40, 60), True),
        ((0, 0, 1, 0, 1, 1, 0, 1), (40, 60), False),  # the corner pixel
        ((0.1, 0.1, 1.5, 0.1, 0.5, 0.5), (40, 60), False),
        ((-0.1, 0.1, 0.5, 0.1, 0.5, 0.5), (40, 60), False),
        ((0.1, 0.1, 0.5, 0.1, 0.5, 0.5), (2, 2), False),
        ((float("nan"), 0.1, 0.5, 0.1), (40, 60), False),
        ((), (40, 60), False),
    ],
)
def test_fractions_of_the_image_size_are_no_pixels(points: tuple[float, ...], size: Size, are_fractions: bool) -> None:
    if are_fractions:
        with pytest.raises(
            NoAreaError, match=r"polygon 1 has only coordinates from 0 to 1, such as 0\.\d; .* 60x40 image"
        ):
            check_not_fractions(points, size, "polygon 1")
    else:
        check_not_fractions(points, size, "polygon 1")
