"""Files with categories: panoptic JSONs, and label maps from the labels of a network to category ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.images import read_bytes
from panformer_cli.errors import DataError
from panformer_cli.storage.plain_json import ObjectOf
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.wording import short


def read_categories(path: Path) -> CategoryTable:
    """Return the categories of a COCO panoptic JSON, or of a JSON that is only their list.

    Raises:
        DataError: The file is missing or corrupt, or a category is invalid.
    """
    content = _read_json(path, "a panoptic JSON")
    return CategoryTable.from_coco(content.get("categories") if isinstance(content, dict) else content, str(path))


def read_label_map(path: Path) -> dict[str, int]:
    """Return a label map, `{"person": 1, "3": 7}`: category ids by the name or the number of a label.

    Raises:
        DataError: The file is missing or corrupt, a key is repeated, or a category id is not a number.
    """
    repeated: list[str] = []

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return dict(pairs)

    content = _read_json(path, "a label map", checked)
    if repeated:
        raise DataError(f"{path}: the label {short(repeated[0])} is in the label map more than once; give it once")
    expected = 'expected category ids by label or name, such as {"person": 1, "3": 7}'
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: the label map is {short(content)}; {expected}")
    for key, value in content.items():
        if type(value) is not int:
            raise DataError(f"{path}: {short(key)} has the category id {short(value)}; {expected}")
    return dict(content)


def _read_json(path: Path, what: str, object_of: ObjectOf | None = None) -> Any:
    text = read_bytes(path, what.removeprefix("a "))
    try:
        return parse_json(text, object_of)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON, or is truncated: {error}; expected {what}") from error
