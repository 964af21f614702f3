"""Sizes are those of the original projects (worked out by hand), and padding is where each of them puts it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from panformer_cli.models.hugging_face.architectures import ARCHITECTURES, ArchitectureName
from panformer_cli.models.hugging_face.input_image import canvas_size, normalize, padded, resize, resized_size
from panformer_cli.models.hugging_face.settings import IMAGENET_MEAN, IMAGENET_STD


@pytest.mark.parametrize(
    ("name", "size", "sides", "expected"),
    [
        ("mask2former", (480, 640), (800, 1333), (800, 1067)),  # 1066.67 is rounded up
        ("mask2former", (640, 480), (800, 1333), (1067, 800)),
        ("oneformer", (500, 500), (800, 1333), (800, 800)),
        ("maskformer", (427, 640), (800, 1333), (800, 1199)),
        ("maskformer", (200, 1000), (800, 1333), (267, 1333)),  # 4000 x 800 times 1333 / 4000: 266.6
        ("maskformer", (375, 500), (800, 1333), (800, 1067)),
        ("maskformer", (1, 4000), (800, 1333), (1, 1333)),
        ("detr", (480, 640), (800, 1333), (800, 1066)),  # 1066.67 is cut off
        ("detr", (640, 480), (800, 1333), (1066, 800)),
        ("detr", (200, 1000), (800, 1333), (267, 1335)),  # the short side is rounded first: 1335 exceeds the limit
        ("detr", (800, 1201), (800, 1333), (800, 1201)),
        ("eomt", (480, 640), (640, 640), (480, 640)),
        ("eomt", (200, 304), (128, 128), (84, 128)),
        ("eomt", (335, 500), (640, 640), (429, 640)),  # 428.8
        ("eomt_dinov3", (1000, 500), (640, 640), (640, 320)),
        ("eomt", (5, 16), (8, 8), (2, 8)),  # 2.5 is rounded to the even number
    ],
)
def test_size_of_the_resized_image(
    name: ArchitectureName, size: tuple[int, int], sides: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert resized_size(size, ARCHITECTURES[name], *sides) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("maskformer", (100, 150)),
        ("mask2former", (128, 160)),
        ("oneformer", (128, 160)),
        ("detr", (100, 150)),
        ("eomt", (640, 640)),
    ],
)
def test_size_of_the_padded_input(name: ArchitectureName, expected: tuple[int, int]) -> None:
    assert canvas_size((100, 150), ARCHITECTURES[name], 640) == expected
    assert canvas_size((128, 160), ARCHITECTURES[name], 640) in ((128, 160), (640, 640))


def test_pillow_resizes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((20, 33), Image.Resampling.BILINEAR))
    assert np.array_equal(resize(image, (33, 20)), expected)
    assert np.array_equal(resize(image, (60, 40)), image)


def test_padding_is_0_after_normalization_or_black_before_it() -> None:
    image = np.full((2, 3, 3), (124, 0, 255), np.uint8)
    red, green, blue = (124 / 255 - 0.485) / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225
    for name in ("mask2former", "eomt"):
        tensor = padded(image, ARCHITECTURES[name], (4, 5), IMAGENET_MEAN, IMAGENET_STD)
        assert tensor.shape == (3, 4, 5)
        assert tensor[:, 1, 2].tolist() == pytest.approx([red, green, blue], abs=1e-5)
        outside = torch.cat([tensor[:, 2:].flatten(1), tensor[:, :, 3:].flatten(1)], dim=1)
        black = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225] if name == "eomt" else [0, 0, 0]
        for channel, value in zip(outside, black, strict=True):
            assert channel.tolist() == pytest.approx([value] * len(channel), abs=1e-5)


def test_own_mean_and_deviation() -> None:
    image = np.full((1, 1, 3), (0, 51, 255), np.uint8)
    for name in ("maskformer", "detr"):
        tensor = normalize(image, ARCHITECTURES[name], (0.5, 0.2, 0.0), (0.5, 1.0, 2.0))
        assert tensor.flatten().tolist() == pytest.approx([-1, 0, 0.5], abs=1e-6)
