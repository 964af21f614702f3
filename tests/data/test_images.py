"""Reading images of common formats, and corrupt ones."""

from __future__ import annotations

import builtins
import importlib
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panformer_cli.data import images
from panformer_cli.data.images import read_image
from panformer_cli.errors import DataError, PanformerError


def noise_image(height: int = 24, width: int = 32) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_lossless_files_are_read_as_written_in_rgb_order(tmp_path: Path, suffix: str) -> None:
    noise_image().save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.dtype == np.uint8 and np.array_equal(image, np.asarray(noise_image()))


def test_jpeg_is_close_to_what_was_written(tmp_path: Path) -> None:
    Image.new("RGB", (32, 24), (200, 100, 50)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - [200, 100, 50]).max() <= 3


def test_grayscale_becomes_three_equal_channels(tmp_path: Path) -> None:
    gray = noise_image().convert("L")
    gray.save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.repeat(np.asarray(gray)[..., None], 3, axis=2))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    transparent = noise_image().convert("RGBA")
    transparent.putalpha(7)
    transparent.save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.asarray(noise_image()))


def test_16_bits_are_reduced_to_8(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6), 200 * 257, np.uint16)).save(tmp_path / "a.png")
    assert np.unique(read_image(tmp_path / "a.png")).tolist() == [200]


def test_palette_images_are_read_in_color(tmp_path: Path) -> None:
    flat = Image.new("RGB", (6, 4), (10, 20, 30))
    flat.quantize(4).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [10, 20, 30]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    stored = Image.new("RGB", (32, 16), (255, 255, 255))
    stored.paste((0, 0, 0), (0, 0, 8, 16))  # the left edge of the stored image is the top edge of the upright one
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (32, 16, 3)
    assert image[:6].max() < 30 and image[10:].min() > 225


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_is_an_error(tmp_path: Path, suffix: str, share: float) -> None:
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    noise_image(200, 300).save(whole)
    read_image(whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cut\.\w+ .*(corrupt|truncated)"):
        read_image(cut)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_file_that_older_versions_of_opencv_fill_with_gray_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    noise_image(200, 300).save(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(images, "decode", lambda data, flags: np.full((200, 300, 3), 128, np.uint8))
    read_image(tmp_path / f"a.{suffix}")
    (tmp_path / f"a.{suffix}").write_bytes((tmp_path / f"a.{suffix}").read_bytes()[:-3000])
    with pytest.raises(DataError, match="corrupt or truncated"):
        read_image(tmp_path / f"a.{suffix}")


def test_data_after_the_end_of_a_jpeg_is_ignored(tmp_path: Path) -> None:
    noise_image(200, 300).save(tmp_path / "a.jpg")
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(b"a camera's own notes" * 10)
    assert read_image(tmp_path / "a.jpg").shape == (200, 300, 3)


def test_missing_empty_and_other_files_have_different_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    expected = {"none.jpg": "missing", "empty.jpg": "empty", "text.jpg": "not an image", "": "directory"}
    for name, message in expected.items():
        with pytest.raises(DataError, match=f"(?i){message}") as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_real_photos(shared: Path) -> None:
    sizes = {
        "dog_and_person.jpg": (534, 800),
        "camera_gray.png": (512, 512),
        "cat.png": (300, 451),
        "dice_rgba.png": (150, 200),
        "cmyk.jpg": (100, 100),
        "portrait_exif_orientation_6.jpg": (1800, 1200),
    }
    for name, size in sizes.items():
        assert read_image(shared / "data" / "photos" / name).shape == (*size, 3), name
    with pytest.raises(DataError, match=r"truncated\.jpg"):
        read_image(shared / "data" / "photos" / "truncated.jpg")


def test_without_libgl_the_error_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_libgl(name: str, *rest: Any) -> Any:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
        return real_import(name, *rest)

    monkeypatch.delitem(sys.modules, "panformer_cli.data.opencv")
    monkeypatch.setattr(builtins, "__import__", without_libgl)
    with pytest.raises(PanformerError, match="opencv-python-headless") as caught:
        importlib.import_module("panformer_cli.data.opencv")
    assert "\n" not in str(caught.value)


def png_of(width: int, height: int) -> bytes:
    """Return a PNG that declares a size; its pixels are missing."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png_of(20_000, 20_000))
    monkeypatch.setattr(images, "decode", None)
    with pytest.raises(
        DataError,
        match=r"a\.png declares 20000 x 20000 pixels, expected at most 268435456 in total; restore the file, or set "
        r"the environment variable PANFORMER_MAX_PIXELS=400000000 to read it$",
    ):
        read_image(tmp_path / "a.png")


@pytest.mark.slow
def test_a_large_image_is_read(tmp_path: Path) -> None:
    """Pillow itself warns about 108 million pixels and refuses 179 million."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.new("1", (12_000, 16_000), 1).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (16_000, 12_000, 3) and image[-1, -1].tolist() == [255] * 3
    assert limit == Image.MAX_IMAGE_PIXELS, "other code may rely on it"


def test_the_limit_of_pixels_can_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in ("png", "jpg", "tif", "gif"):
        noise_image().save(tmp_path / f"a.{suffix}")
        monkeypatch.setenv("PANFORMER_MAX_PIXELS", str(24 * 32))
        assert read_image(tmp_path / f"a.{suffix}").shape == (24, 32, 3)
        monkeypatch.setenv("PANFORMER_MAX_PIXELS", str(24 * 32 - 1))
        with pytest.raises(DataError, match=rf"a\.{suffix} declares 32 x 24 pixels, expected at most 767 in total"):
            read_image(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("value", ["", "many", "-1", "0", "1e9", "1073741825"])
def test_an_invalid_limit_of_pixels_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    noise_image().save(tmp_path / "a.png")
    monkeypatch.setenv("PANFORMER_MAX_PIXELS", value)
    with pytest.raises(PanformerError, match=rf"PANFORMER_MAX_PIXELS is '{value}'; expected .* 1 to 1073741824"):
        read_image(tmp_path / "a.png")
