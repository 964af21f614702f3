"""`prepare-data yolo`: convert a data set in Ultralytics' YOLO segmentation format.

The format is documented at https://docs.ultralytics.com/datasets/segment/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools import shapes
from panformer_cli.prepare.annotation_tools.labeled_shapes import LabeledShape, panoptic_of_shapes, with_stuff
from panformer_cli.prepare.annotation_tools.shapes import Points, Size
from panformer_cli.prepare.classes import read_classes
from panformer_cli.prepare.overlap import OverlapRule
from panformer_cli.prepare.source import SourceImage, listed_files, with_unused_labels
from panformer_cli.storage.files import name_inside
from panformer_cli.wording import listing, short

_ROUNDING = 1e-3
"""Tolerance for coordinates outside of 0..1, because some tools round or clip imprecisely."""

_LAYOUTS = "images/<split>/ with labels/<split>/, or <split>/images/ with <split>/labels/"


_NAMES = "classes.txt"
"""A file with class names that annotation tools put next to the labels."""


class SplitFolders(NamedTuple):
    """Folders of a split's images and text files."""

    images: Path
    labels: Path


@dataclass(frozen=True)
class Yolo:
    """A YOLO segmentation data set; open one with `open_yolo`.

    The category ids are the class numbers in the text files. An image without a text file has no objects.
    """

    root: Path
    categories: CategoryTable
    overlap: OverlapRule = "last"
    name: str = "yolo"

    @property
    def settings(self) -> dict[str, Any]:
        return {"overlap": self.overlap}

    def splits(self) -> Sequence[str]:
        found = [split for split, folders in _split_folders(self.root).items() if folders.labels.is_dir()]
        if not found:
            raise DataError(f"{self.root} has no split with images and labels; expected {_LAYOUTS}")
        return found

    def images(self, split: str) -> Iterator[SourceImage]:
        folders = _split_folders(self.root).get(split)
        if folders is None or not folders.labels.is_dir():
            missing = f"the folder {folders.labels} is missing" if folders else f"{self.root} has no split {split!r}"
            missing += "" if folders else f" (available splits: {', '.join(self.splits())})"
            raise DataError(f"{missing}; expected {_LAYOUTS}")
        texts = listed_files(folders.labels, frozenset({".txt"}))
        labels = (path for path in texts if path.name != _NAMES)
        return with_unused_labels(_images(folders), labels, folders.images)

    def read(self, image: SourceImage, size: tuple[int, int]) -> PanopticMap:
        path = image.labels[0]
        drawn = [self._shape(words, f"{path}, line {number}", size) for number, words in _lines(path)]
        return panoptic_of_shapes(drawn, size, self.categories, self.overlap, str(path))

    def _shape(self, words: Sequence[str], where: str, size: Size) -> LabeledShape:
        if not re.fullmatch("[0-9]{1,9}", words[0]) or int(words[0]) not in self.categories:
            known = listing(sorted(category.id for category in self.categories.categories))
            raise DataError(
                f"{where} starts with {short(words[0])}; expected a class number, one of {known}; correct it, "
                "or add the class to data.yaml"
            )
        label = self.categories.by_id(int(words[0])).name
        patch = shapes.polygon(_points(words[1:], where) * (size[1], size[0]), size, f"{where}: the polygon")
        return LabeledShape(label, patch, f"{where.rpartition(', ')[2]} ({label})")


def open_yolo(root: Path, classes: Path | None, stuff: Sequence[str], overlap: OverlapRule) -> Yolo:
    """Return the source in the folder `root`.

    Args:
        root: The folder of the data set.
        classes: A file for `read_classes`. None takes `data.yaml` in `root`.
        stuff: Names of the classes that are stuff.
        overlap: Which polygon keeps shared pixels.

    Raises:
        DataError: The folder or the classes are missing, or a name is unknown.
    """
    if not root.is_dir():
        raise DataError(f"the folder {root} does not exist; check the path (docs/data.md shows the folder layout)")
    if classes is None and not (root / "data.yaml").exists():
        raise DataError(f"{root} has no data.yaml with the classes; pass the data set's YAML file with --classes FILE")
    return Yolo(root, with_stuff(read_classes(classes or root / "data.yaml", matched_by="id"), stuff), overlap)


def _split_folders(root: Path) -> dict[str, SplitFolders]:
    """Return the folders of each split with images; its labels may be missing."""
    below = {path.name: SplitFolders(path, root / "labels" / path.name) for path in _folders(root / "images", "*")}
    return below | {
        path.parent.name: SplitFolders(path, path.with_name("labels")) for path in _folders(root, "*/images")
    }


def _folders(folder: Path, pattern: str) -> list[Path]:
    found = (path for path in sorted(folder.glob(pattern)) if path.is_dir())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _images(folders: SplitFolders) -> Iterator[SourceImage]:
    """Yield the images of a split.

    Raises:
        DataError: None of the images has a text file.
    """
    image, has_labels = None, False
    for number, path in enumerate(listed_files(folders.images), 1):
        image = _image(number, path, folders)
        has_labels = has_labels or image.labels[0].exists()
        yield image
    if image is not None and not has_labels:
        raise DataError(
            f"no image in {folders.images} has a text file in {folders.labels}; expected the same names with .txt, "
            f"such as {image.labels[0]}"
        )


def _image(number: int, path: Path, folders: SplitFolders) -> SourceImage:
    inner = path.relative_to(folders.images)
    labels = name_inside(folders.labels, inner.with_suffix(".txt").as_posix(), str(folders.labels))
    return SourceImage(number, path, inner.as_posix(), (labels,))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the words of each nonempty line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return
    except UnicodeError as error:
        raise DataError(
            f"{path} is not a text file; expected lines of a class number and a polygon; export it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; expected a readable file") from error
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words:
            yield number, words


def _points(words: Sequence[str], where: str) -> Points:
    """Return the polygon of a line, (N, 2), as fractions of width and height, 0..1."""
    if len(words) == 4:
        raise DataError(
            f"{where} is a detection box; expected a polygon, `class x1 y1 x2 y2 x3 y3 ...`; export the data set for "
            "segmentation"
        )
    if len(words) < 6 or len(words) % 2:
        raise DataError(
            f"{where} has {len(words)} numbers after the class; expected x and y of 3 or more points; export it again"
        )
    try:
        points = np.array([float(word) for word in words]).reshape(-1, 2)
    except ValueError as error:
        raise DataError(f"{where} contains non-numbers; expected numbers from 0 to 1; export it again") from error
    # Negated so that NaN is also rejected.
    wrong = points[~((points >= -_ROUNDING) & (points <= 1 + _ROUNDING))]
    if wrong.size:
        raise DataError(
            f"{where} has the coordinate {wrong[0]:g}; expected fractions of width and height from 0 to 1; divide "
            "pixels by the image size, or export it again"
        )
    return points.clip(0, 1)
