"""Labels of a network of transformers to categories of a data set.

The config of a network only has names. Categories have ids, and are things or stuff. Both come from the data set that
is evaluated, or else from the data sets that are known here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from panformer_cli.data import ade20k_classes, cityscapes_labels
from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.errors import DataError
from panformer_cli.models.hugging_face.settings import NO_CATEGORY
from panformer_cli.wording import counted, listing, short

COCO_THINGS = CategoryTable(COCO.categories[: COCO.num_things])
KNOWN = {
    "COCO": (COCO, COCO_THINGS),
    "ADE20K": (ade20k_classes.CATEGORIES,),
    "Cityscapes": (cityscapes_labels.CATEGORIES,),
}
"""Category tables by data set. Models for them have labels in the order of the ids."""
UNLIKE = 50
"""One of so many names may be unlike that of the known category."""
DETR_LABELS = 250
"""Number of labels of the published DETR models. They are COCO's category ids."""
DETR_LAST_THING = 90


@dataclass(frozen=True)
class Labels:
    """The meaning of the labels of a network.

    Attributes:
        categories: category table of the results.
        category_ids: category id of each label, or `NO_CATEGORY`.
        stuff_labels: labels without a category that are known to be stuff.
        data_set: key of `KNOWN`, or "" for any other data set.
        notes: what a user should know, one sentence each.
    """

    categories: CategoryTable
    category_ids: tuple[int, ...]
    stuff_labels: tuple[int, ...] = ()
    data_set: str = ""
    notes: tuple[str, ...] = ()

    def groups(self) -> tuple[int | None, ...]:
        """Return what masks of each label are merged with: one group per stuff class; None for things."""
        return groups(self.category_ids, self.stuff_labels, self.categories)


def groups(
    category_ids: Sequence[int], stuff_labels: Sequence[int], categories: CategoryTable
) -> tuple[int | None, ...]:
    """Return the group of each label, a number; labels of one stuff category share it, and things have none."""
    found: list[int | None] = []
    for label, number in enumerate(category_ids):
        if number != NO_CATEGORY:
            found.append(None if categories.by_id(number).is_thing else number)
        else:
            found.append(-1 - label if label in stuff_labels else None)
    return tuple(found)


@dataclass(frozen=True)
class LabelNames:
    """The labels of a network, as its files describe them.

    Attributes:
        names: name of each label.
        where: name of the checkpoint in messages.
        is_detr: whether the network is DETR, whose published models use COCO's category ids as labels.
        thing_labels: labels that are things, if a file of the checkpoint says so.
    """

    names: tuple[str, ...]
    where: str
    is_detr: bool = False
    thing_labels: frozenset[int] | None = None


def match_labels(
    labels: LabelNames, table: CategoryTable | None = None, label_map: Mapping[str, int] | None = None
) -> Labels:
    """Return the category of each label.

    Args:
        labels: the labels.
        table: categories of the data set; None for those of the checkpoint.
        label_map: category id by label (as text) or name; it decides instead of names.

    Raises:
        DataError: no label belongs to a category of `table`, or `label_map` has an unknown label or category.
    """
    own = _own_labels(labels)
    if label_map is not None:
        matched = _mapped(labels, own, table, label_map)
    elif table is None:
        return own
    else:
        matched = _matched(labels, own, table)
    return replace(matched, notes=tuple(_notes(labels, own, matched)))


def _own_labels(labels: LabelNames) -> Labels:
    """Return the labels with categories of a known data set, or else with one category for each label."""
    names = labels.names
    if labels.is_detr and len(names) == DETR_LABELS:
        ids = tuple(number if number in COCO else NO_CATEGORY for number in range(len(names)))
        stuff = tuple(n for n in range(DETR_LAST_THING + 1, len(names)) if n not in COCO)
        return Labels(COCO, ids, stuff, "COCO")
    if len(names) == len(COCO) and all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return Labels(COCO, tuple(category.id for category in COCO.categories), data_set="COCO")
    for data_set, tables in KNOWN.items():
        for table in tables:
            numbers = _ids_of_known(names, table)
            if numbers:
                only_things = "it was trained on things only, so no stuff is predicted"
                notes = (f"{labels.where}: {only_things}",) if table is COCO_THINGS else ()
                return Labels(table, numbers, (), data_set, notes)
    return _named(labels)


def _named(labels: LabelNames) -> Labels:
    """Return a table of the names themselves, with ids from 1."""
    things = labels.thing_labels
    table = CategoryTable(
        Category(label + 1, name, things is None or label in things) for label, name in enumerate(labels.names)
    )
    notes: tuple[str, ...] = ()
    if things is None:
        sentence = "its files do not say which labels are stuff, so all are treated as things"
        notes = (f"{labels.where}: {sentence}; give a category table (--categories)",)
    return Labels(table, tuple(range(1, len(labels.names) + 1)), (), "", notes)


def _matched(labels: LabelNames, own: Labels, table: CategoryTable) -> Labels:
    """Return the labels with categories of `table`: by the ids of a known data set, or else by name."""
    if own.data_set and table.has_labels_of(own.categories):
        return replace(own, categories=table)
    names = _known_names(own) if own.data_set else labels.names
    numbers = _ids_by_name(names, table)
    if all(number == NO_CATEGORY for number in numbers):
        theirs = listing((short(category.name) for category in table.categories), 3)
        raise DataError(
            f"{labels.where}: no label is a category of the data by name. The labels are "
            f"{listing(map(short, filter(None, names)), 3)}; the categories are {theirs}. Use a checkpoint for these "
            "categories, or a label map (--label-map), a JSON with the category id of each label"
        )
    return _with_stuff(own, Labels(table, numbers, data_set=own.data_set))


