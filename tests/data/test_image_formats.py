"""Formats and variants of images, read as Pillow reads them, and what decoders print about odd files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps, TiffImagePlugin, features

from panformer_cli.data import image_formats
from panformer_cli.data.image_formats import is_clutter, readable_suffixes, why_left_out
from panformer_cli.data.image_header import read_header
from panformer_cli.data.images import has_more_frames, read_image
from panformer_cli.errors import DataError


def smooth(height: int = 48, width: int = 64) -> npt.NDArray[np.uint8]:
    """Return smooth noise in color, which lossy formats keep well."""
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def save(path: Path, image: Image.Image | None = None, **options: Any) -> Path:
    (image or Image.fromarray(smooth())).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("jpg", {"quality": 95}, 6),
        ("jpe", {"quality": 95, "format": "JPEG"}, 6),
        ("jfif", {"quality": 95, "format": "JPEG"}, 6),
        ("webp", {"lossless": True}, 0),
        ("avif", {"quality": 95}, 6),
        ("jp2", {}, 0),
        ("gif", {}, 9),
        ("ppm", {}, 0),
        ("dib", {}, 0),
    ],
)
def test_every_listed_format_is_read(tmp_path: Path, suffix: str, options: dict[str, Any], tolerance: int) -> None:
    path = save(tmp_path / f"a.{suffix}", **options)
    assert f".{suffix}" in readable_suffixes()
    assert np.abs(read_image(path).astype(int) - smooth()).mean() <= tolerance
    assert read_header(path).shown == (48, 64)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_the_orientation_is_applied_in_every_format(tmp_path: Path, suffix: str, orientation: int) -> None:
    options: dict[str, Any] = {"quality": 95} if suffix in ("jpg", "avif") else {}
    options |= {"lossless": True} if suffix == "webp" else {}
    options |= {"tiffinfo": {0x0112: orientation}} if suffix == "tif" else {"exif": exif(orientation)}
    path = save(tmp_path / f"a.{suffix}", **options)
    stored = Image.fromarray(smooth())
    stored.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(stored)).astype(int)
    image = read_image(path)
    assert image.shape == upright.shape and np.abs(image - upright).mean() <= 6
    assert read_header(path).shown == image.shape[:2]


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "gif"])
def test_alpha_does_not_change_the_colors(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGBA", (16, 12), (200, 100, 50, 90))
    path = save(tmp_path / f"a.{suffix}", image, **({"lossless": True} if suffix == "webp" else {}))
    assert read_image(path)[0, 0].tolist() == [200, 100, 50] or suffix == "gif"
    assert read_image(path).shape == (12, 16, 3)


@pytest.mark.parametrize(("suffix", "mode"), [("png", "LA"), ("tif", "LA"), ("png", "1"), ("tif", "1"), ("tif", "P")])
def test_gray_black_and_white_and_palette(tmp_path: Path, suffix: str, mode: str) -> None:
    image = Image.fromarray(smooth()).convert(mode)
    assert np.array_equal(read_image(save(tmp_path / f"a.{suffix}", image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_is_converted(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.new("CMYK", (16, 16), (0, 255, 255, 0)))
    assert np.abs(read_image(path).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_divided_by_256(tmp_path: Path, suffix: str, channels: int) -> None:
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), values if channels == 1 else np.dstack([values] * 3))
    assert np.abs(read_image(tmp_path / f"a.{suffix}")[..., 0].astype(int) - values // 256).max() <= 1


@pytest.mark.parametrize(
    ("kind", "channels", "words"),
    [
        (np.float32, 1, "32-bit float"),
        (np.float32, 3, "32-bit float"),
        (np.float64, 3, "64-bit float"),
        (np.int32, 1, "32-bit signed integer"),
        (np.int16, 3, "16-bit signed integer"),
    ],
)
def test_tiffs_without_a_known_range_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: type, channels: int, words: str
) -> None:
    cv2.imwrite(str(tmp_path / "a.tif"), np.ones((8, 9, channels), kind))
    for read in (read_image, read_header):
        with pytest.raises(DataError, match=rf"a\.tif: {words} TIFF is not supported.*8 or 16 bits"):
            read(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png", "avif"])
def test_the_first_frame_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 12), color) for color in ("red", "lime", "blue")]
    path = save(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    single = save(tmp_path / f"b.{suffix}", frames[0])
    assert np.abs(read_image(path).astype(int) - [255, 0, 0]).max() <= 3
    assert has_more_frames(path) and not has_more_frames(single)


def corrupted(suffix: str, share: float, **options: Any) -> Callable[[Path], Path]:
    """Return a function that writes an image with 8 changed bytes at `share` of its length."""

    def write(folder: Path) -> Path:
        path = save(folder / f"a.{suffix}", Image.fromarray(smooth(200, 300)), **options)
        data = bytearray(path.read_bytes())
        at = int(len(data) * share)
        data[at : at + 8] = bytes(255 - value for value in data[at : at + 8])
        path.write_bytes(data)
        return path

    return write


LIBRARIES_PRINT = ("jpg", "png")
"""libjpeg and libpng print a line to stderr about some corrupt images; it cannot be turned off."""


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        *((suffix, {}) for suffix in ("jpg", "png", "tif", "webp", "gif", "avif", "jp2", "bmp")),
        *(("tif", {"compression": kind}) for kind in ("tiff_lzw", "jpeg", "tiff_adobe_deflate")),
    ],
)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99])
@pytest.mark.filterwarnings("error")
def test_corrupt_images_are_read_or_named_in_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], suffix: str, options: dict[str, Any], share: float
) -> None:
    path = corrupted(suffix, share, **options)(tmp_path)
    for data in (path.read_bytes(), path.read_bytes()[: int(path.stat().st_size * share)]):
        path.write_bytes(data)
        try:
            read_image(path)
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
    if suffix not in LIBRARIES_PRINT and not options:
        assert capfd.readouterr() == ("", "")


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


@pytest.mark.parametrize("name", ["a.heic", "a.jpg"])
def test_heic_names_the_package_to_install(tmp_path: Path, name: str) -> None:
    if image_formats.has_heic():
        pytest.skip("pillow-heif is installed")
    (tmp_path / name).write_bytes(HEIC)
    for read in (read_image, read_header):
        with pytest.raises(DataError, match=rf"{name}: HEIC needs pillow-heif: pip install pillow-heif"):
            read(tmp_path / name)
    assert why_left_out(Path("a.HEIC")) == ".heic (needs pillow-heif)"


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for pillow-heif, which registers a reader for files that start like HEIC."""

    def register() -> None:
        opener: Any = lambda file, name: Image.new("RGB", (6, 4), (9, 8, 7))  # noqa: E731
        Image.register_open("HEIF", opener, lambda prefix: prefix[4:12] == b"ftypheic")

    package = ModuleType("pillow_heif")
    package.__dict__["register_heif_opener"] = register
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setattr(image_formats, "find_spec", lambda name: object())
    caches = (image_formats.has_heic, image_formats.register_heic, image_formats.readable_suffixes)
    for cache in caches:
        cache.cache_clear()
    try:
        (tmp_path / "a.heic").write_bytes(HEIC)
        assert ".heic" in readable_suffixes() and why_left_out(Path("a.heic")) == ""
        assert read_image(tmp_path / "a.heic").tolist() == [[[9, 8, 7]] * 6] * 4
    finally:
        Image.OPEN.pop("HEIF", None)
        Image.ID.remove("HEIF")
        for cache in caches:
            cache.cache_clear()


