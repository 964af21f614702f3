"""In which form a benchmark takes panoptic results; docs/submission.md says where each rule comes from.

All forms are COCO's layout: a zip `NAME.zip` holds `NAME.json` and the PNGs `NAME/*.png`. They differ in the names, in
the image ids and in the categories.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from panformer_cli.data import cityscapes_labels
from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.images import read_bytes
from panformer_cli.errors import DataError
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.wording import short

FormName = Literal["coco", "cityscapes", "ade20k", "mapillary"]
FORM_NAMES: tuple[FormName, ...] = get_args(FormName)

ImageId = int | str


@dataclass(frozen=True)
class Form:
    """The rules of a benchmark.

    zip_name: what the zip is called, for a person to read.
    stem: regular expression of that name without `.zip`; None where any name will do.
    image_id: regular expression of the image ids, which are then the beginning of the image's file name; None where the
        ids are those of the image info.
    categories: of the benchmark; None where the image info has to say them.
    """

    zip_name: str
    stem: str | None = None
    image_id: str | None = None
    categories: CategoryTable | None = None

    def check_name(self, zip_path: Path) -> None:
        """Raise a DataError where a server would not know the zip by its name."""
        if zip_path.suffix != ".zip" or not self.knows(zip_path.stem):
            raise DataError(f"the submission is to be called {zip_path.name}; expected a name such as {self.zip_name}")

    def knows(self, stem: str) -> bool:
        """Whether `stem` is a name, without its ending, that this form allows."""
        return self.stem is None or re.fullmatch(self.stem, stem) is not None

    def server_id(self, image_id: ImageId, file_name: str) -> ImageId:
        """The id that the benchmark knows an image by.

        Raises:
            DataError: neither the id nor the file name shows it.
        """
        if self.image_id is None:
            return image_id
        for text in (str(image_id), PurePosixPath(file_name).name):
            if match := re.match(self.image_id, text):
                return match[0]
        raise DataError(
            f"image {image_id!r} with the file name {file_name!r} shows no Cityscapes id; "
            "expected a file name such as berlin_000000_000019_leftImg8bit.png"
        )


FORMS: dict[FormName, Form] = {
    "coco": Form(
        "panoptic_test-dev2017_<algorithm>_results.zip",
        stem=r"panoptic_(val2017|test-dev2017|test-challenge2017)_.+_results",
        categories=COCO,
    ),
    "cityscapes": Form(
        "cityscapes_panoptic_test.zip",
        image_id=r"[a-z-]+_[0-9]{6}_[0-9]{6}(?![0-9])",
        categories=cityscapes_labels.CATEGORIES,
    ),
    "ade20k": Form("ade20k_panoptic_val.zip"),
    "mapillary": Form("mapillary_panoptic_test.zip"),
}


@dataclass(frozen=True)
class ImageInfo:
    """An image of the benchmark.

    size: width and height in pixels; None where the image info does not say it.
    """

    file_name: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class ImageList:
    """What a submission is checked against: the images of a split, by the id of the benchmark, and the categories."""

    path: Path
    categories: CategoryTable
    images: dict[ImageId, ImageInfo] = field(repr=False)


def read_image_list(path: Path, form: Form) -> ImageList:
    """Read an image info JSON, such as `image_info_test-dev2017.json`; it needs no annotations.

    path: a JSON with `images`, rows of id, file_name, width and height. Its `categories` are taken where every row has
        `isthing`, else those of the form: `image_info_test-dev2017.json` has rows without `isthing`.

    Raises:
        DataError: the file is missing or damaged, lists an image twice, or shows neither categories nor ids.
    """
    data = read_bytes(path, "image info")
    try:
        content = parse_json(data)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}); expected an image info with `images`") from error
    rows = content.get("images") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} lists no `images`; expected rows of id, file_name, width and height")
    images: dict[ImageId, ImageInfo] = {}
    for row in rows:
        image_id, info = _image_of_row(row, path, form)
        if image_id in images:
            raise DataError(f"{path}: image {image_id!r} is listed twice; expected an id of its own for every image")
        images[image_id] = info
    return ImageList(path, _categories(content.get("categories"), path, form), images)


def is_image_id(value: Any) -> bool:
    """Whether a value out of a JSON can be the id of an image."""
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _image_of_row(row: Any, path: Path, form: Form) -> tuple[ImageId, ImageInfo]:
    if not isinstance(row, Mapping) or not is_image_id(row.get("id")) or not isinstance(row.get("file_name"), str):
        raise DataError(f"{path}: an image is {short(row)}; expected an object with id and file_name")
    width, height = row.get("width"), row.get("height")
    size = (width, height) if type(width) is int and type(height) is int else None
    return form.server_id(row["id"], row["file_name"]), ImageInfo(row["file_name"], size)


def _categories(rows: Any, path: Path, form: Form) -> CategoryTable:
    told = isinstance(rows, list) and all(isinstance(row, Mapping) and "isthing" in row for row in rows)
    if told and rows:
        return CategoryTable.from_coco(rows, str(path))
    if form.categories is None:
        raise DataError(f"{path} lacks `categories` with isthing; add the list from the panoptic JSON of the data set")
    return form.categories
