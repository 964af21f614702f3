"""The `Source` protocol: what `convert` needs to know about a data set in another format."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.image_formats import is_clutter, unreadable_image, unreadable_twin
from panformer_cli.data.images import IMAGE_SUFFIXES
from panformer_cli.data.result_folders import PANOPTIC, is_result
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.left_out import AnnotationLog
from panformer_cli.storage.files import name_inside

SPLIT_NAME = re.compile("(train|training|val|valid|validation|test|testing)[0-9]*", re.IGNORECASE)
"""Usual names of splits, in names of folders and files."""


@dataclass(frozen=True)
class LabeledMap(PanopticMap):
    """The panoptic map of an image, with counts of labels that are not segments.

    Attributes:
        void_values: Pixels that are void because of their class value, by this value, such as `255`.
        marks: Pixels whose label has several meanings, by label; see `AmbiguousLabels`.
    """

    void_values: Mapping[str, int] = field(default_factory=dict)
    marks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a source, not yet read. Must be picklable.

    Attributes:
        id: Image id in the output JSON.
        path: Path of the image file, or of the labels that contain the image.
        file_name: Output name below `images/<split>/`, with `/` as separator. The PNG has the same name with `.png`.
        labels: Files with the annotation, in an order defined by the source.
        extra: Other data that the source needs to read the annotation, such as a JSON row.
        problem: A known problem. The image is reported or skipped like other bad images.
    """

    id: int | str
    path: Path
    file_name: str
    labels: tuple[Path, ...] = ()
    extra: Any = None
    problem: str = ""


class Source(Protocol):
    """A data set in another format. Must be picklable."""

    @property
    def name(self) -> str:
        """The name of the subcommand, such as `cityscapes`."""

    @property
    def root(self) -> Path:
        """The input folder."""

    @property
    def categories(self) -> CategoryTable:
        """The full category table, including classes without segments."""

    @property
    def settings(self) -> dict[str, Any]:
        """Other settings that affect the result, as JSON, such as how overlaps are resolved."""

    def splits(self) -> Sequence[str]:
        """Return the names of the available splits. Raises a DataError if there are none."""

    def images(self, split: str) -> Iterable[SourceImage]:
        """Return the images of a split in a fixed order, each with a unique id and file name.

        Decodes nothing and keeps no list, because there may be millions. Raises a DataError, possibly during
        iteration, if the split does not exist or an image has no labels.
        """

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        """Return the annotation of an image; a `LabeledMap` if its labels are class values.

        Args:
            image: One of `images`.
            size: Height and width of the image as displayed, with its EXIF orientation applied.
            log: Reading each annotation in its context leaves out bad ones. Sources that have one map per image
                instead of separate annotations do not use it.

        Raises:
            DataError: The labels are missing or corrupt, or do not match the image.
        """


@runtime_checkable
class ReadsMore(Protocol):
    """A `Source` that reads folders other than `root`. Nothing may be written to them."""

    @property
    def also_read(self) -> Sequence[Path]:
        """The other input folders."""


@runtime_checkable
class HasOwnFiles(Protocol):
    """A `Source` that uses files besides images and labels, which may be in the same folders."""

    @property
    def own_files(self) -> Sequence[Path]:
        """The lists of classes and the configuration files."""


@runtime_checkable
class SelectsImages(Protocol):
    """A `Source` that uses only some images of its folders on purpose, so that the others are not reported."""

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The images of each split."""


@runtime_checkable
class EmbedsImages(Protocol):
    """A `Source` whose label files may contain the images."""

    def embedded_image(self, image: SourceImage) -> bytes | None:
        """Return the content of the image file in the labels; None if the image is a file, `image.path`.

        Raises:
            DataError: The content is not an image.
        """


@runtime_checkable
class AmbiguousLabels(Protocol):
    """A `Source` with labels whose meaning differs between data sets."""

    def conventions(self, split: str, marks: Mapping[str, int]) -> Sequence[str]:
        """Return one sentence for each convention that was assumed, not passed, and for what was not found.

        Args:
            split: The split.
            marks: The sum of `LabeledMap.marks` over its images.
        """


@runtime_checkable
class ChecksMarks(Protocol):
    """A `Source` whose labels can contradict the convention that they are read with."""

    def check_marks(self, marks: Mapping[str, Mapping[str, int]]) -> None:
        """Raise a DataError if the labels contradict the convention; it says how to pass the right one.

        Args:
            marks: The sum of `LabeledMap.marks` over the images of each split.
        """


@runtime_checkable
class ReadsPanopticPngs(Protocol):
    """A `Source` that may read one panoptic PNG per image, so that loading the faster decoder pays off."""

    def reads_panoptic_pngs(self, split: str) -> bool:
        """Return whether it does for this split."""


def without_object(category: Category) -> str:
    """Return the key in `LabeledMap.void_values` of pixels of a thing class that belong to no object."""
    return f"{category.id} ({category.name}) without an object"


def visible(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, sorted; none if it does not exist.

    Hidden ones are left out, and what an operating system left behind, such as `__MACOSX` or `._a.xml`.

    Raises:
        DataError: The folder cannot be read.
    """
    if not folder.is_dir():
        return []
    try:
        return sorted(path for path in folder.iterdir() if _is_visible(path.name))
    except OSError as error:
        raise _unreadable(folder, error) from error


