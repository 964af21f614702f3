"""Finds the parts of a COCO panoptic data set on disk.

Three layouts are supported, where `<split>` is a name such as `val2017`:

    ROOT/images/<split>/*.jpg    ROOT/annotations/panoptic_<split>.json    ROOT/annotations/panoptic_<split>/*.png
    ROOT/<split>/*.jpg           the same annotations
    datasets/coco/<split>/*.jpg  datasets/annotations/..., with `datasets` or `datasets/coco` as ROOT
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from panformer_cli.errors import DataError
from panformer_cli.storage.files import is_file, name_inside

_LOG = logging.getLogger(__name__)

OUTER_ZIPS = "panoptic_annotations*.zip"
"""COCO's name of the download that contains the panoptic JSON files and the zips of their PNGs."""
HOW_TO_NAME = "pass its path (train: --set data.root=DIR; evaluate, visualize: --data DIR; prepare-data: --root DIR)"


@dataclass(frozen=True)
class SplitLayout:
    """The parts of one split; all three exist.

    Attributes:
        images: folder of the image files.
        annotation: the panoptic JSON.
        pngs: folder of the panoptic PNGs.
    """

    images: Path
    annotation: Path
    pngs: Path


def find_split(root: Path, split: str) -> SplitLayout:
    """Return the parts of `split` in the data set folder `root`.

    Raises:
        DataError: `root` is not a folder, has no such split, or the split has no images or PNGs.
    """
    check_root(root)
    check_split_name(split)
    annotation = find_annotation(root, split)
    if annotation is None:
        raise _no_annotation(root, split)
    images = find_images(root, split)
    if images is None:
        raise _no_images(root, split, annotation)
    pngs = annotation.with_suffix("")
    if not pngs.is_dir():
        raise _no_pngs(root, split, pngs)
    layout = SplitLayout(images, annotation, pngs)
    _LOG.debug("Split %s: %s", split, layout)
    return layout


def find_splits(root: Path) -> list[str]:
    """Return the sorted names of the splits in `root`: panoptic JSONs with images or PNGs, as folders or as zips.

    Raises:
        DataError: `root` is not a folder.
    """
    check_root(root)
    jsons = [path for folder in annotation_folders(root) for path in folder.glob("panoptic_*.json")]
    # `panoptic_coco_categories.json` and our `..._detection_format.json` match the pattern but have no images.
    return sorted({split for split in map(_split_of, jsons) if _has_content(root, split)})


def default_split(root: Path, preferred: str) -> str:
    """Return the split that a command uses if the user names none: the rule of all commands.

    It is `preferred`, if it exists; else the only split; else the only one whose name starts with `val`.

    Args:
        root: folder of the data set.
        preferred: such as the validation split that a checkpoint was trained with.

    Raises:
        DataError: `root` is not a folder, has no split, or has several splits to choose from.
    """
    check_root(root)
    if find_annotation(root, preferred) is not None:
        return preferred
    splits = find_splits(root)
    validation = [split for split in splits if split.startswith("val")]
    for candidates in (splits, validation):
        if len(candidates) == 1:
            return candidates[0]
    if not splits:
        raise _no_annotation(root, preferred)
    raise DataError(f"{root} has the splits {', '.join(splits)}; choose one of them with --split")


def check_root(root: Path) -> None:
    """Raise DataError unless `root` is a folder."""
    if not root.exists():
        raise DataError(
            f"the data folder {root} does not exist; expected a folder in COCO's layout with images/<split>/ and "
            f"annotations/panoptic_<split>.json; {HOW_TO_NAME}"
        )
    if not root.is_dir():
        raise DataError(
            f"{root} is not a folder; expected the folder that holds annotations/panoptic_<split>.json and the "
            f"images; {HOW_TO_NAME}"
        )


def check_split_name(split: str) -> None:
    """Raise DataError unless `split` is a plain name; it becomes a part of paths."""
    if split in ("", ".", "..") or any(mark in split for mark in "/\\\0"):
        raise DataError(f"{split!r} is not a valid split name; expected a plain name such as val2017, without a folder")


def image_folders(root: Path, split: str) -> list[Path]:
    """Return the possible image folders of `split`, in order of preference."""
    return [folder for base in (root, root / "coco") for folder in (base / "images" / split, base / split)]


