"""The labels of Mapillary Vistas, out of the files of the data set itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.images import read_bytes
from panformer_cli.errors import DataError
from panformer_cli.prepare.published.ready_panoptic import read_categories
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.wording import short


class VistasLabel(NamedTuple):
    """One label of `config_<version>.json`; its place in the list is its number in the instance maps.

    name: as `object--vehicle--car`; `readable`: as `Car`.
    is_evaluated: False for labels that are void in the benchmarks.
    """

    name: str
    readable: str
    is_thing: bool
    is_evaluated: bool
    color: tuple[int, int, int]


def read_config(path: Path) -> tuple[VistasLabel, ...]:
    """The labels of `config_<version>.json`.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        content = parse_json(read_bytes(path, "label list"))
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"the label list {path} is not valid JSON, or is truncated ({error}); restore the file"
        ) from error
    rows = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not 0 < len(rows) <= 256:
        raise DataError(f"the label list {path} lacks the list `labels` of 1 to 256 rows; restore the file")
    labels = tuple(_label(row, path) for row in rows)
    for names in ([label.name for label in labels], [label.readable for label in labels]):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"the label list {path} has {short(twice)} twice; expected a name for each label alone")
    return labels


def categories_of_config(labels: Sequence[VistasLabel]) -> CategoryTable:
    """The evaluated labels, numbered from 1, as the panoptic JSON of both versions numbers them."""
    evaluated = (label for label in labels if label.is_evaluated)
    return CategoryTable(
        Category(number, label.readable, label.is_thing, label.color) for number, label in enumerate(evaluated, 1)
    )


def categories_of_json(path: Path, labels: Sequence[VistasLabel] | None) -> CategoryTable:
    """The `categories` of a panoptic JSON, without those that `labels` say are not evaluated.

    Raises:
        DataError: the JSON is missing or damaged, or names a category that `labels` lack.
    """
    rows = read_categories(path)
    table = CategoryTable.from_coco(rows, str(path))  # which checks the rows
    if labels is None:
        return table
    evaluated = {row["id"] for row in rows if _label_of_row(row, labels, path).is_evaluated}
    return CategoryTable(category for category in table.categories if category.id in evaluated)


def category_of_label(labels: Sequence[VistasLabel], categories: CategoryTable, void: int) -> tuple[int, ...]:
    """The category id of each label; `void` for those that the table lacks."""
    id_of_name = {category.name: category.id for category in categories.categories}
    return tuple(id_of_name.get(label.readable, id_of_name.get(label.name, void)) for label in labels)


def _label_of_row(row: dict[str, Any], labels: Sequence[VistasLabel], path: Path) -> VistasLabel:
    """The panoptic JSON calls the name `supercategory`, and the readable name `name`."""
    for label in labels:
        if label.name in (row.get("supercategory"), row["name"]) or label.readable == row["name"]:
            return label
    raise DataError(
        f"{path}: the category {short(row['name'])} is not in the label list of this version; expected one release "
        "throughout; restore the two files"
    )


def _label(row: Any, path: Path) -> VistasLabel:
    fields: dict[str, Any] = dict(row) if isinstance(row, dict) else {}
    name, color = fields.get("name"), fields.get("color")
    readable = fields.get("readable", name)
    is_thing, is_evaluated = fields.get("instances"), fields.get("evaluate")
    has_color = (
        isinstance(color, list) and len(color) == 3 and all(type(part) is int and part in range(256) for part in color)
    )
    has_names = isinstance(name, str) and isinstance(readable, str)
    if not (has_names and has_color and {type(is_thing), type(is_evaluated)} == {bool}):
        raise DataError(
            f"the label list {path} has the row {short(row)}; expected name, readable, instances and evaluate (true or "
            "false) and color; restore the file"
        )
    return VistasLabel(str(name), str(readable), bool(is_thing), bool(is_evaluated), tuple(color or ()))
