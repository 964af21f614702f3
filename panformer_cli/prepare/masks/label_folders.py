"""A folder `images` with folders of labels beside it, all divided into the same splits.

ROOT/images/<split>/**/<name>.jpg    with, say, ROOT/masks/<split>/**/<name>.png
ROOT/images/<name>.jpg               with ROOT/masks/<name>.png: a single split, called `train`
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from panformer_cli.data.images import IMAGE_SUFFIXES
from panformer_cli.data.layout import check_split_name
from panformer_cli.errors import DataError
from panformer_cli.prepare.source import listed_files

SINGLE_SPLIT = "train"
"""What the images are called where `images` has no sub-folders."""


class Picture(NamedTuple):
    """path: of the image file; name: the same below the folder of its split, with `/` between folders."""

    path: Path
    name: str

    @property
    def stem(self) -> str:
        """The name without its suffix: what its labels are called."""
        return self.name[: -len(self.path.suffix)]


def find_splits(root: Path) -> list[str]:
    """The sub-folders of `images`, sorted; one split where it holds the images themselves.

    Raises:
        DataError: there is no such folder, it is empty, or it holds both.
    """
    images = root / "images"
    if not images.is_dir():
        raise DataError(f"the folder {images} does not exist; expected images/<split>/ in the --root folder")
    entries = [path for path in images.iterdir() if not path.name.startswith(".")]
    splits = sorted(path.name for path in entries if path.is_dir())
    has_pictures = any(path.suffix.lower() in IMAGE_SUFFIXES for path in entries if path.is_file())
    if bool(splits) == has_pictures:
        found = "both images and folders" if splits else "neither images nor folders"
        raise DataError(f"{images} holds {found}; expected a folder for each split, or the images of a single one")
    return splits or [SINGLE_SPLIT]


def split_folder(root: Path, kind: str, split: str) -> Path:
    """The folder `kind` (`images`, `masks`) of a split.

    Raises:
        DataError: there is no such split or folder.
    """
    check_split_name(split)
    splits = find_splits(root)
    if split not in splits:
        raise DataError(f"no split {split!r} in {root / 'images'}; splits there: {', '.join(splits)}")
    is_single = splits == [SINGLE_SPLIT] and not (root / "images" / SINGLE_SPLIT).is_dir()
    folder = root / kind if is_single else root / kind / split
    if not folder.is_dir():
        raise DataError(f"the folder {folder} does not exist; expected the labels of {root / 'images'} there")
    return folder


def pictures(root: Path, split: str) -> Iterator[Picture]:
    """The images of a split, sorted; errors as `split_folder` and `listed_files`."""
    folder = split_folder(root, "images", split)
    for path in listed_files(folder):
        yield Picture(path, path.relative_to(folder).as_posix())
