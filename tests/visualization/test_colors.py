from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.visualization.coco_colors import COCO_COLORS
from panformer_cli.visualization.color_vision import ColorVision, simulated
from panformer_cli.visualization.colors import Palette, category_colors, shade, with_colors
from panformer_cli.visualization.oklab import rgb_to_oklab

ROOT = Path(__file__).parents[2]
VISIONS: tuple[ColorVision, ...] = get_args(ColorVision)
TABLE = CategoryTable([Category(1, "person", True), Category(7, "cat", True), Category(9, "sky", False)])


def table_of(count: int) -> CategoryTable:
    return CategoryTable([Category(3 * i + 1, f"category {i}", i % 3 != 0) for i in range(count)])


def smallest_distance(colors: npt.NDArray[np.uint8]) -> float:
    """Return the smallest CIE76 distance between two colors, in OpenCV's CIELAB, an independent color space."""
    lab = cv2.cvtColor((colors.astype(np.float32) / 255)[None], cv2.COLOR_RGB2LAB)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1e9 * np.eye(len(lab))
    return float(distance.min())


@pytest.mark.parametrize(("count", "at_least"), [(2, 40), (10, 20), (20, 15), (80, 6), (133, 4)])
def test_generated_colors_are_distinct(count: int, at_least: float) -> None:
    colors = category_colors(table_of(count))
    assert colors.shape == (count, 3) and colors.dtype == np.uint8
    assert smallest_distance(np.concatenate([colors, np.zeros((1, 3), np.uint8)])) > at_least


def test_colors_do_not_depend_on_the_order_of_the_table() -> None:
    table = table_of(30)
    again = CategoryTable(reversed(table.categories))
    np.testing.assert_array_equal(category_colors(table), category_colors(again))


def test_colors_are_stable() -> None:
    # A change here changes every overlay, so it must be deliberate.
    assert category_colors(TABLE).tolist() == [[220, 20, 60], [255, 77, 255], [96, 249, 171]]


def test_colors_of_the_table_are_kept_unless_similar_or_black() -> None:
    own = [(220, 20, 60), (0, 0, 230), (220, 21, 60), (0, 0, 0), None]
    table = CategoryTable([Category(i, str(i), True, color) for i, color in enumerate(own)])
    colors = category_colors(table)
    assert colors[:2].tolist() == [[220, 20, 60], [0, 0, 230]]
    assert smallest_distance(np.concatenate([colors, np.zeros((1, 3), np.uint8)])) > 15


def test_oklab_is_the_published_conversion() -> None:
    # White, sRGB red from the examples of CSS Color 4, and black.
    lab = rgb_to_oklab(np.array([[255, 255, 255], [255, 0, 0], [0, 0, 0]], np.uint8))
    expected = np.array([[1, 0, 0], [0.62796, 0.22486, 0.12585], [0, 0, 0]])
    np.testing.assert_allclose(lab, expected, atol=2e-4)


@pytest.mark.parametrize("color", [(220, 20, 60), (0, 0, 142), (255, 255, 128), (128, 128, 128), (1, 1, 1)])
def test_instances_have_shades_of_the_category(color: tuple[int, int, int]) -> None:
    shades = np.stack([shade(color, index) for index in range(6)])
    assert shades[0].tolist() == list(color)
    assert smallest_distance(shades) > 4.5


def colorless(*names: str) -> CategoryTable:
    return CategoryTable([Category(i, name, i % 2 == 1) for i, name in enumerate(names, 1)])


def test_categories_with_names_of_coco_have_its_colors() -> None:
    # From panoptic_coco_categories.json of panopticapi: two things, two stuff, the darkest and two that are similar.
    facts = {
        "person": (220, 20, 60),
        "sky-other-merged": (70, 130, 180),
        "toothbrush": (191, 162, 208),
        "tree-merged": (107, 142, 35),
        "truck": (0, 0, 70),
        "mountain-merged": (64, 170, 64),
        "fire hydrant": (100, 170, 30),
    }
    table = colorless(*facts, "my own category")
    drawn = dict(zip((row.name for row in table.categories), category_colors(table).tolist(), strict=True))
    own = drawn.pop("my own category")
    assert drawn == {name: list(color) for name, color in facts.items()}
    assert smallest_distance(np.array([own, *facts.values(), (0, 0, 0)], np.uint8)[[0, 1]]) > 20


def test_all_colors_of_coco_are_drawn_as_they_are() -> None:
    table = colorless(*COCO_COLORS)
    assert len(table) == 133
    for row, color in zip(table.categories, category_colors(table).tolist(), strict=True):
        assert tuple(color) == COCO_COLORS[row.name]


def test_colors_of_the_table_come_before_those_of_coco() -> None:
    table = CategoryTable([Category(1, " Person ", True), Category(2, "cat", True, (220, 20, 60))])
    colors = category_colors(table).tolist()
    assert colors[1] == [220, 20, 60] and smallest_distance(np.array(colors, np.uint8)) > 20
    assert category_colors(colorless("Person ")).tolist() == [[220, 20, 60]]


