"""The images that `predict` segments: which files of the inputs, and their ids and names in the results."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from panformer_cli.data.coco.annotation_index import open_annotation
from panformer_cli.data.coco.image_pairing import normalized, stem_of
from panformer_cli.data.coco.panoptic_json import read_image_ids
from panformer_cli.data.image_formats import is_clutter, why_left_out
from panformer_cli.data.images import IMAGE_SUFFIXES
from panformer_cli.data.layout import annotation_of_images
from panformer_cli.engine.results import is_result_image
from panformer_cli.errors import DataError
from panformer_cli.storage.files import resolve_links
from panformer_cli.wording import counted, listing

ImageId = int | str

_LINK, _HIDDEN, _RESULT = "link to a folder (not followed)", "hidden", "results of an earlier call"


@dataclass(frozen=True)
class InputImage:
    """An image to segment.

    Attributes:
        path: The image file.
        id: Id in the JSON.
        name: Name of the files in the results, a relative path that is unique without its suffix.
        file_name: File name in the JSON: relative to its input, or `name` if several images have the same.
    """

    path: Path
    id: ImageId
    name: str
    file_name: str


@dataclass(frozen=True)
class InputImages:
    """The images of all inputs.

    Attributes:
        images: In the order of the inputs; folders and patterns are sorted.
        notes: One line each: which files were left out, and which data set the ids are from.
    """

    images: list[InputImage]
    notes: list[str] = field(default_factory=list)


def find_images(inputs: Sequence[str], out: Path, ids_from: Path | None = None) -> InputImages:
    """Return the images of all inputs.

    Their ids are those of `ids_from`; else those of the data set that they belong to, if it lists all of them; else the
    numbers in the file names, if all names are different numbers; else they count from 1.

    Args:
        inputs: Image files, folders, which are searched recursively, and glob patterns.
        out: Folder of the results. Images in it are skipped, unless they are given by name.
        ids_from: JSON with `images`, rows of id and file_name.

    Raises:
        DataError: An input does not exist or has no images, or `ids_from` is corrupt or does not list an image.
    """
    finder = _Finder(resolve_links(out))
    for given in inputs:
        finder.add(given)
    paths = list(finder.found)
    if not paths:
        raise DataError(
            f"{listing(inputs)}: no images, only files of the operating system; give image files or folders"
        )
    own_names = list(finder.found.values())
    names = _distinct([Path(name) for name in own_names])
    counts = Counter(own_names)
    file_names = [
        name if counts[own] > 1 or re.search(r"[:\\]", own) else own for name, own in zip(names, own_names, strict=True)
    ]
    notes = [f"{counted(total, 'file')} left out: {finder.reasons()}"] if (total := finder.left_out.total()) else []
    ids: Sequence[ImageId] | None
    if ids_from is not None:
        ids = _ids_from(paths, ids_from)
    elif (annotation := _annotation_of(paths)) is not None and (ids := _ids_in(paths, annotation)) is not None:
        notes.append(f"Image ids are those of {annotation}")
    else:
        ids = _numbers(paths)
    images = zip(paths, ids or range(1, len(paths) + 1), names, file_names, strict=True)
    return InputImages([InputImage(*values) for values in images], notes)


class _Finder:
    """Collects the image files of the inputs.

    Attributes:
        found: Name in the results by path.
        left_out: Number of other files by the reason why they are left out.
    """

    def __init__(self, out: Path) -> None:
        self.found: dict[Path, str] = {}
        self.left_out: Counter[str] = Counter()
        self._out = out

    def add(self, given: str) -> None:
        """Add the image files of one input."""
        path = Path(given)
        if path.is_dir():
            if not self._add_all((file, file.relative_to(path).as_posix(), why) for file, why in _files_below(path)):
                suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
                raise DataError(
                    f"the folder {path} has no images{self._only()}; expected files with the suffixes {suffixes}"
                )
        elif path.is_file():
            if not is_clutter(path.name):  # from a pattern that the shell expanded
                self.found.setdefault(path, path.name)
        else:
            matches = map(Path, sorted(glob.glob(given, recursive=True)))  # noqa: PTH207 (absolute patterns)
            files = (match for match in matches if match.is_file() and not is_clutter(match.name))
            if not self._add_all((file, file.name, _RESULT if is_result_image(file) else "") for file in files):
                raise DataError(
                    f"no such image, folder or pattern: {given}{self._only()}; give image files, folders or patterns "
                    "such as 'photos/*.jpg'"
                )

    def reasons(self) -> str:
        """Return why files are left out, the most frequent reason first."""
        ranked = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{count} {reason}" for reason, count in ranked)

    def _only(self) -> str:
        return f" (left out: {self.reasons()})" if self.left_out else ""

    def _add_all(self, files: Iterable[tuple[Path, str, str]]) -> bool:
        """Add files with their names and the reasons why they are left out; return whether any is an image."""
        any_image = False
        for path, name, problem in files:
            if problem != _LINK and resolve_links(path).is_relative_to(self._out):
                continue
            if reason := problem or why_left_out(path):
                self.left_out[reason] += 1
                continue
            self.found.setdefault(path, name)
            any_image = True
        return any_image


def _files_below(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files below a folder, sorted, each with the reason why it is left out; empty for a possible image."""
    found = []
    for base, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_clutter(name)]
        found += [(Path(base, name), _LINK) for name in folders if Path(base, name).is_symlink()]
        found += [(Path(base, name), "") for name in files if not is_clutter(name)]
    for path, problem in sorted(found):
        if problem or not path.is_file():
            yield path, problem or "not regular files"
        elif any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path, _HIDDEN
        else:
            yield path, _RESULT if is_result_image(path) else ""


