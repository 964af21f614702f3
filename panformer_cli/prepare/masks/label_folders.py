"""Find images and labels in parallel folders with the same splits.

ROOT/images/<split>/**/<name>.jpg    with, for example, ROOT/masks/<split>/**/<name>.png
ROOT/images/<name>.jpg               with ROOT/masks/<name>.png: a single split, called `train`
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from panformer_cli.data.image_formats import is_clutter
from panformer_cli.data.images import IMAGE_SUFFIXES
from panformer_cli.data.layout import check_split_name
from panformer_cli.errors import DataError
from panformer_cli.prepare.source import listed_files
from panformer_cli.prepare.unused_files import unreadable_images
from panformer_cli.storage.files import name_inside

SINGLE_SPLIT = "train"
"""Name of the split if `images` has no subfolders."""


class ImageFile(NamedTuple):
    """An image file; `name` is its path relative to the folder of its split, with `/` as separator."""

    path: Path
    name: str

    @property
    def stem(self) -> str:
        """The name without its suffix, which its labels share."""
        return self.name[: -len(self.path.suffix)]


def find_splits(root: Path) -> list[str]:
    """Return the sorted subfolders of `images`, or a single split if it contains the images directly.

    Raises:
        DataError: The folder is missing or empty, or contains both.
    """
    images = root / "images"
    if not images.is_dir():
        raise DataError(f"the folder {images} does not exist; expected images/<split>/ in the --root folder")
    entries = [path for path in images.iterdir() if not path.name.startswith(".") and not is_clutter(path.name)]
    splits = sorted(path.name for path in entries if path.is_dir())
    has_images = any(path.suffix.lower() in IMAGE_SUFFIXES for path in entries if path.is_file())
    if bool(splits) == has_images:
        found = "both images and folders" if splits else "neither images nor folders"
        found += "" if splits else unreadable_images(images)
        raise DataError(f"{images} contains {found}; expected one folder per split, or the images of a single split")
    return splits or [SINGLE_SPLIT]


def split_folder(root: Path, kind: str, split: str) -> Path:
    """Return the folder `kind` (`images`, `masks`, ...) of a split.

    Raises:
        DataError: The split or the folder does not exist.
    """
    check_split_name(split)
    splits = find_splits(root)
    if split not in splits:
        raise DataError(f"no split {split!r} in {root / 'images'}; available splits: {', '.join(splits)}")
    is_single = splits == [SINGLE_SPLIT] and not (root / "images" / SINGLE_SPLIT).is_dir()
    folder = root / kind if is_single else root / kind / split
    if not folder.is_dir():
        raise DataError(f"the folder {folder} does not exist; expected it to contain the labels of {root / 'images'}")
    return folder


def label_png(folder: Path, image_file: ImageFile) -> Path:
    """Return the label PNG of an image in a folder of labels; it may be missing. Its suffix may be in uppercase."""
    path = name_inside(folder, f"{image_file.stem}.png", str(image_file.path))
    uppercase = path.with_suffix(".PNG")
    return uppercase if not path.exists() and uppercase.exists() else path


def image_files(root: Path, split: str) -> Iterator[ImageFile]:
    """Yield the images of a split, sorted. Raises as `split_folder` and `listed_files`."""
    folder = split_folder(root, "images", split)
    for path in listed_files(folder):
        yield ImageFile(path, path.relative_to(folder).as_posix())
