"""The files in the folders of a data set that a conversion does not use, counted and named by reason."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath

from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.image_formats import (
    HIDDEN,
    LINK,
    RESULT,
    SPECIAL,
    counted_reason,
    is_clutter,
    unreadable_image,
    why_left_out,
)
from panformer_cli.data.result_folders import PANOPTIC, is_result
from panformer_cli.prepare.occurrences import Occurrences
from panformer_cli.prepare.source import SourceImage
from panformer_cli.wording import listing

CLUTTER = "file of an operating system or a NAS"
UNREADABLE_FOLDER = "folder that cannot be read"
UNUSED_IMAGE = "unused image (without labels, or in no converted split)"
UNLISTED_IMAGE = "unused image (not listed in the JSON)"
UNUSED_LABELS = "unused label file (no image has its name)"

_NAMED = 3
"""Number of files that are named for each reason."""

_SEARCHED = 20_000
"""Number of files that are searched for images in formats that cannot be read."""


@dataclass
class _Folder:
    """A folder of images, of labels, or of both.

    Attributes:
        has_images: Whether it contains images.
        label_suffixes: The suffixes of the labels in it, in lowercase.
    """

    has_images: bool = False
    label_suffixes: set[str] = field(default_factory=set)


class UsedFiles:
    """The images and labels of a conversion, and the folders that they are in.

    A folder is that in which an image has its output name, or its labels this name with another suffix. Labels with
    other names, such as the JSON of a whole split, are in no folder of this kind.

    Args:
        others: Files that the conversion uses besides them, such as the list of classes.
        unused_image: Why an image that can be read is left out.
    """

    def __init__(self, others: Iterable[Path] = (), unused_image: str = UNUSED_IMAGE) -> None:
        self._unused_image = unused_image
        self._used = DiskList[str](key=str)
        self._folders: dict[Path, _Folder] = {}
        for path in others:
            self._used.append(_key(path))

    def add(self, images: Iterable[SourceImage]) -> None:
        """Add the images and their labels."""
        for image in images:
            self._used.append(_key(image.path))
            name = PurePosixPath(image.file_name)
            folder = _folder_of(image.path, name)
            if folder is not None:
                self._folders.setdefault(folder, _Folder()).has_images = True
            for path in image.labels:
                self._used.append(_key(path))
                folder = _folder_of(path.with_suffix(""), name.with_suffix(""))
                if folder is not None:
                    self._folders.setdefault(folder, _Folder()).label_suffixes.add(path.suffix.lower())

    def sentences(self, root: Path) -> list[str]:
        """Return one line for each reason why other files in these folders are left out; the most frequent one first.

        Args:
            root: The folder of the data set, to which names are relative.
        """
        groups: dict[str, Occurrences] = {}
        for path, reason in self._others():
            name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
            groups.setdefault(reason, Occurrences()).add(name, _NAMED)
        ranked = sorted(groups.items(), key=lambda item: (-item[1].count, item[0]))
        return [f"left out: {_sentence(reason, group)}" for reason, group in ranked]

    def _others(self) -> Iterator[tuple[Path, str]]:
        for folder, kind in sorted(self._folders.items()):
            for path, reason in _walk(folder, self._folders):
                if self._used.first(_key(path)) is None:
                    yield path, reason or _reason(path, kind, self._unused_image)


def _sentence(reason: str, group: Occurrences) -> str:
    more = group.count - len(group.first)
    return f"{counted_reason(group.count, reason)}: {', '.join(group.first)}{f', and {more} more' if more else ''}"


def _key(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (removes `..`, follows no links)


def _folder_of(path: Path, name: PurePath) -> Path | None:
    """Return the folder in which a file has the relative name `name`; None if it has another name."""
    parts = name.parts
    return path.parents[len(parts) - 1] if parts and path.parts[-len(parts) :] == parts else None


def _walk(folder: Path, others: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Yield what is below a folder and not in one of the other folders, sorted, and why it is left out.

    The reason is empty for a visible file. Folders that are left out as a whole, such as `__MACOSX`, are one entry.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        yield folder, UNREADABLE_FOLDER
        return
    for entry in found:
        path = folder / entry.name
        if reason := _reason_of_entry(entry):
            yield path, reason
        elif (entry.is_dir() or path.name == PANOPTIC) and path not in others and is_result(path):
            yield path, RESULT
        elif not entry.is_dir():
            yield path, ""
        elif path not in others:
            yield from _walk(path, others)


def _reason_of_entry(entry: os.DirEntry[str]) -> str:
    if is_clutter(entry.name):
        return CLUTTER
    if entry.name.startswith("."):
        return HIDDEN
    if entry.is_symlink() and entry.is_dir():
        return LINK
    return "" if entry.is_dir() or entry.is_file() else SPECIAL


def _reason(path: Path, folder: _Folder, unused_image: str) -> str:
    """Return why a file is not used."""
    suffix = path.suffix.lower()
    if suffix in folder.label_suffixes:
        return UNUSED_LABELS
    if folder.has_images:
        return why_left_out(path) or unused_image
    return f"{suffix or 'without a suffix'} (not a label file)"


def unreadable_images(root: Path) -> str:
    """Return which images below a folder cannot be read by this installation, in parentheses; empty if there are none.

    For errors about missing images. At most 20000 files are searched.
    """
    files = (Path(base, name) for base, _, names in os.walk(root) for name in names if not is_clutter(name))
    found = [path for path in islice(files, _SEARCHED) if unreadable_image(path)]
    if not found:
        return ""
    reasons = sorted({unreadable_image(path) for path in found})
    names = sorted(path.relative_to(root).as_posix() for path in found)
    return f" (left out: {'; '.join(reasons)}: {listing(names, _NAMED)})"