def _distinct(names: list[Path]) -> list[str]:
    """Return the names, with a number where two would give the same result file.

    `:` and `\\` become `_`, since they separate drives and folders on some systems.
    """
    taken: set[str] = set()
    distinct = []
    for name in names:
        name = Path(*(re.sub(r"[:\\]", "_", part) for part in name.parts))
        candidate, number = name, 1
        while candidate.with_suffix("").as_posix().lower() in taken:
            number += 1
            candidate = name.with_stem(f"{name.stem}_{number}")
        taken.add(candidate.with_suffix("").as_posix().lower())
        distinct.append(candidate.as_posix())
    return distinct


def _numbers(paths: Sequence[Path]) -> list[int] | None:
    """Return the numbers in the file names, as in COCO; None unless all names are different numbers."""
    stems = [path.stem for path in paths]
    if not all(stem.isascii() and stem.isdecimal() for stem in stems):
        return None
    numbers = list(map(int, stems))
    return numbers if len(set(numbers)) == len(numbers) else None


def _annotation_of(paths: Sequence[Path]) -> Path | None:
    """Return the panoptic JSON of the data set that all images belong to; None if there is not exactly one."""
    known: dict[Path, Path | None] = {}

    def of_folder(folder: Path) -> Path | None:
        if folder not in known:
            parent = folder.parent
            known[folder] = annotation_of_images(folder) or (of_folder(parent) if parent != folder else None)
        return known[folder]

    annotations = {of_folder(path.absolute().parent) for path in paths}
    return annotations.pop() if len(annotations) == 1 else None


def _ids_in(paths: Sequence[Path], annotation: Path) -> list[ImageId] | None:
    """Return the ids of the images in a data set; None if it does not list all of them, or is corrupt."""
    try:
        listed = open_annotation(annotation)
    except DataError:  # predicting does not need the ground truth
        return None
    ids = _Names((info.file_name, info.id) for info in listed.images).ids_of(paths)
    return [number for number in ids if number is not None] if None not in ids else None


def _ids_from(paths: Sequence[Path], json: Path) -> list[ImageId]:
    """Return the ids of the images in a JSON that the user chose."""
    ids = _Names(read_image_ids(json)).ids_of(paths)
    missing = [str(path) for path, number in zip(paths, ids, strict=True) if number is None]
    if missing:
        raise DataError(
            f"{json} does not list {len(missing)} of {counted(len(paths), 'image')} ({listing(missing, 3)}), or has "
            "several with the same name; expected a JSON with the file name and id of every image; choose the JSON of "
            "the same data set, or omit --ids-from"
        )
    return [number for number in ids if number is not None]


class _Names:
    """Ids of images by file name, with and without suffix; None if several images have the name."""

    def __init__(self, rows: Iterable[tuple[str, ImageId]]) -> None:
        self._ids: dict[str, ImageId | None] = {}
        for name, number in rows:
            whole, stem = normalized(name), f"{stem_of(name)}."
            for key in (whole, stem):
                self._ids[key] = None if key in self._ids else number

    def ids_of(self, paths: Sequence[Path]) -> list[ImageId | None]:
        """Return the id of each image; None if it is not listed, or another one has the same id."""
        found = [self._id_of(path) for path in paths]
        counts = Counter(found)
        return [number if counts[number] == 1 else None for number in found]

    def _id_of(self, path: Path) -> ImageId | None:
        parts = path.absolute().parts[1:]
        for start in range(len(parts)):  # the longest name first: names may be relative to any parent folder
            name = normalized("/".join(parts[start:]))
            for key in (name, f"{stem_of(name)}."):
                if key in self._ids:
                    return self._ids[key]
        return None