def test_the_libraries_are_asked_what_they_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    monkeypatch.setattr(image_formats, "_opencv_has", lambda suffix: suffix == ".webp")
    readable_suffixes.cache_clear()
    try:
        assert readable_suffixes() & {".webp", ".avif", ".jp2"} == {".webp"}
        assert why_left_out(Path("a.avif")) == ".avif (this OpenCV and this Pillow cannot read it)"
    finally:
        monkeypatch.undo()
        readable_suffixes.cache_clear()


@pytest.mark.parametrize(
    "name", ["._a.jpg", ".DS_Store", "Thumbs.db", "THUMBS.DB", "desktop.ini", "__MACOSX", "@eaDir"]
)
def test_files_of_operating_systems_are_clutter(name: str) -> None:
    assert is_clutter(name)


@pytest.mark.parametrize("name", ["a.jpg", "_a.jpg", ".a.jpg", "Thumbs.jpg"])
def test_other_files_are_not_clutter(name: str) -> None:
    assert not is_clutter(name)


RAW = {50706: b"\1\4\0\0"}
PREVIEW = {254: 1, 330: 8}


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\x0a\x00\x00", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"%PDF-1.7\n", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\n<?xml version='1.0'?>\n<svg/>", "SVG"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "Camera raw"),
        (b"PF\n5 4\n-1\n" + bytes(240), "PFM"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n\x80\x80\x80\x81", "Radiance HDR"),
    ],
)
def test_formats_that_are_not_supported_are_named(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.jpg: {name} is not supported; convert the image to JPEG or PNG$"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(("tags", "is_raw"), [(RAW, True), (PREVIEW, True), ({254: 1}, False), ({330: 8}, False)])
def test_the_preview_of_a_camera_raw_file_is_not_used(tmp_path: Path, tags: dict[int, Any], is_raw: bool) -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
    Image.new("RGB", (8, 6)).save(tmp_path / "a.tif", tiffinfo=info)
    if is_raw:
        for read in (read_image, read_header):
            with pytest.raises(DataError, match=r"a\.tif: Camera raw is not supported"):
                read(tmp_path / "a.tif")
    else:
        assert read_image(tmp_path / "a.tif").shape == (6, 8, 3)