@pytest.mark.parametrize("palette", get_args(Palette))
def test_tables_with_colors_are_drawn_with_them(palette: Palette) -> None:
    table = table_of(133)
    (once,) = with_colors(table, palette=palette)
    (twice,) = with_colors(once)
    assert once == twice and once.has_labels_of(table)
    np.testing.assert_array_equal(category_colors(once), [row.color for row in once.categories])
    if palette == "standard":
        np.testing.assert_array_equal(category_colors(once), category_colors(table))


@pytest.mark.parametrize("palette", get_args(Palette))
def test_a_category_has_one_color_in_ground_truth_and_prediction(palette: Palette) -> None:
    truth = CategoryTable(
        [Category(1, "cat", True, (1, 200, 3)), Category(2, "thing", True), Category(3, "sky", False)]
    )
    predicted = CategoryTable(
        [
            Category(1, "Sky", False),
            Category(3, "Cat", True),
            Category(2, "thing", True, (90, 9, 200)),
            Category(8, "new", True),
        ]
    )
    alone = with_colors(truth, palette=palette)
    first, second = with_colors(truth, predicted, palette=palette)
    assert alone == (first,)
    colors = {row.name.casefold(): row.color for row in second.categories}
    assert colors == {row.name: row.color for row in first.categories} | {"new": colors["new"]}
    assert smallest_distance(np.array(list(colors.values()), np.uint8)) > 15


def test_tables_with_equal_ids_and_other_names_share_colors_by_id() -> None:
    first, second = with_colors(colorless("person", "sky"), colorless("pedestrian", "sky"))
    assert [row.color for row in first.categories] == [row.color for row in second.categories]


def dichromacy(colors: npt.NDArray[np.uint8], cones: list[list[float]]) -> npt.NDArray[np.uint8]:
    """Simulate dichromacy with the matrices of Viénot, Brettel and Mollon (1999), another model than the package's."""
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    linear = (colors / 255.0) ** 2.2
    seen = np.clip(linear @ (np.linalg.inv(to_lms) @ np.array(cones) @ to_lms).T, 0, 1)
    return np.asarray(np.round(255 * seen ** (1 / 2.2)).astype(np.uint8))


PROTANOPIA: list[list[float]] = [[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]
DEUTERANOPIA: list[list[float]] = [[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]


def oklab_distance(colors: npt.NDArray[np.uint8]) -> float:
    lab = rgb_to_oklab(colors)
    return float((np.linalg.norm(lab[:, None] - lab[None], axis=2) + 9 * np.eye(len(lab))).min())


def promised() -> list[tuple[int, float]]:
    """Return the numbers of categories and smallest distances in the documentation."""
    rows = re.findall(r"^\| (\d+) \| (0\.\d+) \|$", (ROOT / "docs" / "predict.md").read_text(), re.MULTILINE)
    return [(int(count), float(distance)) for count, distance in rows]


def test_the_documentation_promises_distances() -> None:
    assert [count for count, _ in promised()] == [8, 12, 20, 40, 133]
    assert all(distance > 0.02 for _, distance in promised())


@pytest.mark.parametrize(("count", "at_least"), promised())
def test_safe_colors_differ_in_simulated_dichromacy(count: int, at_least: float) -> None:
    (table,) = with_colors(table_of(count), palette="safe")
    colors = np.concatenate([category_colors(table), np.zeros((1, 3), np.uint8)])
    for vision in VISIONS:
        assert oklab_distance(simulated(colors, vision)) >= at_least, vision
    for cones in (PROTANOPIA, DEUTERANOPIA):
        assert oklab_distance(dichromacy(colors, cones)) >= 0.5 * at_least


def test_colors_of_coco_do_not_differ_in_simulated_dichromacy() -> None:
    # Otherwise the test above would pass for any colors, and the safe ones would not be needed.
    colors = category_colors(colorless(*COCO_COLORS))
    assert oklab_distance(simulated(colors, "protanopia")) < 0.005 > oklab_distance(simulated(colors, "deuteranopia"))


def test_simulated_dichromacy_keeps_gray_and_confuses_red_with_green() -> None:
    gray = np.array([[0, 0, 0], [128, 128, 128], [255, 255, 255]], np.uint8)
    # Two colors of one line of confusion each, found with the model of 1999.
    confused: dict[ColorVision, npt.NDArray[np.uint8]] = {
        "protanopia": np.array([[200, 60, 60], [104, 77, 60]], np.uint8),
        "deuteranopia": np.array([[200, 60, 60], [121, 117, 55]], np.uint8),
    }
    for vision, pair in confused.items():
        assert np.abs(simulated(gray, vision).astype(int) - gray).max() <= 1
        assert oklab_distance(simulated(pair, vision)) < 0.35 * oklab_distance(pair)


def test_instances_of_safe_colors_differ_in_simulated_dichromacy() -> None:
    (table,) = with_colors(table_of(20), palette="safe")
    for color, vision in itertools.product(category_colors(table), VISIONS):
        assert oklab_distance(simulated(np.stack([shade(color, i) for i in range(6)]), vision)) > 0.02
