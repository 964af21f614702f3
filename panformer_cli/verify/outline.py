"""First pass over a panoptic JSON: read its categories and its list of images compactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from panformer_cli.data.categories import CategoryTable, name_problems
from panformer_cli.data.coco.json_stream import read_panoptic_members
from panformer_cli.data.coco.json_values import is_count, is_image_id
from panformer_cli.data.disk_list import DiskList
from panformer_cli.errors import DataError
from panformer_cli.verify.findings import Finding, Findings, Problem
from panformer_cli.wording import short

ImageId = int | str


@dataclass(frozen=True, slots=True)
class ListedImage:
    """A row of `images`.

    Attributes:
        index: Index in the list.
        file_name: Name of the image file.
        height: Unchecked height in the JSON; None if missing.
        width: Unchecked width in the JSON; None if missing.
    """

    index: int
    file_name: str
    height: Any
    width: Any


@dataclass
class Outline:
    """Data needed to check annotations.

    Attributes:
        images: Images by id (the first row of each counts); None if the list is missing or has no usable row.
        is_thing: `isthing` by category id, None if invalid; None if the list is missing or has no usable row.
        annotations: Number of annotations; None if there are none.
        has_bad_images: Whether a row of `images` is unusable, so that unlisted images cannot be determined.
    """

    images: DiskList[tuple[ImageId, ListedImage]] | None = None
    is_thing: dict[int, bool | None] | None = None
    annotations: int | None = None
    has_bad_images: bool = False


def read_outline(path: Path, findings: Findings) -> Outline | None:
    """Read and check `images` and `categories`; return None if the file is not valid JSON, which is reported."""
    outline = Outline()
    try:
        for key, value in read_panoptic_members(path):
            if key == "images" and isinstance(value, Iterator):
                images = DiskList(_read_images(value, path, outline, findings), key=itemgetter(0))
                _report_repeated(images, path, findings)
                outline.images = images if len(images) else None
            elif key == "categories" and isinstance(value, Iterator):
                outline.is_thing = _read_categories(value, path, findings) or None
            elif key == "annotations" and isinstance(value, Iterator):
                outline.annotations = sum(1 for _ in value) or None
    except DataError as error:
        findings.add(Finding(Problem.JSON_DAMAGED, str(error)))
        return None
    lists = {"images": outline.images, "annotations": outline.annotations, "categories": outline.is_thing}
    for key, found in lists.items():
        if found is None:
            sentence = f"{path} has no list `{key}` with usable rows; expected a COCO panoptic JSON"
            findings.add(Finding(Problem.JSON_LISTS, sentence))
    return outline


def _read_images(
    rows: Iterable[Any], path: Path, outline: Outline, findings: Findings
) -> Iterator[tuple[ImageId, ListedImage]]:
    for index, row in enumerate(rows):
        name = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(row, dict) or not is_image_id(row.get("id")) or not isinstance(name, str) or not name:
            sentence = f"{path}: row {index} of images is {short(row)}; expected an object with id and file_name"
            findings.add(Finding(Problem.IMAGE_ROW, sentence))
            outline.has_bad_images = True
        else:
            yield row["id"], ListedImage(index, name, row.get("height"), row.get("width"))


def _report_repeated(images: DiskList[tuple[ImageId, ListedImage]], path: Path, findings: Findings) -> None:
    for index in images.repeats():
        image_id, listed = images[index]
        _, first = images[next(images.positions(image_id))]
        names = [short(name) for name in dict.fromkeys((first.file_name, listed.file_name))]
        found = "both have" if len(names) > 1 else "is listed twice with"
        sentence = f"{path}: {' and '.join(names)} {found} the id {short(image_id)}; expected unique ids"
        findings.add(Finding(Problem.IMAGE_TWICE, sentence))


def _read_categories(rows: Iterable[Any], path: Path, findings: Findings) -> dict[int, bool | None]:
    is_thing: dict[int, bool | None] = {}
    names: list[tuple[int, Any]] = []
    for row in rows:
        try:
            (category,) = CategoryTable.from_coco([row], str(path)).categories
        except DataError as error:
            has_id = isinstance(row, dict) and is_count(row.get("id"), 0)
            is_unclear = has_id and row.get("isthing") not in (0, 1)
            findings.add(Finding(Problem.IS_THING if is_unclear else Problem.CATEGORY_ROW, str(error)))
            if has_id:  # so that its segments do not count as having an unknown category
                is_thing.setdefault(row["id"], None)
            continue
        if category.id in is_thing:
            sentence = f"{path}: category id {category.id} appears twice; expected unique ids"
            findings.add(Finding(Problem.CATEGORY_TWICE, sentence))
        else:
            names.append((category.id, row["name"]))
        is_thing.setdefault(category.id, category.is_thing)
    for problem in name_problems(names):
        kind = Problem.CATEGORY_NAME_TWICE if problem.is_repeated else Problem.CATEGORY_NAME
        findings.add(Finding(kind, f"{path}: {problem.sentence}"))
    return is_thing
