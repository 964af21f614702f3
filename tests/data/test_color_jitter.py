"""Color jitter, compared with torchvision."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision.transforms.v2 import functional as torchvision

from panformer_cli.data.color_jitter import ColorChange, change_colors, random_change
from panformer_cli.errors import RecipeError
from panformer_cli.settings import DataSettings


def photo(height: int = 20, width: int = 30) -> npt.NDArray[np.uint8]:
    """Return a colored gradient with noise."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 12, columns * 8, (rows + columns) * 5], axis=-1)
    return (image + np.random.default_rng(0).integers(0, 15, image.shape)).clip(0, 255).astype(np.uint8)


def by_torchvision(image: npt.NDArray[np.uint8], change: ColorChange) -> npt.NDArray[np.float32]:
    values = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    values = torchvision.adjust_brightness(values, change.brightness)
    values = torchvision.adjust_contrast(values, change.contrast)
    values = torchvision.adjust_saturation(values, change.saturation)
    values = torchvision.adjust_hue(values, change.hue)
    result: npt.NDArray[np.float32] = (values * 255).permute(1, 2, 0).numpy()
    return result


@pytest.mark.parametrize(
    "change",
    [
        ColorChange(brightness=0.6),
        ColorChange(brightness=1.9),
        ColorChange(contrast=0.3),
        ColorChange(contrast=1.8),
        ColorChange(saturation=0.0),
        ColorChange(saturation=2.0),
        ColorChange(hue=0.1),
        ColorChange(hue=-0.45),
        ColorChange(1.3, 0.7, 1.5, 0.2),
    ],
)
def test_colors_are_those_of_torchvision(change: ColorChange) -> None:
    found = change_colors(photo(), change)
    assert found.dtype == np.uint8
    assert np.abs(found - by_torchvision(photo(), change)).max() < 0.6  # rounding takes 0.5


def test_means_change_as_asked() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    assert (change_colors(image, ColorChange(brightness=1.2)) == 120).all()
    assert (change_colors(image, ColorChange(brightness=0.5)) == 50).all()
    two = np.array([[[40] * 3, [160] * 3]], np.uint8)  # around 100
    assert change_colors(two, ColorChange(contrast=0.5))[0, :, 0].tolist() == [70, 130]


def test_no_strength_is_the_identity_bit_for_bit() -> None:
    change = random_change((0, 0, 0, 0), np.random.default_rng(0))
    assert change == ColorChange() and np.array_equal(change_colors(photo(), change), photo())


def test_extreme_strengths_stay_in_range_and_do_not_change_the_input() -> None:
    image, rng = photo(), np.random.default_rng(0)
    for _ in range(50):
        found = change_colors(image, random_change((1, 1, 1, 0.5), rng))
        assert found.shape == image.shape and found.dtype == np.uint8
    assert np.array_equal(image, photo())
    black = change_colors(image, ColorChange(brightness=0))
    assert not black.any()


def test_factors_are_drawn_from_their_ranges() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([random_change((0.4, 0.2, 0.1, 0.05), rng) for _ in range(2000)])
    for values, center, strength in zip(drawn.T, (1, 1, 1, 0), (0.4, 0.2, 0.1, 0.05), strict=True):
        assert center - strength <= values.min() < center - 0.99 * strength
        assert center + 0.99 * strength < values.max() <= center + strength
        assert abs(values.mean() - center) < 4 * strength / (3 * 2000) ** 0.5


@pytest.mark.parametrize("strengths", [(-0.1, 0, 0, 0), (0, 1.1, 0, 0), (0, 0, 0, 0.6), (0, 0, float("nan"), 0)])
def test_impossible_strengths_are_rejected(strengths: tuple[float, float, float, float]) -> None:
    with pytest.raises(RecipeError, match=r"data.color_jitter is .*: expected (values of 0 to 1|a hue of at most 0.5)"):
        DataSettings(color_jitter=strengths)
