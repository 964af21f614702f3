"""Files with the classes, and the names and colors that labeling tools accept."""

from __future__ import annotations

import csv
import io
import unicodedata
from pathlib import Path

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.prepare.sets.category_map import check_unique_names
from panformer_cli.storage.files import write_text
from panformer_cli.visualization.colors import category_colors

CLASSES = "classes.csv"
"""The class file with which a conversion of the exported labels gets the same category table."""


def check_names(categories: CategoryTable, where: str) -> None:
    """Raise a DataError unless a labeling tool keeps all class names as they are, and each names one class."""
    check_unique_names(categories, where)
    for category in categories.categories:
        name = category.name
        if not name or name != name.strip() or any(map(_is_control, name)):
            raise DataError(
                f"{where}: the category {category.id} is named {name!r}; expected a name without control characters "
                "and without spaces at its ends, which labeling tools remove; rename it with `panformer prepare-data "
                "remap`, or in the panoptic JSON"
            )


def _is_control(mark: str) -> bool:
    """Return whether XML, YAML or a list of lines cannot contain a character as it is."""
    return unicodedata.category(mark) in ("Cc", "Zl", "Zp") or mark in "\ufffe\uffff"


def write_classes(out: Path, categories: CategoryTable) -> None:
    """Write the categories to `classes.csv`, as `prepare.classes.read_classes` reads them."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["id", "name", "isthing", "color"])
    for category in categories.categories:
        color = "" if category.color is None else hexadecimal(category.color)
        rows.writerow([category.id, category.name, int(category.is_thing), color])
    write_text(out / CLASSES, text.getvalue())


def tool_colors(categories: CategoryTable) -> dict[str, str]:
    """Return a color `#rrggbb` for each class name: its own, or else one that is different from the others."""
    generated = category_colors(categories).tolist()
    return {
        category.name: hexadecimal(category.color or (red, green, blue))
        for category, (red, green, blue) in zip(categories.categories, generated, strict=True)
    }


def hexadecimal(color: tuple[int, int, int]) -> str:
    """Return a color as `#rrggbb`.

    >>> hexadecimal((0, 128, 255))
    '#0080ff'
    """
    return f"#{bytes(color).hex()}"
