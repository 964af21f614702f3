"""Images with wrong or missing bytes, in every format: read, or refused with one sentence."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from panformer_cli.data.image_header import read_header
from panformer_cli.data.images import has_more_frames, read_image
from panformer_cli.errors import DataError
from tests.data.test_images import noise_image

FORMATS: dict[str, dict[str, Any]] = {
    "avif": {},
    "bmp": {},
    "gif": {},
    "jp2": {},
    "jpg": {"exif": Image.Exif()},
    "png": {},
    "ppm": {},
    "tif": {"compression": "tiff_lzw"},
    "webp": {},
}
FORMATS["jpg"]["exif"][0x0112] = 6


def content_of(suffix: str) -> bytes:
    """Return an image of 32 x 24 pixels; one with two frames if the format has them."""
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow cannot write AVIF")
    file = BytesIO()
    frames = {"save_all": True, "append_images": [noise_image().rotate(180)]} if suffix in ("gif", "tif") else {}
    name = {"jpg": "jpeg", "tif": "tiff", "jp2": "jpeg2000"}.get(suffix, suffix)
    noise_image().save(file, name, **FORMATS[suffix], **frames)
    return file.getvalue()


def check(path: Path, data: bytes) -> None:
    """Read a file in every way; only a DataError of one line that names the file is allowed."""
    path.write_bytes(data)
    has_more_frames(path)
    for read in (read_image, read_header):
        try:
            read(path)
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_files(suffix: str, tmp_path: Path) -> None:
    whole = content_of(suffix)
    for length in {*range(1, min(len(whole), 60)), *np.linspace(60, len(whole) - 1, 20).astype(int).tolist()}:
        check(tmp_path / f"a.{suffix}", whole[:length])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_wrong_bytes(suffix: str, tmp_path: Path) -> None:
    """One to three bytes are wrong, mostly in the header. PNGs of a wrong size are slow."""
    whole, rng = content_of(suffix), np.random.default_rng(0)
    for _ in range(20 if suffix == "png" else 100):
        data = bytearray(whole)
        for position in rng.integers(0, (40, 200, len(data))[rng.integers(3)], rng.integers(1, 4)).tolist():
            data[position % len(data)] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))
        check(tmp_path / f"a.{suffix}", bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"P6\n60 40\n25\x00\n" + bytes(60 * 40 * 3),
        b"P6\n6x 40\n255\n" + bytes(60 * 40 * 3),
        b"P6\n60 40\n99999\n" + bytes(60 * 40 * 3),
        b"\x89PNG\r\n\x1a\n\0\0\0\4IHDR\0\0\0\1\0\0\0\0",
    ],
)
def test_corrupt_headers(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.ppm"
    check(path, data)
    with pytest.raises(DataError, match=r"a\.ppm.*restore the file|a\.ppm cannot be decoded"):
        read_header(path)
