"""Images from other libraries: any layout in memory, any channel order, and clear errors for other values."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from panformer_cli.api.arrays import image_of
from panformer_cli.api.inputs import read_image_like
from panformer_cli.data.images import read_image
from panformer_cli.errors import DataError
from tests.color_family import noise

Pixels = np.ndarray[Any, np.dtype[Any]]


def fortran(image: Pixels) -> Pixels:
    return np.asfortranarray(image)


def flipped_twice(image: Pixels) -> Pixels:
    """Return a view with negative strides of the same pixels."""
    return image[::-1, ::-1].copy()[::-1, ::-1]


def transposed(image: Pixels) -> Pixels:
    return image.transpose(1, 0, 2).copy().transpose(1, 0, 2)


def read_only(image: Pixels) -> Pixels:
    view = image.view()
    view.flags.writeable = False
    return view


def every_second(image: Pixels) -> Pixels:
    return image.repeat(2, axis=0).repeat(2, axis=1)[::2, ::2]


def with_alpha(image: Pixels) -> Pixels:
    return np.dstack([image, np.zeros(image.shape[:2], np.uint8)])


VIEWS = (fortran, flipped_twice, transposed, read_only, every_second, with_alpha)
TENSORS: dict[str, Callable[[Pixels], torch.Tensor]] = {
    "channels first": lambda image: torch.from_numpy(image.transpose(2, 0, 1).copy()),
    "permuted": lambda image: torch.from_numpy(image).permute(2, 0, 1),
    "channels last": torch.from_numpy,
    "with alpha": lambda image: torch.from_numpy(with_alpha(image)).permute(2, 0, 1),
}


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_an_array_of_any_strides_is_read(view: Callable[[Pixels], Pixels]) -> None:
    image = noise(1, 30, 50)
    found = image_of(view(image))
    assert np.array_equal(found, image)
    assert found.flags.c_contiguous and found.dtype == np.uint8


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_is_read(name: str) -> None:
    image = noise(2, 30, 50)
    assert np.array_equal(image_of(TENSORS[name](image)), image)


def test_gray_is_repeated() -> None:
    gray = noise(3)[..., 0]
    for given in (gray, gray[..., None], torch.from_numpy(gray.copy()), torch.from_numpy(gray.copy())[None]):
        assert np.array_equal(image_of(given), np.dstack([gray] * 3))


def test_bgr_is_an_option_of_arrays_and_tensors_alone() -> None:
    image = noise(4)
    assert np.array_equal(image_of(image[..., ::-1], color="bgr"), image)
    assert np.array_equal(image_of(with_alpha(image[..., ::-1]), color="bgr"), image)
    assert np.array_equal(image_of(torch.from_numpy(image[..., ::-1].copy()), color="bgr"), image)
    assert np.array_equal(image_of(Image.fromarray(image), color="bgr"), image)
    with pytest.raises(DataError, match="color is 'gbr'; expected 'rgb', or 'bgr'"):
        image_of(image, color="gbr")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["array", "tensor", "Pillow"])
def test_the_result_shares_no_memory_with_the_input(kind: str) -> None:
    image = noise(5)
    before = image.copy()
    given: Any = {"array": image, "tensor": torch.from_numpy(image), "Pillow": Image.fromarray(image)}[kind]
    found = image_of(given)
    found[:] = 0
    assert np.array_equal(image, before)
    assert np.array_equal(image_of(given), before)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (noise(0) / 255, r"has the dtype float64 with values from 0 to 0\.97\d*; expected uint8.*0\.\.1, use.*\* 255"),
        (noise(0).astype(np.float32), r"float32 with values from 0 to 248; expected uint8.*use `array\.astype"),
        (noise(0).astype(np.int64), r"int64 with values from 0 to 248; expected uint8.*use `array\.astype"),
        (noise(0) > 100, r"bool with values from 0 to 1; expected uint8.*\* 255"),
        (noise(0).astype(np.uint16) * 257, "uint16 with values from 0 to 63736; .*not clear"),
        (noise(0) / 128 - 1, "float64 with values from -1 to 0.9375; .*not clear"),
        (torch.from_numpy(noise(0)) / 255, r"float32 .* `\(tensor \* 255\)\.round\(\)\.to\(torch\.uint8\)`"),
        (torch.from_numpy(noise(0)).bfloat16(), r"bfloat16 with values from 0 to 248; .*`tensor\.to\(torch\.uint8\)`"),
        (np.full((4, 4, 3), np.nan), "float64 with values from nan to nan; .*not clear"),
        (np.array([["a"]]), "dtype <U1; expected uint8"),
        (np.array([None]), "dtype object; expected uint8"),
        (noise(0).transpose(2, 0, 1), r"shape \(3, 48, 64\).*transpose\(1, 2, 0\)"),
        (noise(0)[None], r"shape \(1, 48, 64, 3\).*list\(batch\)"),
        (np.zeros((5, 5, 2), np.uint8), r"shape \(5, 5, 2\); expected \(H, W, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\), without a pixel"),
        (np.zeros(7, np.uint8), r"shape \(7,\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), r"shape \(2, 3, 4, 4\).*list\(batch\)"),
        (Image.new("F", (3, 3)), "the image has Pillow's mode F"),
        (Image.new("I", (3, 3)), "the image has Pillow's mode I"),
        (Image.new("La", (3, 3)), "the image has Pillow's mode La, which Pillow cannot convert"),
        (Image.new("RGB", (0, 3)), "has 0x3 pixels"),
    ],
)
def test_other_values_are_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        image_of(value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_path_its_bytes_and_pillow_are_turned_as_exif_says(tmp_path: Path, orientation: int) -> None:
    path, exif = tmp_path / "photo.png", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(6, 30, 50)).save(path, exif=exif)
    expected = read_image(path)
    assert expected.shape == ((50, 30, 3) if orientation > 4 else (30, 50, 3))
    with Image.open(path) as opened:
        assert np.array_equal(image_of(opened), expected)
    for given in (str(path), path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert np.array_equal(read_image_like(given, "the image", "rgb").image, expected)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "I;16", "CMYK", "YCbCr"])
def test_pillow_and_a_path_agree_in_every_mode(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(noise(7))
    if mode == "I;16":
        image = Image.fromarray(noise(7)[..., 0].astype(np.uint16) * 257)
    elif mode == "LA":
        image = image.convert("RGBA").convert("LA")
    else:
        image = image.convert(mode)
    path = tmp_path / ("photo.jpg" if mode in ("CMYK", "YCbCr") else "photo.png")
    image.save(path, quality=95)
    with Image.open(path) as opened:
        found = image_of(opened)
    difference = np.abs(found.astype(int) - read_image(path))
    assert difference.max() <= (3 if path.suffix == ".jpg" else 0)


def without_adobe_marker(data: bytes) -> bytes:
    """Return a JPEG without its APP14 segment, which says that CMYK is inverted."""
    start = data.index(b"\xff\xee")
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    return data[:start] + data[start + 2 + length :]


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_looks_the_same_as_a_path_and_with_pillow(tmp_path: Path, adobe: bool) -> None:
    path = tmp_path / "print.jpg"
    Image.fromarray(noise(8)).convert("CMYK").save(path, quality=95)
    if not adobe:
        path.write_bytes(without_adobe_marker(path.read_bytes()))
    with Image.open(path) as opened:
        assert np.abs(image_of(opened).astype(int) - read_image(path)).max() <= 3


def test_a_truncated_image_of_pillow_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(noise(9, 200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with Image.open(path) as opened, pytest.raises(DataError, match="image 3 is corrupt or truncated"):
        image_of(opened, "image 3")


def test_bytes_that_are_no_image_are_reported() -> None:
    for value, message in (
        (b"GIF? no", "image 2 cannot be decoded"),
        (b"", "image 2 has no bytes"),
        (io.StringIO("text"), "image 2 is a file opened as text"),
        (7, "image 2 is a int; expected a path"),
    ):
        with pytest.raises(DataError, match=message):
            read_image_like(value, "image 2", "rgb")
