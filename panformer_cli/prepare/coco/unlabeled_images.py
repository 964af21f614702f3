"""Prepare COCO's test images, which have no annotations, only an image list."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from panformer_cli.data.coco.json_stream import read_members
from panformer_cli.data.image_header import read_header
from panformer_cli.data.layout import annotation_folders, check_root, find_images
from panformer_cli.data.parallel import map_in_order
from panformer_cli.errors import DataError
from panformer_cli.prepare.coco.unpack import names_in, unpack_files
from panformer_cli.prepare.coco.zips import unpack_images
from panformer_cli.prepare.convert import ConvertOptions, link_or_copy, refuse_bad_images
from panformer_cli.prepare.declared_size import check_numbers
from panformer_cli.prepare.source import listed_files
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import name_inside
from panformer_cli.wording import counted, short, with_first

INFO_ZIPS = "image_info_*.zip"


@dataclass(frozen=True)
class UnlabeledImages:
    """A test split: number of usable images, the image list, and the folder with exactly these images."""

    __test__ = False

    split: str
    images: int
    info: Path
    folder: Path


def is_unlabeled_split(split: str) -> bool:
    """Return whether a split has no public annotations: test2017, test-dev2017, test-challenge2017."""
    return re.fullmatch(r"test(-\w+)?\d{4}", split) is not None


def prepare_unlabeled_images(
    root: Path, split: str, options: ConvertOptions, reporter: Reporter, out: Path | None = None
) -> UnlabeledImages:
    """Unpack and check the images listed in `annotations/image_info_<split>.json`, and collect them in a folder.

    All test splits of a year share the folder or zip `test<year>`. The images of this split are linked (or copied) to
    `images/<split>`, so that `panformer predict` processes only these.

    Args:
        root: The COCO folder.
        split: Name of the test split.
        options: How to process the images.
        reporter: Receives progress and warnings.
        out: Folder for `images/<split>`. None is `root`.

    Raises:
        DataError: The list or the images are missing, or an image is missing, corrupt or has another size and may not
            be skipped.
        PanformerError: The disk is full, or a folder cannot be written.
    """
    check_root(root)
    info = _find_info(root, split, reporter)
    pool = f"test{split[-4:]}"
    unpack_images(root, pool, reporter)
    image_folder = find_images(root, pool)
    if image_folder is None:
        raise DataError(
            f"{root} has no images of {split}: looked for the folders images/{pool} and {pool}, and for {pool}.zip; "
            "add one of them, or use --download"
        )
    folder = (out or root) / "images" / split
    rows = _rows(info)
    work = partial(_link_image, info, image_folder, folder)
    with reporter.progress(f"checking {split}", len(rows)) as progress:
        found = []
        for problem in map_in_order(work, rows, options.workers):
            progress.advance()
            found.append(problem)
    problems = [problem for problem in found if problem]
    refuse_bad_images(problems, len(rows), str(info), options.skips_bad_images)
    if image_folder != folder:
        _refuse_other_images(
            folder, {row["file_name"] for row, problem in zip(rows, found, strict=True) if not problem}
        )
    if problems:
        reporter.warn(with_first(f"skipped {len(problems)} of {len(rows)} images of {split}:", problems))
    return UnlabeledImages(split, len(rows) - len(problems), info, folder)


def _find_info(root: Path, split: str, reporter: Reporter) -> Path:
    name = f"image_info_{split}.json"
    for folder in annotation_folders(root):
        if (folder / name).is_file():
            return folder / name
        for packed in [*folder.glob(INFO_ZIPS), *folder.parent.glob(INFO_ZIPS)]:
            if name in names_in(packed):
                folder.mkdir(parents=True, exist_ok=True)
                return unpack_files(packed, [name], folder, reporter)[0]
    raise DataError(
        f"{root} has no image list of {split}: looked for annotations/{name} and {INFO_ZIPS}; add COCO's "
        "image_info_test2017.zip, or use --download"
    )


def _rows(info: Path) -> list[Any]:
    lists = (value for key, value in read_members(info, "image list") if key == "images")
    rows = [row for value in lists if isinstance(value, Iterator) for row in value]
    if not rows:
        raise DataError(f"{info} lists no images; expected rows in `images`; restore the file")
    return rows


def _refuse_other_images(folder: Path, names: Collection[str]) -> None:
    """Raise a DataError if `folder` contains other images, which would be predicted too."""
    others = [path for path in listed_files(folder) if path.relative_to(folder).as_posix() not in names]
    if others:
        raise DataError(
            f"{folder} contains {counted(len(others), 'image')} outside of this split or unusable, such as "
            f"{others[0].name}; delete them, or choose another --out"
        )


def _link_image(info: Path, image_folder: Path, folder: Path, row: Any) -> str | None:
    """Link an image into `folder`; return a description of the problem if it cannot be used."""
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
        return f"{info}: an image is {short(row)}; expected an object with id, file_name, height and width"
    try:
        path = name_inside(image_folder, row["file_name"], str(info))
        check_numbers((row.get("height"), row.get("width")), f"{info}: the row of {row['file_name']}")
        stored = read_header(path).stored
    except DataError as error:
        return str(error)
    if stored != (row.get("height"), row.get("width")):
        listed = f"{row.get('width')}x{row.get('height')}"
        return f"{path} is {stored[1]}x{stored[0]} but {info} lists it as {listed} (width x height)"
    if image_folder != folder:
        link_or_copy(path, name_inside(folder, row["file_name"], str(info)))
    return None