def _known_names(own: Labels) -> tuple[str, ...]:
    """Return the name of each label's category in the known data set; "" without a category."""
    return tuple("" if number == NO_CATEGORY else own.categories.by_id(number).name for number in own.category_ids)


def _with_stuff(own: Labels, found: Labels) -> Labels:
    """Return `found`, in which labels without a category are stuff if a known data set says so."""
    without = [label for label, number in enumerate(found.category_ids) if number == NO_CATEGORY]
    known = own.groups() if own.data_set else ()
    return replace(found, stuff_labels=tuple(label for label in without if known and known[label] is not None))


def _mapped(labels: LabelNames, own: Labels, table: CategoryTable | None, label_map: Mapping[str, int]) -> Labels:
    """Return the labels with the categories of a label map; labels that it lacks have none."""
    categories = own.categories if table is None else table
    names = _labels_by_name(labels, own)
    numbers = [NO_CATEGORY] * len(labels.names)
    for key, number in label_map.items():
        if number not in categories:
            owner, remedy = (
                ("model", ", or give another category table (--categories)") if table is None else ("data", "")
            )
            known = listing((category.id for category in categories.categories), 3)
            raise DataError(
                f"label map: {short(key)} has the category id {number}, which the {owner} does not have; expected one "
                f"of {known}{remedy}"
            )
        own_number = [int(key)] if re.fullmatch(r"[0-9]{1,6}", key) and int(key) < len(numbers) else []
        found = names.get(_normalized(key)) or own_number
        if not found:
            raise DataError(
                f"label map: {short(key)} is no label of {labels.where}; expected a number of 0 to "
                f"{len(numbers) - 1} or a name such as {listing(map(short, names), 3)}"
            )
        for label in found:
            if numbers[label] not in (NO_CATEGORY, number):
                raise DataError(
                    f"label map: label {label} has the category ids {numbers[label]} and {number}; give one"
                )
            numbers[label] = number
    if all(number == NO_CATEGORY for number in numbers):
        raise DataError("label map: it is empty; expected the category id of at least one label")
    return _with_stuff(own, Labels(categories, tuple(numbers), data_set=own.data_set))


def _labels_by_name(labels: LabelNames, own: Labels) -> dict[str, list[int]]:
    """Return the labels with each name: those of the files, then those of a known data set, normalized."""
    found: dict[str, list[int]] = {}
    for label, name in enumerate(labels.names):
        found.setdefault(_normalized(name), []).append(label)
    for label, name in enumerate(_known_names(own) if own.data_set else ()):
        if name and _normalized(name) not in found:
            found[_normalized(name)] = [label]
    return found


def _notes(labels: LabelNames, own: Labels, found: Labels) -> Iterable[str]:
    """Yield which categories no label has, and which labels have no category."""
    named = set(found.category_ids)
    missed = [category.name for category in found.categories.categories if category.id not in named]
    if missed:
        yield (
            f"{labels.where}: no label for {len(missed)} of {len(found.categories)} categories, which are never "
            f"predicted: {listing(missed, len(missed))}"
        )
    unused = [
        name
        for name, number, before in zip(labels.names, found.category_ids, own.category_ids, strict=True)
        if number == NO_CATEGORY and before != NO_CATEGORY
    ]
    if unused:
        yield (
            f"{labels.where}: {counted(len(unused), 'label')} without a category; their segments become void: "
            f"{listing(unused)}"
        )


def _ids_of_known(names: Sequence[str], table: CategoryTable) -> tuple[int, ...]:
    """Return the category ids if the names are those of a table; () for any other names.

    Names in the order of the ids only need a synonym in common, since lists of ADE20K's classes differ. A few may have
    none, if they name no other category.
    """
    if len(names) != len(table):
        return ()
    rows = sorted(table.categories, key=lambda category: category.id)
    own, others = [_synonyms(name) for name in names], [_synonyms(row.name) for row in rows]
    unlike = [one for one, other in zip(own, others, strict=True) if not one & other]
    if len(unlike) <= len(names) // UNLIKE and not set().union(*unlike) & set().union(*others):
        return tuple(row.id for row in rows)
    numbers = _ids_by_name(names, table)
    return numbers if NO_CATEGORY not in numbers and len(set(numbers)) == len(names) else ()


def _ids_by_name(names: Sequence[str], table: CategoryTable) -> tuple[int, ...]:
    """Return the category id of each name, or `NO_CATEGORY`. Whole names count before first parts."""
    lookups = [_lookup(table, of_table) for of_table in (_normalized, _first_part)]

    def found(name: str) -> int:
        for form in (_normalized(name), _first_part(name)):
            for lookup in lookups:
                if form in lookup:
                    return lookup[form]
        return NO_CATEGORY

    return tuple(found(name) for name in names)


def _lookup(table: CategoryTable, form: Callable[[str], str]) -> dict[str, int]:
    """Return the ids by a form of the names; forms that several categories have are left out."""
    forms = [(form(category.name), category.id) for category in table.categories]
    count = Counter(name for name, _ in forms)
    return {name: number for name, number in forms if name and count[name] == 1}


def _normalized(name: str) -> str:
    """Return a name for comparison: without case, and with `_`, `-` and spaces alike.

    >>> _normalized("Traffic_light "), _normalized("wall-brick")
    ('traffic light', 'wall brick')
    """
    return " ".join(re.split(r"[\s_-]+", name.casefold())).strip()


def _synonyms(name: str) -> set[str]:
    """Return the synonyms in a name, for comparison."""
    return {_normalized(part) for part in re.split("[,;]", name)} - {""}


def _first_part(name: str) -> str:
    """Return the part of a name before the first `,` or `;`, for comparison.

    >>> _first_part("painting, picture")
    'painting'
    """
    return _normalized(re.split("[,;]", name)[0])
