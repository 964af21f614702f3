"""Drawings look like the pictures in `references/`, apart from fonts and rounding."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from panformer_cli.data.images import read_image
from panformer_cli.data.structures import ImageArray
from panformer_cli.visualization import contours, labels, text_rendering
from panformer_cli.visualization.drawing import DrawOptions, draw_panoptic
from tests.visualization.reference_pictures import FOLDER, PICTURES, TABLE, photo, scene


def difference(first: ImageArray, second: ImageArray) -> float:
    """Return how different two pictures look; at most 1 if they look alike, 0.5 for other fonts.

    Blurred letters are a gray that hardly depends on the font. So little is different on average after a small blur,
    and nothing much is different anywhere after a large one.
    """
    if first.shape != second.shape:
        return 255
    everywhere, somewhere = (_blurred_difference(first, second, sigma) for sigma in (2, min(first.shape[:2]) / 40))
    return float(max(everywhere.mean() / 1.5, somewhere.max() / 40))


def _blurred_difference(first: ImageArray, second: ImageArray, sigma: float) -> npt.NDArray[np.float32]:
    blurred = [cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma) for image in (first, second)]
    return np.asarray(np.abs(blurred[0] - blurred[1]).max(axis=2))


@pytest.mark.parametrize("name", PICTURES)
def test_drawings_look_like_the_references(name: str) -> None:
    assert difference(PICTURES[name](), read_image(FOLDER / f"{name}.png")) < 1


def test_there_are_no_other_references() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(PICTURES)
    assert all(path.stat().st_size < 40_000 for path in FOLDER.iterdir())


def overlay(**style: bool | float) -> ImageArray:
    options = {"scores": True, **style}
    return draw_panoptic(photo(300, 400), scene(300, 400), TABLE, DrawOptions(**options))  # type: ignore[arg-type]


CHANGES: dict[str, Callable[[], ImageArray]] = {
    "no contours": lambda: overlay(contours=False),
    "no labels": lambda: overlay(labels=False),
    "another opacity": lambda: overlay(opacity=0.6),
    "shifted": lambda: np.roll(overlay(), 3, axis=1),
    "blue and red exchanged": lambda: np.ascontiguousarray(overlay()[..., ::-1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_look_is_noticed(change: str) -> None:
    assert difference(CHANGES[change](), read_image(FOLDER / "overlay.png")) > 1


def test_wider_lines_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contours, "line_width", lambda height, width: 3.0)
    assert difference(overlay(), read_image(FOLDER / "overlay.png")) > 1


def test_another_font_looks_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The letters of another system are imitated: each text is drawn with OpenCV's font and two pixels narrower."""
    original = text_rendering.text_coverage

    def other(text: str, size: int) -> text_rendering.Coverage:
        expected = original(text, size)
        canvas = np.zeros_like(expected)
        cv2.putText(
            canvas, text, (0, round(0.72 * expected.shape[0])), cv2.FONT_HERSHEY_SIMPLEX, size / 34, (255,), 1, 16
        )
        return canvas

    monkeypatch.setattr(labels, "text_coverage", other)
    assert 0.2 < difference(overlay(), read_image(FOLDER / "overlay.png")) < 1
