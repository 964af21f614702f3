"""Which image files can be read: asked of OpenCV and Pillow, and the reasons why a file is left out of a folder."""

from __future__ import annotations

import importlib
import struct
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path, PurePath

from PIL import TiffImagePlugin, features

from panformer_cli.data.opencv import cv2
from panformer_cli.data.quiet import no_warnings

HEIC_ADVICE = "HEIC needs pillow-heif: pip install pillow-heif"

_ALWAYS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
"""Every OpenCV reads these. Pillow reads GIF without another library."""
_OPTIONAL = {".webp": "webp", ".avif": "avif", ".jp2": "jpg_2000"}
"""Formats that OpenCV and Pillow may be built without: suffix, and the name of the feature in Pillow."""
_HEIC = (".heic", ".heif")

PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,
    struct.error,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
)
"""What Pillow raises for a corrupt or truncated file, depending on the format and the corrupt byte."""

_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
LINK, SPECIAL, HIDDEN = "link to a folder (not followed)", "not a regular file", "hidden"
RESULT = "result of an earlier call"
"""Reasons to leave a file out of a folder, besides those of `why_left_out`."""

_PLURALS = {
    "link to a folder": "links to folders",
    "link in an archive": "links in an archive",
    "not a regular file": "not regular files",
    "result of": "results of",
    "(not an image)": "(not images)",
    "(not a label file)": "(not label files)",
    "unused image": "unused images",
    "unused label file": "unused label files",
    "file of an operating system": "files of an operating system",
    "folder that": "folders that",
    "video (": "videos (",
}
"""How reasons differ if they apply to several files."""

_CLUTTER = frozenset({"thumbs.db", "desktop.ini", ".ds_store", "__macosx", "@eadir"})

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UNSUPPORTED = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"#?RADIANCE": "Radiance HDR",
    b"#?RGBE": "Radiance HDR",
    b"v/1\x01": "OpenEXR",
    b"PF\n": "PFM",
    b"Pf\n": "PFM",
    b"FUJIFILMCCD-RAW": "Camera raw",
    b"II*\0\x10\0\0\0CR": "Camera raw",
    b"%PDF": "PDF",
    b"<svg": "SVG",
}
"""Formats that no reader knows, or whose values OpenCV cuts off or reads from a preview; by their first bytes."""
_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706

_BITS, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 258, 338, 339
_FORMAT_NAMES = {1: "integer", 2: "signed integer", 3: "float"}


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the lowercase suffixes of the image files that this installation can read."""
    optional = {suffix for suffix, name in _OPTIONAL.items() if features.check(name) or _opencv_has(suffix)}
    heic = _HEIC if has_heic() else ()
    return frozenset({*_ALWAYS, ".gif", *optional, *heic})


@cache
def has_heic() -> bool:
    """Return whether pillow-heif is installed."""
    return find_spec("pillow_heif") is not None


@cache
def register_heic() -> None:
    """Let Pillow read HEIC, if pillow-heif is installed; called before Pillow opens an image."""
    if has_heic():
        importlib.import_module("pillow_heif").register_heif_opener()


def is_clutter(name: str) -> bool:
    """Return whether a file or folder was left by an operating system or a NAS, such as `.DS_Store` or `@eaDir`.

    These are ignored silently everywhere.
    """
    return name.startswith("._") or name.lower() in _CLUTTER


def why_left_out(path: PurePath) -> str:
    """Return why a file of a folder is not taken as an image, such as `.txt (not images)`; empty for an image."""
    suffix = path.suffix.lower()
    if suffix in readable_suffixes():
        return ""
    return unreadable_image(path) or (f"{suffix} (not an image)" if suffix else "without a suffix (not an image)")


def unreadable_image(path: PurePath) -> str:
    """Return why this installation cannot read an image file; empty if it can, or if the file is no image."""
    suffix = path.suffix.lower()
    if suffix in readable_suffixes():
        return ""
    if suffix in _HEIC:
        return f"{suffix} (needs pillow-heif)"
    return f"{suffix} (this OpenCV and this Pillow cannot read it)" if suffix in _OPTIONAL else ""


def counted_reason(count: int, reason: str) -> str:
    """Return how many files are left out for a reason.

    >>> counted_reason(1, ".txt (not an image)"), counted_reason(2, ".txt (not an image)")
    ('1 .txt (not an image)', '2 .txt (not images)')
    """
    if count > 1:
        for one, several in _PLURALS.items():
            reason = reason.replace(one, several)
    return f"{count} {reason}"


def unreadable_twin(path: Path) -> Path | None:
    """Return the image file that this installation cannot read and that differs from `path` only in its suffix."""
    suffixes = [suffix for suffix in (*_HEIC, *_OPTIONAL) if suffix not in readable_suffixes()]
    candidates = (path.with_suffix(case) for suffix in suffixes for case in (suffix, suffix.upper()))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def other_format(path: Path) -> Path | None:
    """Return a readable image file that differs from `path` only in its suffix; None if there is none."""
    suffixes = sorted(readable_suffixes() - {path.suffix.lower()})
    candidates = (path.with_suffix(case) for suffix in suffixes for case in (suffix, suffix.upper()))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def is_heic(data: bytes) -> bool:
    """Return whether the content of a file is a HEIC image, whatever its suffix."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS


