from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.structures import ImageArray, PanopticMap, Segment
from panformer_cli.errors import PanformerError
from panformer_cli.visualization import text_rendering
from panformer_cli.visualization.drawing import (
    DrawOptions,
    category_colors,
    colorize,
    draw_panoptic,
    highlight,
    save_image,
    segment_colors,
    side_by_side,
)

PLAIN = DrawOptions(contours=False, labels=False)
TABLE = CategoryTable([Category(1, "person", True), Category(7, "cat", True), Category(9, "sky", False)])


def quarters(height: int, width: int) -> PanopticMap:
    """Two persons at the top, a cat and void at the bottom; one large id, as in COCO."""
    ids = np.zeros((height, width), np.int32)
    ids[: height // 2, : width // 2] = 5
    ids[: height // 2, width // 2 :] = 16_000_000
    ids[height // 2 :, : width // 2] = 2
    categories = ((5, 1), (16_000_000, 1), (2, 7))
    return PanopticMap(
        ids, tuple(Segment(i, c, int((ids == i).sum()), (0, 0, 1, 1), score=0.874) for i, c in categories)
    )


def noise(height: int, width: int, seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_segment_colors_of_things_and_stuff() -> None:
    segments = [Segment(i, c, 1, (0, 0, 1, 1)) for i, c in ((4, 9), (5, 1), (6, 1), (7, 9), (8, 7))]
    colors = segment_colors(segments, TABLE)
    person, cat, sky = category_colors(TABLE)
    assert colors.shape == (6, 3) and not colors[0].any()
    np.testing.assert_array_equal(colors[[1, 2, 4, 5]], [sky, person, sky, cat])
    assert colors[3].tolist() != person.tolist()


def test_numbers_of_segments_select_their_shades() -> None:
    def segment(number: int, category_id: int) -> Segment:
        return Segment(number, category_id, 1, (0, 0, 1, 1))

    first = segment_colors([segment(4, 1), segment(5, 1), segment(6, 9), segment(7, 7)], TABLE, (3, 0, 8, 3))
    later = segment_colors([segment(1, 7), segment(2, 1)], TABLE, [3, 3])
    person, _, sky = category_colors(TABLE)
    np.testing.assert_array_equal(first[[2, 3]], [person, sky])
    np.testing.assert_array_equal(first[[4, 1]], later[1:])
    assert first[1].tolist() != person.tolist()
    with pytest.raises(ValueError, match="1 numbers and 2 segments"):
        segment_colors([segment(1, 7), segment(2, 1)], TABLE, [3])


def test_an_overlay_has_the_shades_of_the_numbers() -> None:
    image, panoptic = np.zeros((40, 60, 3), np.uint8), quarters(40, 60)
    drawn = draw_panoptic(image, panoptic, TABLE, DrawOptions(1, contours=False, labels=False), numbers=(7, 0, 2))
    expected = segment_colors(panoptic.segments, TABLE, (7, 0, 2))
    np.testing.assert_array_equal(drawn[[0, 0, 39], [0, 59, 0]], expected[1:])


def test_colorize_gives_every_pixel_the_color_of_its_segment() -> None:
    panoptic = quarters(6, 8)
    colors = segment_colors(panoptic.segments, TABLE)
    drawn = colorize(panoptic, TABLE)
    for y, x in np.ndindex(6, 8):
        number = [0, 5, 16_000_000, 2].index(int(panoptic.ids[y, x]))
        assert drawn[y, x].tolist() == colors[number].tolist()


def test_ids_without_a_segment_are_void() -> None:
    panoptic = replace(quarters(6, 8), segments=quarters(6, 8).segments[:1])
    assert colorize(panoptic, TABLE).any(axis=2).sum() == 3 * 4


def test_ids_can_be_any_integers() -> None:
    panoptic, new_ids = quarters(30, 44), {0: 2**30 + 1, 5: -7, 16_000_000: 2**30, 2: 2**24}
    ids = np.vectorize(new_ids.get)(panoptic.ids).astype(np.int32)
    segments = tuple(replace(segment, id=new_ids[segment.id]) for segment in panoptic.segments)
    np.testing.assert_array_equal(colorize(PanopticMap(ids, segments), TABLE), colorize(panoptic, TABLE))


def test_pixels_are_blended_with_the_color_of_their_segment() -> None:
    image, panoptic = noise(40, 60), quarters(40, 60)
    drawn = draw_panoptic(image, panoptic, TABLE, PLAIN).astype(int)
    colors = segment_colors(panoptic.segments, TABLE).astype(int)
    for number, segment_id in enumerate((0, 5, 16_000_000, 2)):
        pixels = panoptic.ids == segment_id
        expected = (image[pixels].astype(int) + colors[number]) / 2
        assert np.abs(drawn[pixels] - expected).max() <= 1


def test_contours_change_pixels_near_borders_only() -> None:
    image, panoptic = noise(400, 600), quarters(400, 600)
    plain = draw_panoptic(image, panoptic, TABLE, PLAIN)
    changed = (draw_panoptic(image, panoptic, TABLE, DrawOptions(labels=False)) != plain).any(axis=2)
    assert changed[199:201, :].mean() > 0.9 and changed[:, 299:301].mean() > 0.9
    far = np.ones((400, 600), bool)
    far[196:204] = False
    far[:, 296:304] = False
    assert not changed[far].any()


@pytest.mark.slow
def test_contours_scale_with_the_image() -> None:
    for height, width in ((300, 600), (1500, 3000)):
        image, panoptic = np.zeros((height, width, 3), np.uint8), quarters(height, width)
        plain = draw_panoptic(image, panoptic, TABLE, PLAIN)
        row = draw_panoptic(image, panoptic, TABLE, DrawOptions(labels=False))[10].astype(int)
        strong = (np.abs(row - plain[10]).sum(axis=1) > 60).sum()
        assert 1 <= strong <= width / 100


def test_labels_are_written_inside_their_segments() -> None:
    image, panoptic = np.full((400, 600, 3), 120, np.uint8), quarters(400, 600)
    plain = draw_panoptic(image, panoptic, TABLE, PLAIN)
    changed = (draw_panoptic(image, panoptic, TABLE, DrawOptions(contours=False)) != plain).any(axis=2)
    for segment_id in (5, 16_000_000, 2):
        assert changed[panoptic.ids == segment_id].sum() > 300
    assert not changed[panoptic.ids == 0].any()
    assert not changed[[0, -1]].any() and not changed[:, [0, -1]].any()


def test_scores_make_labels_longer_and_are_optional() -> None:
    image, panoptic = noise(400, 600), quarters(400, 600)
    plain = draw_panoptic(image, panoptic, TABLE, PLAIN)
    without = draw_panoptic(image, panoptic, TABLE, DrawOptions(contours=False))
    with_score = draw_panoptic(image, panoptic, TABLE, DrawOptions(contours=False, scores=True))
    assert (with_score != plain).sum() > 1.3 * (without != plain).sum()


def test_a_label_that_does_not_fit_is_left_out() -> None:
    ids = np.zeros((200, 300), np.int32)
    ids[:, 150:153] = 1
    panoptic = PanopticMap(ids, (Segment(1, 1, 600, (150, 0, 3, 200)),))
    image = noise(200, 300)
    labeled = draw_panoptic(image, panoptic, TABLE, DrawOptions(contours=False))
    np.testing.assert_array_equal(labeled, draw_panoptic(image, panoptic, TABLE, PLAIN))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(0, 99))
def test_overlays_have_the_size_of_the_image(height: int, width: int, count: int, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, count + 1, (height, width)).astype(np.int32)
    panoptic = PanopticMap(ids, tuple(Segment(i, 1, 0, (0, 0, 0, 0)) for i in range(1, count + 1)))
    image = noise(height, width, seed)
    before = image.copy()
    drawn = draw_panoptic(image, panoptic, TABLE)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "shape", [(8, 8), (1, 50), (50, 1), (1, 1), (700, 3), (128, 128), (1, 65501), (30_000, 2), (5, 9000)]
)
def test_tiny_and_thin_images(shape: tuple[int, int]) -> None:
    ids = np.ones(shape, np.int32)
    ids[shape[0] // 2 :, shape[1] // 2 :] = 4
    segments = (Segment(1, 9, 0, (0, 0, 0, 0)), Segment(4, 1, 0, (0, 0, 0, 0)))
    for listed in ((), segments[:1], segments):
        drawn = draw_panoptic(noise(*shape), PanopticMap(ids, listed), TABLE)
        assert drawn.shape == (*shape, 3)


def test_a_map_without_segments_is_dimmed() -> None:
    image = noise(10, 12)
    drawn = draw_panoptic(image, PanopticMap(np.zeros((10, 12), np.int32), ()), TABLE)
    assert np.abs(drawn.astype(int) - image / 2).max() <= 1


def test_a_map_of_another_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected equal sizes"):
        draw_panoptic(noise(10, 12), quarters(12, 10), TABLE)


def test_side_by_side_shows_the_whole_images() -> None:
    first, second = noise(40, 90), noise(60, 70, 1)
    row = side_by_side([first, second], ["ground truth", "prediction that has a long caption"])
    top = row.shape[0] - 60
    assert top > 9 and row.shape[1] > 160
    np.testing.assert_array_equal(row[top : top + 40, :90], first)
    np.testing.assert_array_equal(row[top:, -70:], second)
    assert row[:top, :90].max() > 200
    with pytest.raises(ValueError, match="one caption per image"):
        side_by_side([first], [])


@pytest.mark.parametrize("shape", [(1, 1), (3, 2)])
def test_side_by_side_of_tiny_images(shape: tuple[int, int]) -> None:
    assert side_by_side([noise(*shape)], ["image"]).shape[1] == shape[1]


@pytest.mark.parametrize("text", ["person", "gpqy|", "Straße", "日本語", "кошка", "", "two\nlines", "x" * 200])
def test_text_of_any_script_has_one_height(text: str) -> None:
    for size in (9, 14, 60):
        coverage = text_rendering.text_coverage(text, size)
        assert coverage.shape[0] == text_rendering.text_coverage("a", size).shape[0]
        assert coverage.dtype == np.uint8
        assert (coverage.max() > 150) == bool(text)


def test_text_without_opencv_5_loses_accents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    np.testing.assert_array_equal(text_rendering.text_coverage("é車", 20), text_rendering.text_coverage("e??", 20))


def test_images_are_written_completely_or_not_at_all(tmp_path: Path) -> None:
    image = noise(20, 30)
    save_image(tmp_path / "new" / "a.png", image)
    read = cv2.imread(str(tmp_path / "new" / "a.png"))
    assert read is not None
    np.testing.assert_array_equal(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), image)
    with pytest.raises(PanformerError, match="exceed the limit of .jpg"):
        save_image(tmp_path / "b.jpg", np.zeros((1, 70_000, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_highlight_colors_and_outlines_only_the_listed_segments() -> None:
    ids = np.zeros((30, 60), np.int32)
    ids[:, 20:40], ids[:, 40:] = 5, 8
    image = np.full((30, 60, 3), 100, np.uint8)
    drawn = highlight(image, PanopticMap(ids, (Segment(5, 9, 600, (20, 0, 20, 30)),)), TABLE)
    tint = np.round(0.6 * 100 + 0.4 * category_colors(TABLE)[2].astype(float))
    assert np.abs(drawn[15, 30] - tint).max() <= 1
    assert (drawn[15, 20] == 255).all()  # the outline
    assert (drawn[15, :15] == 100).all() and (drawn[15, 45:] == 100).all()
    assert (image == 100).all()


def test_highlight_without_listed_segments_shows_the_borders() -> None:
    ids = np.repeat([[1, 2]], 10, axis=1).repeat(20, axis=0).astype(np.int32)
    drawn = highlight(np.full((20, 20, 3), 100, np.uint8), PanopticMap(ids, ()), TABLE)
    assert (drawn[:, 10] == 150).all()
    assert (np.delete(drawn, 10, axis=1) == 100).all()
