"""The network's input, compared with recordings of the reference implementation: resized and normalized pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from panformer_cli.data.images import read_image
from panformer_cli.data.transforms import prepare_image, resize_image, resized_size

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(
    ("name", "file", "short_side", "long_side"),
    [("a", "img_a.png", 192, 320), ("b", "img_b.png", 192, 320), ("b_small", "img_b.png", 176, 280)],
)
def test_the_input_is_bitwise_equal_to_the_reference(name: str, file: str, short_side: int, long_side: int) -> None:
    recorded = np.load(DATA / "inputs.npz")
    bgr, normalized = recorded[f"{name}.resized_bgr_uint8"], recorded[f"{name}.input"]
    assert bgr.dtype == np.uint8
    assert normalized.dtype == np.float32
    image = read_image(DATA / file)
    height, width = image.shape[:2]
    assert resized_size(height, width, short_side, long_side) == bgr.shape[:2]
    assert np.array_equal(resize_image(image, *bgr.shape[:2])[..., ::-1], bgr)
    prepared = prepare_image(image, short_side, long_side).numpy()
    assert prepared.dtype == np.float32
    assert prepared.shape == normalized.shape
    assert np.array_equal(prepared, normalized)
