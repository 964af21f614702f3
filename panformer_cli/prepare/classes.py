"""Class files (CSV, YAML or text) for data sets whose labels do not name their classes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.json_values import is_text
from panformer_cli.data.images import read_bytes
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.labeled_shapes import VOID_LABELS
from panformer_cli.storage.plain_yaml import parse
from panformer_cli.storage.text_files import decode_text
from panformer_cli.wording import short

Color = tuple[int, int, int]

_COLUMNS = ("id", "name", "isthing", "kind", "color")
_KINDS = {"thing": True, "stuff": False}
_LABEL_MAP = re.compile(r"[^:]*:[0-9]+, ?[0-9]+, ?[0-9]+(:|$)")
"""A line of CVAT's labelmap.txt: name, color, parts and actions."""
_EXPECTED = "expected id, name, isthing (1 or 0; or kind: thing or stuff) and optionally color"


_NAMES_BESIDE = {"train", "val", "nc"}
"""Keys of YOLO's data.yaml beside `names`."""

TEXT = ".txt"
"""Suffix of a file with names only, which are numbered from 1."""

_MatchedBy = Literal["name", "id"]


def read_classes(path: Path, matched_by: _MatchedBy = "name", encoding: str | None = None) -> CategoryTable:
    """Return the classes in a CSV, YAML or text file, which is UTF-8 or has the `encoding` (see `decode_text`).

    CSV: a header `id,name,isthing` and optionally `color`, which is `#rrggbb` or three numbers 0..255 separated by
    spaces. A column `kind` with `thing` or `stuff` can replace `isthing`.

    YAML: one of
      - a list of such rows: `- {id: 1, name: car, isthing: 1, color: [0, 0, 142]}`
      - names with kinds, numbered from 1: `car: thing`
      - YOLO's data.yaml: `names`, a list numbered from 0 or a mapping from id to name. All classes are things except
        those in the list `stuff`.

    Text: one name per line; all are things.

    Args:
        path: The file.
        matched_by: What labels are matched by. Only names must be unique to be matched by. A text file has no ids.

    Raises:
        DataError: The file is missing or has another format, or an id or a name is repeated. The error names the line
            or row.
    """
    readers = {".csv": _rows_of_csv, ".yaml": _rows_of_yaml, ".yml": _rows_of_yaml}
    if matched_by == "name":
        readers[TEXT] = _rows_of_text
    if path.suffix.lower() not in readers:
        raise DataError(f"the class file {path} ends in {path.suffix!r}; expected {' or '.join(readers)}")
    return _table(path, readers[path.suffix.lower()](path, _text(path, encoding)), matched_by)


def read_class_names(path: Path, encoding: str | None = None) -> CategoryTable:
    """Return the classes in a text file of one name per line, such as YOLO's `classes.txt`, numbered from 0, as things.

    Raises:
        DataError: The file is missing or is not text.
    """
    lines = enumerate(_text(path, encoding).rstrip().splitlines())
    rows = ((f"{path}, line {number + 1}", {"id": number, "name": name, "isthing": 1}) for number, name in lines)
    return _table(path, rows, matched_by="id")


_Rows = Iterator[tuple[str, Mapping[str, Any]]]
"""Pairs of the row's location, as errors name it, and the row."""


def _table(path: Path, rows: _Rows, matched_by: _MatchedBy) -> CategoryTable:
    categories: list[Category] = []
    for where, row in rows:
        category = _category(row, where)
        for other in categories:
            if category.id == other.id or (category.name == other.name and matched_by == "name"):
                repeated = f"the id {category.id}" if category.id == other.id else f"the name {category.name!r}"
                raise DataError(f"{where}: {repeated} is used twice; expected a unique id and name for each class")
        categories.append(category)
    if not categories:
        raise DataError(f"the class file {path} lists no classes; {_EXPECTED}")
    return CategoryTable(categories)


def _text(path: Path, encoding: str | None) -> str:
    return decode_text(read_bytes(path, "class file"), path, encoding)


def _rows_of_csv(path: Path, text: str) -> _Rows:
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if not {"id", "name"} <= set(header) or len(set(header)) < len(header):
            raise DataError(
                f"{path}, line 1: the columns are {short(','.join(header))}; {_EXPECTED}, separated by commas"
            )
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if len(cells) not in (0, len(header)):
                raise DataError(f"{where}: {len(cells)} cells for {len(header)} columns; {_EXPECTED}")
            # An empty cell means the same as a missing one, but a name may be empty.
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=False) if cell.strip()}
            if row:
                yield where, {"name": "", **row}
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; expected comma-separated values") from error


def _rows_of_text(path: Path, text: str) -> _Rows:
    names = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    kept = [(number, name) for number, name in names if name and name not in VOID_LABELS]
    for class_id, (number, name) in enumerate(kept, 1):
        where = f"{path}, line {number}"
        if _LABEL_MAP.match(name) or name.startswith("#"):
            raise DataError(f"{where} is {short(name)}; expected a class name (for colors, use a CSV: {_EXPECTED})")
        yield where, {"id": class_id, "name": name, "isthing": 1}


