"""The ids of the images that `predict` segments."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from panformer_cli.data.coco.annotation_index import from_index
from panformer_cli.data.coco.image_pairing import normalized, stem_of
from panformer_cli.data.coco.panoptic_json import read_image_ids
from panformer_cli.data.layout import annotation_of_images
from panformer_cli.errors import DataError
from panformer_cli.wording import counted, listing

ImageId = int | str


def ids_of(paths: Sequence[Path], ids_from: Path | None, are_files: bool = True) -> tuple[Sequence[ImageId], str]:
    """Return the ids of images, and a note on the data set that they belong to, "" for none.

    The ids are those of `ids_from`; else those of the data set, if it lists all images; else the numbers in the file
    names, if all names are different numbers; else they count from 1.

    Args:
        paths: The images.
        ids_from: JSON with the ids; None for none.
        are_files: Whether the paths are on this computer, so that the data set can be beside them.

    Raises:
        DataError: `ids_from` is corrupt or does not list an image.
    """
    if ids_from is not None:
        return _ids_from(paths, ids_from), ""
    note = ""
    if are_files and (annotation := _annotation_of(paths)) is not None:
        ids, problem = _ids_in(paths, annotation)
        if not problem:
            return ids, f"Image ids are those of {annotation}"
        note = f"Image ids are not those of {annotation}, {problem}"
    return _numbers(paths) or range(1, len(paths) + 1), note


def _numbers(paths: Sequence[Path]) -> list[int] | None:
    """Return the numbers in the file names, as in COCO; None unless all names are different numbers."""
    numbers = []
    for path in paths:
        stem = path.stem
        if not (stem.isascii() and stem.isdecimal()):
            return None
        numbers.append(int(stem))
    return numbers if len(set(numbers)) == len(numbers) else None


def _annotation_of(paths: Sequence[Path]) -> Path | None:
    """Return the panoptic JSON of the data set that all images belong to; None if there is not exactly one."""
    known: dict[Path, Path | None] = {}

    def of_folder(folder: Path) -> Path | None:
        if folder not in known:
            parent = folder.parent
            known[folder] = annotation_of_images(folder) or (of_folder(parent) if parent != folder else None)
        return known[folder]

    folders = set(map(os.path.dirname, map(str, paths)))  # a folder can have many files
    annotations = {of_folder(Path(folder).absolute()) for folder in folders}
    return annotations.pop() if len(annotations) == 1 else None


def _ids_in(paths: Sequence[Path], annotation: Path) -> tuple[list[ImageId], str]:
    """Return the ids of the images in a data set, or why they cannot be used: the end of a sentence."""
    try:
        ids = _Names(_listed(annotation)).ids_of(paths)
    except DataError:  # predicting does not need the ground truth
        return [], "which cannot be used; check it with `panformer prepare-data verify`"
    found = [number for number in ids if number is not None]
    if missing := len(paths) - len(found):
        first = paths[ids.index(None)].name
        return [], f"which does not list {missing} of {counted(len(paths), 'image')} (first {first})"
    return found, ""


def _listed(annotation: Path) -> Iterable[tuple[str, ImageId]]:
    """Return file name and id of the images in a panoptic JSON.

    An index is used but not built: that takes longer than to read the ids, and writes into the user's folder.
    """
    indexed = from_index(annotation)
    if indexed is None or indexed.unannotated:  # their ids are not in the index
        return read_image_ids(annotation)
    return ((info.file_name, info.id) for info in indexed.images)


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
