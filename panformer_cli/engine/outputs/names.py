"""Names of outputs, and of result files: those of different images differ, and none leads out of its folder."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import Segment
from panformer_cli.errors import DataError
from panformer_cli.storage.files import name_inside

JSON = "json"
"""The output that is one file for all images: `OUT/panoptic.json`."""

USUAL = ("overlay", "panoptic", JSON)
"""The outputs by default. `evaluate`, `visualize` and submissions need the last two."""

GALLERY = "gallery"
"""The folder of the gallery."""

SUFFIXES = (".jpg", ".png", ".json", ".geojson", ".js")
"""Suffixes of result files."""

_SEPARATOR = re.compile(r"[:\\]")
_NOT_UTF8 = re.compile("[\ud800-\udfff]")
"""What Python makes of the bytes of a file name that are not UTF-8; no JSON and no other program can have it."""
_RESULT_SUFFIX = re.compile(rf"\.({'|'.join(suffix[1:] for suffix in SUFFIXES)})$", re.IGNORECASE)
_LIKE_A_SEGMENT = re.compile(r"\d+(-.*)?\.\w+")
_FOLDER = re.compile(r"[\w-]+")
_DOTS = re.compile(r"[. ]*")
_LONGEST_STEM = 235
"""Bytes of an image's name without suffix: a file name has at most 255, with the suffix and perhaps a number."""
_LONGEST = 50
"""Characters of a category's name in a file name: up to four bytes each, and a file name has at most 255 bytes."""


def usable_name(name: Path) -> Path:
    """Return the name for the results of an image from its path in the input, which may have any characters.

    `:` and `\\`, which separate drives and folders on some systems, become `_`. So does the dot of a folder, or of the
    rest of a file name without its suffix, where it looks like the suffix of a result: a result and a folder of results
    must not have the same name. A byte that is not UTF-8 becomes `%` and its value, as in addresses. Long names are
    cut.

    >>> usable_name(Path("a.jpg/b.png")).as_posix(), usable_name(Path("c:d.e.png")).as_posix()
    ('a_jpg/b.png', 'c_d.e.png')
    >>> usable_name(Path("3-dog.png.jpg")).as_posix()
    '3-dog_png.jpg'
    >>> usable_name(Path("caf\\udce9.jpg")).as_posix()
    'caf%E9.jpg'
    """
    *folders, last = (_NOT_UTF8.sub(_percent, _SEPARATOR.sub("_", part)) for part in name.parts)
    stem, suffix = Path(last).stem, Path(last).suffix
    if _LIKE_A_SEGMENT.fullmatch(stem):
        stem = _RESULT_SUFFIX.sub(r"_\1", stem)
    if _DOTS.fullmatch(stem):
        stem = "_"
    return Path(*(_cut(_RESULT_SUFFIX.sub(r"_\1", folder)) for folder in folders), _cut(stem) + suffix)


def _percent(match: re.Match[str]) -> str:
    """Return `%` and the value of a byte that is not UTF-8."""
    return f"%{ord(match[0]) & 0xFF:02X}"


def is_portable(name: str) -> bool:
    """Return whether a name has none of the characters that `usable_name` replaces everywhere."""
    return not (_SEPARATOR.search(name) or _NOT_UTF8.search(name))


def _cut(name: str) -> str:
    """Return the beginning of a name if it is too long for a file system."""
    encoded = name.encode()
    return name if len(encoded) <= _LONGEST_STEM else encoded[:_LONGEST_STEM].decode(errors="ignore")


def segment_name(segment: Segment, categories: CategoryTable) -> str:
    """Return the name of a segment's files without their suffix: its id and category, such as `3-traffic-light`."""
    name = unicodedata.normalize("NFC", categories.by_id(segment.category_id).name.lower())
    words = re.sub(r"[\W_]+", "-", name)[:_LONGEST].strip("-")
    return f"{segment.id}-{words}" if words else str(segment.id)


def gallery_key(name: str) -> str:
    """Return the name of an image's files in the gallery, from the name of its results."""
    return PurePosixPath(name).with_suffix("").as_posix()


def result_path(out: Path, name: str, where: str) -> Path:
    """Return the path of a result file.

    Args:
        out: Folder of the results.
        name: Path in it with `/`, first the folder of an output. That folder may be a symbolic link to anywhere.
        where: What contains the name, for errors.

    Raises:
        DataError: As `files.name_inside`.
    """
    folder, _, rest = name.partition("/")
    if not _FOLDER.fullmatch(folder):
        raise DataError(f"{where}: {name!r} is not the path of a result; expected the folder of an output first")
    return name_inside(out / folder, rest, where)