def is_avif(data: bytes) -> bool:
    """Return whether the content of a file is an AVIF image or sequence."""
    return data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis")


def is_jpeg(data: bytes) -> bool:
    """Return whether the content of a file is a JPEG."""
    return data.startswith(b"\xff\xd8\xff")


def is_tiff(data: bytes) -> bool:
    """Return whether the content of a file is a TIFF."""
    return data.startswith(_TIFF_STARTS)


def unsupported_format(data: bytes) -> str:
    """Return the name of a known format that is not supported, such as `JPEG XL`; empty for all others."""
    if name := next((name for start, name in _UNSUPPORTED.items() if data.startswith(start)), ""):
        return name
    if data[4:12] == b"ftypcrx ":
        return "Camera raw"
    if data[128:132] == b"DICM":
        return "DICOM"
    return "SVG" if data.lstrip().startswith(b"<?xml") and b"<svg" in data[:1000] else ""


def unsupported(name: str) -> str:
    """Return that a format is not supported, and what to do."""
    return f"{name} is not supported; convert the image to JPEG or PNG"


def is_camera_raw(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    """Return whether a TIFF with these tags is a camera raw file (DNG, NEF, ARW), whose first page is a preview."""
    return _DNG_VERSION in tags or (_SUB_IFDS in tags and bool(_first(tags, _SUBFILE_TYPE, 0) & 1))


def tiff_problem(tags: TiffImagePlugin.ImageFileDirectory_v2) -> str:
    """Return why a TIFF with these tags is not supported, such as `32-bit float ...`, and what to do; empty if it is.

    The values of such images have no known range, and OpenCV reads signed integers as something else.
    """
    if is_camera_raw(tags):
        return unsupported("Camera raw")
    bits, kind = _first(tags, _BITS, 1), _first(tags, _SAMPLE_FORMAT, 1)
    if bits <= 16 and kind in (1, 4):  # 4: undefined, which readers take as unsigned
        return ""
    return (
        f"{bits}-bit {_FORMAT_NAMES.get(kind, 'complex')} TIFF is not supported, because the range of its values is "
        "unknown; scale it to 8 or 16 bits per channel and save it again"
    )


def has_tiff_alpha(data: bytes) -> bool:
    """Return whether a TIFF has an alpha channel, by which OpenCV multiplies the colors."""
    return _first(tiff_tags(data), _EXTRA_SAMPLES, 0) in (1, 2)


def tiff_tags(data: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Return the tags of the first page; empty if they are corrupt."""
    try:
        with no_warnings:  # about corrupt tags, which are left out
            return _loaded_tags(data)
    except PILLOW_ERRORS:
        return TiffImagePlugin.ImageFileDirectory_v2()


def _loaded_tags(data: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2:3] == b"+" else 8])  # `+` marks BigTIFF
    file = BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _first(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int, default: int) -> int:
    try:
        value = tags.get(tag, default)
        return int(value[0] if isinstance(value, tuple) else value)
    except PILLOW_ERRORS:
        return default


def _opencv_has(suffix: str) -> bool:
    """Return whether OpenCV has the library for a format; it has a reader where it has a writer."""
    try:
        return bool(cv2.haveImageWriter(f"image{suffix}"))
    except cv2.error:
        return False
