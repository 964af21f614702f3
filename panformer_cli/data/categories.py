"""The category table of a data set: maps dataset ids to model labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from panformer_cli.data.coco.json_values import is_text
from panformer_cli.errors import DataError
from panformer_cli.wording import short


@dataclass(frozen=True)
class Category:
    """One row of the table.

    Attributes:
        id: the data set's own id (any non-negative integer, gaps allowed).
        name: human-readable name.
        is_thing: True for countable objects, False for stuff.
        color: RGB 0..255, or None if the annotation gives none.
    """

    id: int
    name: str
    is_thing: bool
    color: tuple[int, int, int] | None = None


class NameProblem(NamedTuple):
    """Something unusual about the name of a category, which panformer and other tools accept.

    Attributes:
        is_repeated: Whether two categories have the same name, or else the name is empty, a number or not text.
        sentence: What was found and what was expected.
    """

    is_repeated: bool
    sentence: str


class CategoryTable:
    """Things first, then stuff, each group in ascending dataset id (docs/model.md, "Categories").

    A *label* is a position in this order: 0 .. num_things - 1 are things, num_things .. len - 1 are stuff. Models and
    losses use labels, files use dataset ids.
    """

    def __init__(self, categories: Iterable[Category]) -> None:
        ordered = sorted(categories, key=lambda category: (not category.is_thing, category.id))
        if not ordered:
            raise DataError("the category table is empty: expected at least one category with id, name and isthing")
        for category in ordered:
            if not is_text(category.name):
                raise DataError(f"category {category.id} has the name {category.name!r}, not valid Unicode; rename it")
        self.categories: tuple[Category, ...] = tuple(ordered)
        self._label_of_id = {category.id: label for label, category in enumerate(ordered)}
        if len(self._label_of_id) != len(ordered):
            ids = [category.id for category in ordered]
            twice = sorted({i for i in ids if ids.count(i) > 1})
            raise DataError(f"category ids {twice} appear more than once; expected a unique id per category")

    @property
    def num_things(self) -> int:
        return sum(category.is_thing for category in self.categories)

    @property
    def num_stuff(self) -> int:
        return len(self.categories) - self.num_things

    def __len__(self) -> int:
        return len(self.categories)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CategoryTable) and self.categories == other.categories

    def __hash__(self) -> int:
        return hash(self.categories)

    def __contains__(self, category_id: int) -> bool:
        return category_id in self._label_of_id

    def has_labels_of(self, other: CategoryTable) -> bool:
        """Return whether every label means the same category in both tables; names and colors may differ."""
        own, others = ([(row.id, row.is_thing) for row in table.categories] for table in (self, other))
        return own == others

    def label(self, category_id: int) -> int:
        """Return the label of a dataset id; KeyError if the table has no such id."""
        return self._label_of_id[category_id]

    def by_id(self, category_id: int) -> Category:
        """Return the row of a dataset id; KeyError if the table has no such id."""
        return self.categories[self._label_of_id[category_id]]

    def by_label(self, label: int) -> Category:
        return self.categories[label]

    @classmethod
    def from_coco(cls, rows: Any, where: str) -> CategoryTable:
        """Return the table in the `categories` list of a COCO panoptic JSON.

        Args:
            rows: `[{"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]}, ...]`; `color` is optional.
            where: name of the file in errors.

        Raises:
            DataError: the list or one of its rows is invalid.
        """
        if not isinstance(rows, list) or not rows:
            raise DataError(
                f"{where}: the category table is empty; expected a list `categories` with id, name and isthing"
            )
        categories = [_category_of_row(row, where) for row in rows]
        try:
            return cls(categories)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error

    def name_problems(self) -> Iterator[NameProblem]:
        """Yield what is unusual about the names, such as two equal ones."""
        return name_problems((category.id, category.name) for category in sorted(self.categories, key=_id))

    def to_coco(self) -> list[dict[str, Any]]:
        """Return the `categories` list of a COCO panoptic JSON; `from_coco` reads it back to an equal table."""
        rows = []
        for category in self.categories:
            row = asdict(category)
            row["isthing"] = int(row.pop("is_thing"))
            if row["color"] is None:
                del row["color"]
            else:
                row["color"] = list(row["color"])
            rows.append(row)
        return rows


def _id(category: Category) -> int:
    return category.id


def name_of(value: Any) -> str:
    """Return the name of a category in a JSON, which may be a number, or null if there is none."""
    return "" if value is None else str(value)


def name_problems(names: Iterable[tuple[int, Any]]) -> Iterator[NameProblem]:
    """Yield the problems of category names, given as pairs of id and name; the name may be any JSON value.

    >>> [problem.sentence.partition(";")[0] for problem in name_problems([(1, "cat"), (2, "cat"), (3, 7), (4, " ")])]
    ["categories 1 and 2 are both named 'cat'", 'category 3 has the name 7, a number', 'category 4 has an empty name']
    """
    first: dict[str, int] = {}
    for category_id, name in names:
        text = name_of(name).strip()
        if text and first.setdefault(text, category_id) != category_id:
            sentence = f"categories {first[text]} and {category_id} are both named {short(name)}; expected unique names"
            yield NameProblem(True, sentence)
        found = "an empty name" if not text else f"the name {short(name)}"
        if text and _is_number(text):
            found += ", a number"
        elif text and not isinstance(name, str):
            found += ", which is not text"
        elif text:
            continue
        yield NameProblem(False, f"category {category_id} has {found}; expected words that describe the category")


def ids_by_name(names: Sequence[tuple[int, str]], table: CategoryTable) -> dict[int, int] | None:
    """Return the id in `table` of each category of another table, by name, if a name has another id there.

    Names are compared without case and outer spaces. Names that a table has twice or lacks contradict nothing and have
    no counterpart.

    Args:
        names: Id and name of each category of the other table.
        table: The table with the ids to use.

    Returns:
        For each id of `names` with a counterpart its id in `table`; None if all of them have the same id in both.

    >>> table = CategoryTable([Category(1, "cat", True), Category(2, "dog", True), Category(3, "Sky", False)])
    >>> ids_by_name([(2, "cat"), (1, "dog"), (3, "sky"), (9, "sun")], table)
    {2: 1, 1: 2, 3: 3}
    """
    own = _id_of_name(names)
    other = _id_of_name((category.id, category.name) for category in table.categories)
    pairs = {own[name]: other[name] for name in own if name in other}
    return pairs if any(first != second for first, second in pairs.items()) else None


def _id_of_name(names: Iterable[tuple[int, str]]) -> dict[str, int]:
    """Return the id of each name that occurs once."""
    rows = [(category_id, name.strip().casefold()) for category_id, name in names]
    count = Counter(name for _, name in rows)
    return {name: category_id for category_id, name in rows if name and count[name] == 1}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return not text.isalpha()  # `nan` and `infinity` are words


def _category_of_row(row: Any, where: str) -> Category:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: a category is {row!r}; expected an object with id, name and isthing")
    missing = [key for key in ("id", "name", "isthing") if key not in row]
    if missing:
        raise DataError(f"{where}: the category {dict(row)!r} has no {', '.join(missing)}; expected id, name, isthing")
    if not isinstance(row["id"], int) or isinstance(row["id"], bool) or row["id"] < 0:
        raise DataError(f"{where}: a category has the id {row['id']!r}; expected an integer of 0 or more")
    if row["isthing"] not in (0, 1):
        raise DataError(
            f"{where}: category {row['id']} has isthing {row['isthing']!r}; expected 1 (thing) or 0 (stuff)"
        )
    return Category(
        id=row["id"],
        name=name_of(row["name"]),
        is_thing=bool(row["isthing"]),
        color=_color_of(row, where),
    )


def _color_of(row: Mapping[str, Any], where: str) -> tuple[int, int, int] | None:
    color = row.get("color")
    if color is None:
        return None
    if (
        not isinstance(color, list)
        or len(color) != 3
        or not all(type(part) is int and part in range(256) for part in color)
    ):
        raise DataError(f"{where}: category {row['id']} has the color {color!r}; expected [red, green, blue], 0 to 255")
    red, green, blue = color
    return red, green, blue
