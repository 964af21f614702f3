"""Map categories to new ones: from a user's YAML, or by merging the tables of two data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.images import read_bytes
from panformer_cli.errors import DataError
from panformer_cli.storage.plain_yaml import parse
from panformer_cli.wording import short

VOID = "void"
"""New name of categories to drop."""

_EXPECTED = "expected lines such as `truck: vehicle` or `sky: void`, or `map:` and `categories:`"


class NewCategories(NamedTuple):
    """The new table, and the new id of each old one; None is void."""

    table: CategoryTable
    new_id: dict[int, int | None]


def read_map(path: Path, categories: CategoryTable) -> NewCategories:
    """Return the categories that result from applying a YAML map to `categories`.

        map:
          truck: vehicle         # old name: new name
          car: vehicle
          sky: void              # dropped; categories that are not listed stay unchanged
        categories:              # only for properties that differ from the old category
          - {name: vehicle, id: 30, isthing: 1, color: [0, 0, 142]}

    Without `categories`, `map:` can be omitted. If the new name is an existing category, that category is used. Other
    new categories take kind and color from the first old category mapped to them, and the lowest free id.

    Raises:
        DataError: The file is missing or has another format, names an unknown category, merges things and stuff
            without specifying the kind, or leaves no category.
    """
    check_unique_names(categories, str(path))
    renamed, described = _read(path, categories)
    for name in set(described) - {*renamed.values()} - {category.name for category in categories.categories}:
        raise DataError(f"{path}: no category is mapped to {name!r}; add it to `map`, or remove it from `categories`")
    targets: dict[str, list[Category]] = {}
    for category in categories.categories:
        targets.setdefault(renamed.get(category.name, category.name), []).append(category)
    targets.pop(VOID, None)
    if not targets:
        raise DataError(f"{path}: all categories become void; expected at least one to remain")
    new = _new_categories(targets, described, categories, path)
    id_of_name = {category.name: category.id for category in new}
    names = {category.id: renamed.get(category.name, category.name) for category in categories.categories}
    try:
        table = CategoryTable(new)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return NewCategories(table, {old: id_of_name.get(name) for old, name in names.items()})


def merged_tables(first: CategoryTable, second: CategoryTable, where: str) -> NewCategories:
    """Merge two tables: equal names are one category; others of `second` keep their id or get the lowest free one.

    Raises:
        DataError: A name is a thing in one table and stuff in the other, or is repeated in one of them. `where` names
            the data sets.
    """
    check_unique_names(first, where)
    check_unique_names(second, where)
    table, new_id = list(first.categories), {}
    by_name = {category.name: category for category in first.categories}
    taken = {category.id for category in (*first.categories, *second.categories)}
    for category in second.categories:
        same = by_name.get(category.name)
        if same is not None and same.is_thing != category.is_thing:
            kinds = ["stuff", "a thing"][same.is_thing], ["stuff", "a thing"][category.is_thing]
            raise DataError(
                f"{where}: {category.name!r} is {kinds[0]} in the first and {kinds[1]} in the second; expected the "
                "same kind; rename one with --map"
            )
        if same is None:
            free = category.id if category.id not in first else _lowest_free(taken)
            taken.add(free)
            same = replace(category, id=free)
            table.append(same)
        new_id[category.id] = same.id
    return NewCategories(CategoryTable(table), dict(new_id))


def check_unique_names(categories: CategoryTable, where: str) -> None:
    """Raise a DataError if two categories have one name; `where` names the data set."""
    first: dict[str, Category] = {}
    for category in categories.categories:
        other = first.setdefault(category.name, category)
        if other is not category:
            raise DataError(
                f"{where}: the categories {other.id} and {category.id} are both named {category.name!r}; expected "
                "unique names; rename one in the panoptic JSON"
            )


def _read(path: Path, categories: CategoryTable) -> tuple[dict[str, str], dict[str, Mapping[str, Any]]]:
    """Return the new names by old ones, and the rows of `categories` by name."""
    try:
        content = parse(read_bytes(path, "category map").decode("utf-8"))
    except ValueError as error:  # includes UnicodeDecodeError
        raise DataError(f"the category map {path} cannot be read: {error}; {_EXPECTED}") from error
    if not isinstance(content, dict) or not content:
        raise DataError(f"the category map {path} is {short(content)}; {_EXPECTED}")
    has_map = set(content) <= {"map", "categories"} and isinstance(content.get("map"), dict)
    renamed, rows = (content["map"], content.get("categories") or []) if has_map else (content, [])
    known = {category.name for category in categories.categories}
    for old, new in renamed.items():
        if not isinstance(old, str) or not isinstance(new, str) or not new:
            raise DataError(f"the category map {path} has {short(old)}: {short(new)}; {_EXPECTED}")
        if old not in known:
            raise DataError(
                f"the category map {path} has {old!r}, which is not in the data set; expected one of "
                f"{short(', '.join(sorted(known)))}"
            )
    for row in rows if isinstance(rows, list) else [rows]:
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise DataError(f"the category map {path} has the category {short(row)}; expected an object with a name")
    return renamed, {row["name"]: row for row in rows}


def _new_categories(
    targets: Mapping[str, list[Category]],
    described: Mapping[str, Mapping[str, Any]],
    categories: CategoryTable,
    path: Path,
) -> list[Category]:
    by_name = {category.name: category for category in categories.categories}
    taken = {category.id for category in categories.categories if category.name in targets}
    taken |= {row["id"] for row in described.values() if isinstance(row.get("id"), int)}
    new: list[Category] = []
    for name, old in targets.items():
        like, row = by_name.get(name, old[0]), described.get(name, {})
        if name not in by_name:
            _check_kinds(name, old, row, path)
            like = replace(like, id=row.get("id") or _lowest_free(taken), name=name)
        taken.add(like.id)
        color = {"color": list(like.color)} if like.color else {}
        new_row = {"id": like.id, "name": name, "isthing": int(like.is_thing), **color, **row}
        new += CategoryTable.from_coco([new_row], str(path)).categories
    return new


def _check_kinds(name: str, old: Iterable[Category], row: Mapping[str, Any], path: Path) -> None:
    if "isthing" not in row and len({category.is_thing for category in old}) > 1:
        raise DataError(
            f"{path}: things and stuff are both mapped to {name!r}; specify the kind under `categories`, such as "
            f"{{name: {name}, isthing: 1}}"
        )


def _lowest_free(taken: Iterable[int]) -> int:
    numbers = set(taken)
    return next(number for number in range(1, len(numbers) + 2) if number not in numbers)
