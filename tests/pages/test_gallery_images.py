"""Layers, thumbnails and images of the gallery."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.pages.gallery.images import THUMBNAIL_SIDE, write_image
from panformer_cli.pages.gallery.layers import LARGEST_SIDE, ShownMap, encoded_map, segment_rows, shown_size
from tests.metrics.test_image_overlap import FAR_IDS, random_map
from tests.pages.html import NASTY
from tests.pages.layer_files import decoded, sides_of

TABLE = CategoryTable([Category(0, "cat", True, (255, 0, 0)), Category(1, "sky", False, (0, 0, 255))])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 9), width=st.integers(1, 9), shrink=st.booleans())
def test_text_encodes_the_segment_of_every_pixel(seed: int, height: int, width: int, shrink: bool) -> None:
    panoptic = random_map(seed, (height, width), FAR_IDS)
    segments = panoptic.segments[1:]  # the first one has pixels but no row
    full_height, full_width = panoptic.ids.shape
    size = (max(1, full_height // 2), max(1, full_width - 1)) if shrink else panoptic.ids.shape
    found = decoded(encoded_map(panoptic.ids, segments, size), size)
    ids = [0, *(segment.id for segment in segments)]
    for row in range(size[0]):
        for column in range(size[1]):
            # the pixel of the full map at the center of the small pixel
            y, x = int((row + 0.5) * full_height / size[0]), int((column + 0.5) * full_width / size[1])
            value = int(panoptic.ids[y, x])
            assert ids[found[row, column]] == (value if value in ids else 0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 31), (1, 32), (1, 1023), (1, 1024), (40, 1700)])
def test_long_runs_and_many_segments(height: int, width: int) -> None:
    """Runs around the limits of 5 and 10 bits, and an index above 1023."""
    segments = tuple(Segment(number, 0, 1, (0, 0, 1, 1)) for number in range(1, 1500))
    for number in (0, 31, 32, 1499):
        ids = np.full((height, width), number, np.int32)
        text = encoded_map(ids, segments, (height, width))
        assert (decoded(text, (height, width)) == number).all() and len(text) <= 3 + 4


@pytest.mark.parametrize(
    ("size", "shown"), [((480, 640), (480, 640)), ((3200, 1600), (LARGEST_SIDE, 800)), ((1, 9000), (1, LARGEST_SIDE))]
)
def test_large_images_are_scaled_down(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert shown_size(size) == shown


def test_rows_of_segments() -> None:
    segments = [
        Segment(7, 0, 12, (0, 0, 1, 1), score=0.87654),
        Segment(8, 0, 3, (0, 0, 1, 1), is_crowd=True),
        Segment(9, 1, 5, (0, 0, 1, 1), score=float("nan")),
    ]
    first, crowd, sky = segment_rows(segments, TABLE)
    assert first == {"id": 7, "name": "cat", "thing": True, "color": [255, 0, 0], "area": 12, "score": 0.8765}
    assert (crowd["state"], "score" in crowd, crowd["color"] != first["color"]) == ("crowd", False, True)
    assert (sky["thing"], sky["color"], "score" in sky) == (False, [0, 0, 255], False)


def scene(height: int, width: int) -> tuple[np.ndarray, PanopticMap]:
    """Return a gray image, and a map with a cat on the left and the sky on the right half."""
    ids = np.where(np.arange(width) < width // 2, 3, 5).astype(np.int32) * np.ones((height, 1), np.int32)
    area = int((ids == 3).sum())
    segments = (
        Segment(3, 0, area, (0, 0, width // 2, height), score=0.9),
        Segment(5, 1, height * width - area, (width // 2, 0, width - width // 2, height), score=0.8),
    )
    return np.full((height, width, 3), 100, np.uint8), PanopticMap(ids, segments)


def test_the_files_of_an_image(tmp_path: Path) -> None:
    image, panoptic = scene(900, 2000)
    shown = write_image(tmp_path, "7", "a.jpg", image, [ShownMap.of("Prediction", panoptic, TABLE)])
    assert (shown.large, shown.small, shown.layers) == (
        "images/large/7.jpg",
        "images/small/7.jpg",
        "images/layers/7.js",
    )
    large, small = cv2.imread(str(tmp_path / shown.large)), cv2.imread(str(tmp_path / shown.small))
    assert large is not None and small is not None
    assert large.shape == (720, 1600, 3) == (*shown.size, 3) and abs(int(large.mean()) - 100) <= 1
    assert small.shape == (180, THUMBNAIL_SIDE, 3) == (*shown.small_size, 3)
    blue, green, red = small[90, 100].tolist()
    assert red > 150 > 80 > blue and abs(blue - green) < 12, "gray below half of the cat's red"
    [side] = sides_of(tmp_path / shown.layers)
    assert side["title"] == "Prediction" and [row["name"] for row in side["segments"]] == ["cat", "sky"]
    assert np.array_equal(decoded(side["map"], (720, 1600))[0], np.where(np.arange(1600) < 800, 1, 2))
    assert shown.detail == "2 segments"
    assert [(found.name, found.score) for found in shown.segments] == [("cat", 0.9), ("sky", 0.8)]


def test_a_small_image_is_not_enlarged(tmp_path: Path) -> None:
    image, panoptic = scene(10, 20)
    shown = write_image(tmp_path, "1", "a.jpg", image, [ShownMap.of("Prediction", panoptic, TABLE)])
    assert shown.small_size == shown.size == (10, 20)


def test_a_pair_has_two_sides_and_one_thumbnail_and_the_prediction_is_searched(tmp_path: Path) -> None:
    image, panoptic = scene(30, 40)
    empty = PanopticMap(np.zeros((30, 40), np.int32), ())
    maps = [ShownMap.of("Ground truth", panoptic, TABLE), ShownMap.of("Prediction", empty, TABLE)]
    shown = write_image(tmp_path, "1", "a.jpg", image, maps)
    assert [side["title"] for side in sides_of(tmp_path / shown.layers)] == ["Ground truth", "Prediction"]
    assert shown.small_size == (30, 86) and shown.segments == []
    assert shown.detail == "ground truth: 2 segments, prediction: 0 segments"


def test_without_an_image_there_are_only_maps(tmp_path: Path) -> None:
    _, panoptic = scene(10, 20)
    shown = write_image(tmp_path, "1", "a.jpg", None, [ShownMap.of("Prediction", panoptic, TABLE)], "detail")
    assert shown.large == "" and shown.detail == "detail" and not (tmp_path / "images" / "large").exists()


def test_names_are_ascii_in_the_script(tmp_path: Path) -> None:
    table = CategoryTable([Category(0, f"{NASTY}\u2028é", True), Category(1, "sky", False)])
    image, panoptic = scene(10, 20)
    shown = write_image(tmp_path, "1", "a.jpg", image, [ShownMap.of("Prediction", panoptic, table)])
    [side] = sides_of(tmp_path / shown.layers)
    assert side["segments"][0]["name"] == f"{NASTY}\u2028é"