def require_folder(folder: Path) -> None:
    """Raise a DataError unless an input folder exists."""
    if not folder.is_dir():
        problem = f"{folder} is a file, not a folder" if folder.exists() else f"the folder {folder} does not exist"
        raise DataError(f"{problem}; check the path (docs/data.md shows the folder layout)")


def listed_files(folder: Path, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> Iterator[Path]:
    """Yield the files with one of the lowercase `suffixes` in `folder`, recursively and sorted, without hidden files.

    Raises:
        DataError: `folder` is not a folder or cannot be read, or it contains a link that points outside of it or a link
            to a folder, which is not followed.
    """
    require_folder(folder)
    for inner in _names_below(folder, ""):
        if PurePosixPath(inner).suffix.lower() in suffixes:
            yield name_inside(folder, inner, str(folder))


def listed_pngs(folder: Path) -> Iterator[Path]:
    """Yield the PNGs in `folder`, as in `listed_files`."""
    return listed_files(folder, frozenset({".png"}))


def with_unused_labels(images: Iterable[SourceImage], found: Iterable[Path], folder: Path) -> Iterator[SourceImage]:
    """Yield `images`, then one bad image for each label file in `found` that belongs to none of them.

    If there are no images at all, yields nothing: the missing images are the problem, not the labels.

    Args:
        images: The images of a split.
        found: Paths as returned by `listed_files` and `name_inside`, so that they compare equal to the labels.
        folder: The folder where the missing images were expected.
    """
    used, is_empty = DiskList[str](key=str), True  # there may be millions
    for image in images:
        used.extend(map(str, image.labels))
        yield image
        is_empty = False
    for path in () if is_empty else found:
        if used.first(str(path)) is None:
            name = f"{path.absolute().as_posix().lstrip('/')}.bad"
            yield SourceImage(name, path, name, problem=_without_image(path, folder))


def _without_image(labels: Path, folder: Path) -> str:
    """Return the problem of a label file without an image in `folder`, or with one that cannot be read."""
    ends = (labels.parts[-count:] for count in range(1, len(labels.parts)))
    image = next(filter(None, (unreadable_twin(folder.joinpath(*end)) for end in ends)), None)
    if image is not None:
        return (
            f"{labels} has the image {image}, which cannot be read: {unreadable_image(image)}; expected another "
            "format, or the package that reads it"
        )
    return (
        f"{labels} has no image in {folder}; expected one with the same name, including upper and lower case, "
        f"and {labels.suffix.lower()} in lowercase; rename it, or restore the image"
    )


def _names_below(folder: Path, prefix: str) -> Iterator[str]:
    """Yield the names of all files below `folder / prefix`, relative to `folder` and sorted by their parts.

    Keeps only the names in the current folder and its parents in memory.
    """
    try:
        with os.scandir(folder / prefix) as entries:
            found = {entry.name: _is_folder(entry) for entry in entries if _is_visible(entry.name)}
    except OSError as error:
        raise _unreadable(folder / prefix, error) from error
    for name in sorted(found):
        if (found[name] or name == PANOPTIC) and is_result(folder / prefix / name):
            continue  # reported with the other files that are not used
        if found[name]:
            yield from _names_below(folder, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}"


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and not is_clutter(name)


def _unreadable(folder: Path, error: OSError) -> DataError:
    return DataError(f"the folder {folder} cannot be read: {error.strerror}; check its permissions")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink() and entry.is_dir():
        raise DataError(
            f"{entry.path} is a link to a folder, which is not followed; replace it with the folder, or link the whole "
            "split folder instead"
        )
    return entry.is_dir()