def _rows_of_yaml(path: Path, text: str) -> _Rows:
    try:
        content = parse(text)
    except ValueError as error:
        raise DataError(f"the class file {path} is not plain YAML: {error}") from error
    if isinstance(content, list):
        for number, row in enumerate(content, 1):
            if not isinstance(row, dict):
                raise DataError(f"{path}, row {number} is {short(row)}; {_EXPECTED}")
            yield f"{path}, row {number}", row
    elif isinstance(content, dict) and isinstance(content.get("names"), list | dict):
        yield from _rows_of_yolo(path, content)
    elif isinstance(content, dict) and "names" in content and not _NAMES_BESIDE.isdisjoint(content):
        raise DataError(
            f"{path}: names is {short(content['names'])}; expected a list of class names, or ids with names"
        )
    elif isinstance(content, dict) and not _NAMES_BESIDE.isdisjoint(content):
        raise DataError(f"the class file {path} looks like YOLO's data.yaml but has no `names`; add the class names")
    elif isinstance(content, dict):
        for number, (name, kind) in enumerate(content.items(), 1):
            yield f"{path}, row {number}", {"id": number, "name": name, "kind": kind}
    else:
        raise DataError(
            f"the class file {path} contains {short(content)}; expected a list of classes, or names with kinds"
        )


def _rows_of_yolo(path: Path, content: Mapping[str, Any]) -> _Rows:
    """Yield the rows of a data.yaml. Its other keys (paths, `nc`) are ignored."""
    names, stuff = content["names"], content.get("stuff", [])
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(stuff, list):
        raise DataError(f"{path}: stuff is {short(stuff)}; expected a list of names")
    unknown = [name for name in stuff if name not in names.values()]
    if unknown:
        raise DataError(f"{path}: stuff lists {short(unknown[0])}, which is not in names; correct one of them")
    for number, name in names.items():
        yield f"{path}, names: {short(number)}", {"id": number, "name": name, "isthing": int(name not in stuff)}


def _category(row: Mapping[str, Any], where: str) -> Category:
    unknown = [str(key) for key in row if key not in _COLUMNS]
    missing = [key for key in ("id", "name") if key not in row]
    if unknown or missing or ("isthing" in row) == ("kind" in row):
        problem = f"unknown key {short(unknown[0])}" if unknown else "needs either isthing or kind"
        problem = f"missing {' and '.join(missing)}" if missing else problem
        raise DataError(f"{where}: {problem}; {_EXPECTED}")
    name = row["name"]
    if isinstance(name, bool) or not isinstance(name, str | int | float):
        raise DataError(f"{where}: the name is {short(name)}; expected text")
    if not is_text(str(name)):
        raise DataError(f"{where}: the name is {short(name)}, not valid Unicode; rename it")
    return Category(_id(row["id"], where), str(name).strip(), _is_thing(row, where), _color(row, where))


def _id(value: Any, where: str) -> int:
    """Return the id, which is a number in YAML and text in CSV."""
    number = _whole(value)
    if number is None or not 0 <= number < 10**9:
        raise DataError(f"{where}: the id is {short(value)}; expected an integer of 0 or more with at most 9 digits")
    return number


def _whole(value: Any) -> int | None:
    """Return a whole number in any notation, such as 7, `07` or `7.0`; None if the value is none.

    >>> [_whole(value) for value in ("07", " 7.0 ", 7.0, "7.5", "1e99999999", True)]
    [7, 7, 7, None, None, None]
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    if not number.is_finite() or abs(number) >= 10**9 or number != number.to_integral_value():
        return None
    return int(number)


def _is_thing(row: Mapping[str, Any], where: str) -> bool:
    if "kind" in row:
        kind = _KINDS.get(str(row["kind"]))
        if kind is None:
            raise DataError(f"{where}: the kind is {short(row['kind'])}; expected thing or stuff")
        return kind
    value = row["isthing"]
    number = int(value) if isinstance(value, bool) else _whole(value)
    if number not in (0, 1):
        raise DataError(f"{where}: isthing is {short(value)}; expected 1 (thing) or 0 (stuff)")
    return number == 1


def _color(row: Mapping[str, Any], where: str) -> Color | None:
    if "color" not in row:
        return None
    value = row["color"]
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        red, green, blue = bytes.fromhex(value[1:])
        return red, green, blue
    parts = value.split() if isinstance(value, str) else value
    if isinstance(parts, list) and len(parts) == 3:
        numbers = [int(part) if re.fullmatch(r"[0-9]{1,3}", str(part)) else -1 for part in parts]
        if all(0 <= number <= 255 for number in numbers):
            return numbers[0], numbers[1], numbers[2]
    hint = " (in YAML, # starts a comment: quote #rrggbb)" if value is None else ""
    raise DataError(f"{where}: the color is {short(value)}{hint}; expected #rrggbb or three numbers from 0 to 255")
