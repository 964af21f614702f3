from __future__ import annotations

import numpy as np
import pytest

from panformer_cli.data.structures import ImageArray
from panformer_cli.visualization.contours import draw_contours, line_width, outlines
from panformer_cli.visualization.labels import IndexMap
from tests.visualization.maps import mosaic, single_pixels

WHITE = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)


def outlined(index: IndexMap) -> ImageArray:
    """Return white outlines on black."""
    image = np.zeros((*index.shape, 3), np.uint8)
    draw_contours(image, index, np.full((int(index.max(initial=0)) + 1, 3), 255, np.uint8))
    return image


@pytest.mark.parametrize(
    ("side", "radius"), [(300, 100.3), (900, 371.7), pytest.param(3300, 1200.0, marks=pytest.mark.slow)]
)
def test_the_outline_of_a_disc_is_a_circle(side: int, radius: float) -> None:
    # The edge of the pixels themselves is up to 0.7 pixels away from the circle.
    center = side / 2 + 0.3
    rows, columns = np.mgrid[:side, :side]
    distance = np.hypot(rows - center, columns - center)
    strength = outlined((distance < radius).astype(np.uint16))[..., 0].astype(float)
    sector = np.floor(np.arctan2(rows - center, columns - center) / np.radians(2)).astype(int) % 180
    weight = np.bincount(sector.ravel(), strength.ravel())
    measured = np.bincount(sector.ravel(), (strength * distance).ravel()) / weight
    assert -1 < measured.mean() - radius < 0.1  # inside the edge
    assert measured.std() < 0.25
    # Between black and white, there are pixels of many strengths, all around.
    near = (strength > 0.1 * strength.max()) & (strength < 0.9 * strength.max())
    assert len(np.unique(strength[near])) > 20 and (np.bincount(sector[near], minlength=180) > 0).all()


def test_straight_edges_have_sharp_outlines() -> None:
    index = np.ones((400, 800), np.uint16)
    index[:, 300:] = 2
    row = outlined(index)[200, :, 0]
    assert (row > 20).sum() <= 4 and (row[299:301] > 150).all()


def test_the_edge_of_the_image_is_not_outlined() -> None:
    index = np.ones((80, 120), np.uint16)
    assert not outlined(index).any()
    index[:, 60:] = 2
    drawn = outlined(index)
    assert drawn[[0, 40, -1], 60].min() > 60 and not drawn[:, :55].any() and not drawn[:, 66:].any()


def test_holes_are_outlined_and_void_has_no_outline_of_its_own() -> None:
    index = np.ones((200, 200), np.uint16)
    index[80:120, 80:120] = 0
    drawn = outlined(index)
    assert (drawn[79, 85:115] > 60).all() and (drawn[85:115, 120] > 60).all()
    assert not drawn[85:115, 85:115].any()


def test_every_segment_has_a_light_outline_of_its_own_color() -> None:
    index = np.ones((600, 800), np.uint16)
    index[200:400, 300:500] = 2
    image = np.zeros((600, 800, 3), np.uint8)
    draw_contours(image, index, np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8))
    light = (255 - 0.45 * (255 - np.array([0, 0, 255]))).round()
    assert (np.abs(image[300, 300] / light - 0.86) < 0.05).all()  # the smaller segment is on top
    assert image[300, 298, 0] > image[300, 298, 2]


@pytest.mark.parametrize(("height", "width"), [(64, 48), (480, 640), (1500, 2000), (4500, 6000)])
def test_lines_grow_with_the_image(height: int, width: int) -> None:
    index = np.ones((height, width), np.uint16)
    index[:, width // 2 :] = 2
    row = outlined(index)[height // 2, :, 0].astype(float)
    assert line_width(height, width) == pytest.approx(max(height, width) / 800)
    # Both sides have a line; below one pixel, lines are fainter instead.
    expected = max(1, round(max(height, width) / 800))
    assert expected <= (row > 20).sum() <= 2 * expected + 3
    assert (row.max() > 200) == (width >= 640)


def test_many_segments_of_single_pixels() -> None:
    # Specks of up to three pixels have no outline, except along the edge, beyond which they continue.
    index = single_pixels(60, 80, 3000, 0)
    assert not outlined(index)[5:-5, 5:-5].any()
    index[20:22, 30:32] = 7
    assert outlined(index)[18:24, 28:34].any()


def test_outlines_are_near_edges_only() -> None:
    index = mosaic(300, 400, 6, 3)
    edge = np.zeros(index.shape, bool)
    edge[:, 1:] |= index[:, 1:] != index[:, :-1]
    edge[1:] |= index[1:] != index[:-1]
    rows, columns = np.nonzero(outlined(index).any(axis=2))
    y, x = np.nonzero(edge)
    nearest = [np.hypot(y - row, x - column).min() for row, column in zip(rows[::7], columns[::7], strict=True)]
    assert max(nearest) < 4


@pytest.mark.parametrize("shape", [(1, 65501), (65501, 1), (3, 9000)])
def test_an_image_of_a_few_rows_has_outlines(shape: tuple[int, int]) -> None:
    index = np.zeros(shape, np.uint16)
    index[: -(-shape[0] // 2), : -(-shape[1] // 2)] = 1
    ((position, curves),) = outlines(index, 1, line_width(*shape))
    assert position == 1
    assert len(curves) == 1