def annotation_folders(root: Path) -> list[Path]:
    """Return the possible annotation folders, in order of preference."""
    folders = [root / "annotations", root / "coco" / "annotations"]
    absolute = root.absolute()  # `resolve` would leave `datasets` if `coco` is a symbolic link
    if absolute.name == "coco":
        folders.append(absolute.parent / "annotations")
    return folders


def find_annotation(root: Path, split: str) -> Path | None:
    """Return the panoptic JSON of `split`, or None."""
    return _first_file(folder / f"panoptic_{split}.json" for folder in annotation_folders(root))


def find_images(root: Path, split: str) -> Path | None:
    """Return the image folder of `split`, or None."""
    return next((folder for folder in image_folders(root, split) if folder.is_dir()), None)


def photo_folder(annotation: Path) -> Path:
    """Return the image folder of a panoptic JSON in one of the layouts, or else the folder of the JSON."""
    root = annotation.absolute().parent.parent
    return find_images(root, _split_of(annotation)) or annotation.parent


def predicted_image(folder: Path, name: str, where: str) -> Path:
    """Return the image of a prediction in `folder`: at the name in the JSON, or else at its last part.

    Args:
        folder: the folder of the images, or of a part of them.
        name: `file_name` of the image.
        where: the file that contains the name, for errors.

    Raises:
        DataError: the name leads out of the folder.
    """
    path = name_inside(folder, name, where)
    return path if is_file(path) else name_inside(folder, path.name, where)


def annotation_of_images(folder: Path) -> Path | None:
    """Return the panoptic JSON of the split whose images are in `folder`, or None if it is no image folder of a split.

    It is the reverse of `find_split`: for `ROOT/images/val` it is `ROOT/annotations/panoptic_val.json`.
    """
    absolute = folder.absolute()
    for root in (absolute.parent.parent, absolute.parent):
        annotation = find_annotation(root, absolute.name)
        if annotation is not None and find_images(root, absolute.name) == absolute:
            return annotation
    return None


def find_image_zip(root: Path, split: str) -> Path | None:
    """Return `<split>.zip` beside one of the possible image folders, or None."""
    return _first_file(folder.with_name(f"{split}.zip") for folder in image_folders(root, split))


def find_outer_zips(root: Path) -> list[Path]:
    """Return downloads such as `panoptic_annotations_trainval2017.zip`, in an annotation folder or beside one."""
    folders = [folder for inner in annotation_folders(root) for folder in (inner, inner.parent)]
    return sorted({path for folder in folders for path in folder.glob(OUTER_ZIPS)})


def _split_of(annotation: Path) -> str:
    return annotation.stem.removeprefix("panoptic_")


def _has_content(root: Path, split: str) -> bool:
    pngs = [folder / f"panoptic_{split}" for folder in annotation_folders(root)]
    return (
        find_images(root, split) is not None
        or find_image_zip(root, split) is not None
        or any(folder.is_dir() or folder.with_name(f"{folder.name}.zip").is_file() for folder in pngs)
    )


def _first_file(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _no_annotation(root: Path, split: str) -> DataError:
    looked = ", ".join(str(folder / f"panoptic_{split}.json") for folder in annotation_folders(root))
    start = f"no split {split!r} in {root}: looked for {looked}"
    outer = find_outer_zips(root)
    if outer:
        return DataError(f"{start}; {outer[0].name} is not unpacked yet: run `{_prepare(root)}`")
    splits = find_splits(root)
    if not splits:
        return DataError(f"{start}; found no other split; expected a folder in COCO's layout (docs/data.md)")
    close = get_close_matches(split, splits, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return DataError(f"{start}; available splits: {', '.join(splits)}{guess}")


def _no_images(root: Path, split: str, annotation: Path) -> DataError:
    zipped = find_image_zip(root, split)
    if zipped is not None:
        return DataError(f"the images of {split} are still packed in {zipped}: run `{_prepare(root)}`")
    looked = ", ".join(str(folder) for folder in image_folders(root, split))
    return DataError(f"{annotation} has no images: looked for the folders {looked}; put the images into one of them")


def _no_pngs(root: Path, split: str, pngs: Path) -> DataError:
    if pngs.with_name(f"{pngs.name}.zip").is_file():
        return DataError(f"the PNGs of {split} are still packed in {pngs}.zip: run `{_prepare(root)}`")
    return DataError(
        f"the folder of panoptic PNGs {pngs} is missing; expected one PNG for each image of {pngs.name}.json; "
        f"put the folder or COCO's {pngs.name}.zip there"
    )


def _prepare(root: Path) -> str:
    return f"panformer prepare-data coco --root {root}"
