from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from panformer_cli.visualization.labels import SMALLEST_FONT, IndexMap, Label, draw_labels, font_size, place_labels
from panformer_cli.visualization.text_rendering import text_coverage, text_size
from tests.visualization.maps import MAPS, blobs, enlarged, mosaic, scattered

NAMES = ("person", "sky-other-merged", "tv", "traffic light", "日本", "two\nlines", "a" * 60)


def texts_of(index: IndexMap) -> list[tuple[str, ...]]:
    """Return texts with and without a score for each segment of a map."""
    names = [NAMES[i % len(NAMES)] for i in range(int(index.max(initial=0)))]
    return [(f"{name} {37 + i}%", name) if i % 3 else (name,) for i, name in enumerate(names)]


def box(label: Label) -> tuple[slice, slice]:
    rows, columns = (slice(start, start + n) for start, n in zip(label.corner, label.letters.shape, strict=True))
    return rows, columns


def expect_inside(index: IndexMap, labels: Sequence[Label]) -> None:
    """Expect that every pixel of every box is in the segment of the label, so that no boxes overlap."""
    assert len({label.position for label in labels}) == len(labels)
    for label in labels:
        pixels = index[box(label)]
        assert min(label.corner) >= 0 and pixels.shape == label.letters.shape
        assert (pixels == label.position + 1).all()


@pytest.mark.parametrize(
    "size",
    [(64, 64), (64, 48), (97, 203), (240, 320), (3, 200), (1, 1), pytest.param((480, 640), marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("generate", MAPS)
def test_labels_are_inside_their_segments(
    generate: Callable[[int, int, int, int], IndexMap], size: tuple[int, int]
) -> None:
    for seed, count in ((0, 3), (1, 8), (2, 20)):
        index = generate(*size, count, seed)
        labels = list(place_labels(index, texts_of(index)))
        expect_inside(index, labels)
        if size in ((240, 320), (480, 640)) and generate in (mosaic, scattered):
            assert len(labels) >= 2


@pytest.mark.parametrize(
    ("height", "width"), [(777, 1283), (1280, 961), (1999, 3001), pytest.param(6000, 8000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("generate", [mosaic, blobs, scattered])
def test_labels_of_large_images_are_inside_their_segments(
    generate: Callable[[int, int, int, int], IndexMap], height: int, width: int
) -> None:
    # The positions are searched in a smaller map, and the edges of these segments are not where its cells begin.
    index = enlarged(generate(331, 419, 9, 5), height, width)
    index[height // 7 :: height // 3, width // 9 :: width // 4] = 0
    labels = list(place_labels(index, texts_of(index)))
    expect_inside(index, labels)
    assert generate is blobs or len(labels) >= 3


def smallest_boxes(texts: Sequence[str], size: int) -> list[tuple[int, int]]:
    """Return the boxes of the last text, in one line and two, in half the font size and with their gaps."""
    font = max(SMALLEST_FONT, round(0.5 * size))
    forms = [[texts[-1]]]
    if texts[-1] == "traffic light":
        forms.append(["traffic", "light"])
    if texts[-1] == "sky-other-merged":
        forms.append(["sky-other-", "merged"])
    sizes = [[text_size(line, font) for line in form] for form in forms]
    gap = 2 * max(1, size // 10)
    return [(sum(h for h, _ in rows) + gap, max(w for _, w in rows) + 2 * (font // 3) + gap) for rows in sizes]


def has_room(mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]], height: int, width: int) -> bool:
    """Return whether a box fits into the mask, by trying all positions."""
    return any(
        mask[y : y + height, x : x + width].all()
        for y in range(mask.shape[0] - height + 1)
        for x in range(mask.shape[1] - width + 1)
        if mask[y, x]
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_label_is_left_out_only_if_it_does_not_fit(seed: int) -> None:
    index = scattered(90, 120, 10, seed)
    texts = [(("person 99%", "person"), ("traffic light",), ("tv",), ("sky-other-merged",))[i % 4] for i in range(10)]
    labeled = {label.position for label in place_labels(index, texts)}
    assert 0 < len(labeled) < 10
    for i in range(10):
        boxes = smallest_boxes(texts[i], font_size(90, 120))
        assert (i in labeled) == any(has_room(index == i + 1, *size) for size in boxes)


@pytest.mark.parametrize(
    ("width", "height", "lines", "share"),
    [(220, 300, 1, 1.0), (100, 300, 2, 1.0), (70, 300, 2, 0.65), (60, 18, 1, 0.5), (24, 300, 0, 0)],
)
def test_a_narrow_segment_has_two_lines_then_smaller_ones_then_no_score(
    width: int, height: int, lines: int, share: float
) -> None:
    index = np.zeros((500, 1000), np.uint16)
    index[100 : 100 + height, 300 : 300 + width] = 1
    labels = list(place_labels(index, [("elephant 98%", "elephant")]))
    assert len(labels) == bool(lines)
    if lines:
        font = round(share * font_size(500, 1000))
        assert labels[0].letters.shape[0] == lines * text_size("elephant", font)[0]


def test_a_label_is_in_the_middle_of_an_open_segment() -> None:
    rows, columns = np.mgrid[:400, :600]
    disc = np.hypot(rows - 180, columns - 330) < 120
    (label,) = place_labels(disc.astype(np.uint16), [("ball",)])
    y, x = (start + n / 2 for start, n in zip(label.corner, label.letters.shape, strict=True))
    assert abs(y - 180) < 12 and abs(x - 330) < 12


def test_a_label_keeps_away_from_the_edge_of_the_image() -> None:
    (label,) = place_labels(np.ones((300, 400), np.uint16), [("sky",)])
    assert min(label.corner) > 60


def test_labels_are_written_in_their_boxes_only() -> None:
    index = mosaic(240, 320, 7, 1)
    image = np.full((240, 320, 3), 130, np.uint8)
    texts = texts_of(index)
    draw_labels(image, index, texts, np.full((7, 3), 200, np.uint8))
    changed = (image != 130).any(axis=2)
    for label in place_labels(index, texts):
        assert changed[box(label)].mean() > 0.9
        assert (image[box(label)][label.letters == 255] == 255).all()
        changed[box(label)] = False
    assert not changed.any()


@pytest.mark.parametrize("text", ["person 98%", "日本語 5%", "é", "", "x" * 200])
def test_the_size_of_a_text_is_that_of_its_drawing(text: str) -> None:
    for size in (9, 14, 131):
        assert text_size(text, size) == text_coverage(text, size).shape


@pytest.mark.parametrize(("longer", "expected"), [(64, 9), (640, 14), (1600, 30), (8000, 133)])
def test_text_grows_with_the_image(longer: int, expected: int) -> None:
    assert font_size(longer, longer // 2) == font_size(10, longer) == expected
