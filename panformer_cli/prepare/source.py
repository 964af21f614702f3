"""What a data set in a form of its own has to tell, so that `convert` can bring it into COCO's panoptic layout."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.images import IMAGE_SUFFIXES
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.storage.files import name_inside


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a source, before anything of it is read; it travels to another process.

    id: of the image in the JSON that is written.
    picture: the image file.
    file_name: its name below `images/<split>/` of the result, with `/` between folders. The PNG is called the same,
        with `.png`.
    labels: the files that its annotation is read from, in an order that the source knows.
    problem: what is known to be wrong already; it is told, or left out, with the other bad images.
    extra: whatever else the source needs to read the annotation (a row of a JSON, say).
    """

    id: int | str
    picture: Path
    file_name: str
    labels: tuple[Path, ...] = ()
    extra: Any = None
    problem: str = ""


class Source(Protocol):
    """A data set in a form of its own; one module of this package for each. It travels to other processes."""

    @property
    def name(self) -> str:
        """As the command is called: `cityscapes`."""

    @property
    def root(self) -> Path:
        """The folder that is read."""

    @property
    def categories(self) -> CategoryTable:
        """The full table, classes without a segment included."""

    @property
    def settings(self) -> dict[str, Any]:
        """Whatever else decides the result, as JSON: how overlaps are resolved, say."""

    def splits(self) -> Sequence[str]:
        """Names of the splits that are there; DataError where there is none."""

    def images(self, split: str) -> Iterable[SourceImage]:
        """The images of a split in a fixed order, each with an id and a file name of its own.

        Nothing is decoded here, and no list of them is kept, for there may be millions. DataError, now or on the way,
        where the split is not there, or a picture lacks its labels.
        """

    def read(self, image: SourceImage, size: tuple[int, int]) -> PanopticMap:
        """The annotation of an image, of the height and width `size`, which are those of the picture as it is shown.

        Raises:
            DataError: the labels are missing or damaged, or do not fit.
        """


@runtime_checkable
class ReadsMore(Protocol):
    """A `Source` that reads other folders than `root`, into which nothing may be written."""

    @property
    def also_read(self) -> Sequence[Path]:
        """These folders."""


@runtime_checkable
class ReadsPanopticPngs(Protocol):
    """A `Source` that may read a panoptic PNG for every image, so that loading the faster decoder is worth it."""

    def reads_panoptic_pngs(self, split: str) -> bool:
        """Return whether it does so for this split."""


def listed_files(folder: Path, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> Iterator[Path]:
    """Files of the lower-case `suffixes` in `folder` and the folders below it, sorted; hidden ones are left out.

    Raises:
        DataError: `folder` is no folder or cannot be read, or a file in it is a link that leads out of it, or a link to
            a folder, which is not followed.
    """
    if not folder.is_dir():
        raise DataError(f"the folder {folder} does not exist; check the path (docs/data.md shows the folders expected)")
    for inner in _names_below(folder, ""):
        if PurePosixPath(inner).suffix.lower() in suffixes:
            yield name_inside(folder, inner, str(folder))


def listed_pngs(folder: Path) -> Iterator[Path]:
    """The PNGs, as `listed_files`."""
    return listed_files(folder, frozenset({".png"}))


def with_unused_labels(images: Iterable[SourceImage], found: Iterable[Path], pictures: Path) -> Iterator[SourceImage]:
    """`images`, and then a bad one for each of the label files `found` that none of them has.

    found: paths as `listed_files` and `name_inside` make them, like the labels of `images`: equal for equal files.
    pictures: the folder that lacks theirs.

    Where there are no images at all, that is what is wrong, and nothing is said of the labels.
    """
    used, is_empty = DiskList[str](key=str), True  # there may be millions
    for image in images:
        used.extend(map(str, image.labels))
        yield image
        is_empty = False
    for path in () if is_empty else found:
        if used.first(str(path)) is None:
            name = f"{path.absolute().as_posix().lstrip('/')}.bad"
            problem = (
                f"{path} has no picture in {pictures}; expected one of its name, upper and lower case alike, and "
                f"{path.suffix.lower()} in lower case; rename it, or restore the picture"
            )
            yield SourceImage(name, path, name, problem=problem)


def _names_below(folder: Path, prefix: str) -> Iterator[str]:
    """Names relative to `folder` of all that lies below `folder / prefix`, in the order of their parts.

    In memory are the names in one folder, and in those above it.
    """
    try:
        with os.scandir(folder / prefix) as entries:
            found = {entry.name: _is_folder(entry) for entry in entries if not entry.name.startswith(".")}
    except OSError as error:
        raise DataError(f"the folder {folder / prefix} cannot be read: {error.strerror}; check its rights") from error
    for name in sorted(found):
        yield f"{prefix}{name}"
        if found[name]:
            yield from _names_below(folder, f"{prefix}{name}/")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink() and entry.is_dir():
        raise DataError(
            f"{entry.path} is a link to a folder, which is not followed; put the folder itself there, or make the "
            "folder of the whole split a link"
        )
    return entry.is_dir()
