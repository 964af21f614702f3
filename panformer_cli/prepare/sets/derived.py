"""`prepare-data subset`, `split`, `merge` and `remap`: derive data sets from COCO panoptic ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.layout import find_splits
from panformer_cli.errors import DataError
from panformer_cli.prepare.sets.both_sides import on_both_sides
from panformer_cli.prepare.sets.category_map import merged_tables, read_map
from panformer_cli.prepare.sets.choose import classes_of, listed, stratified
from panformer_cli.prepare.sets.existing import Chosen, ExistingSets, Originals, Part, unchanged
from panformer_cli.prepare.sets.replacement import Replacement, find_replacements
from panformer_cli.storage.files import resolve_links
from panformer_cli.wording import counted, listing


def subset(root: Path, splits: Sequence[str], images: int | Path, seed: int = 0) -> ExistingSets:
    """Return a source with some images of each split.

    Args:
        root: The data set.
        splits: The splits; if empty, all.
        images: Number of images per split, stratified by class, or a text file with one id or file name per line.
        seed: Random seed of the selection.

    Raises:
        DataError: A split cannot be used or has too few images, or the list has an image that is in none of them.
    """
    opened = open_splits(root, splits)
    data = list(opened.values())
    indices = listed(data, images) if isinstance(images, Path) else [_sample(one, images, seed) for one in data]
    chosen = {name: [Chosen(part, indices[part])] for part, name in enumerate(opened) if len(indices[part])}
    settings = {"images": str(images), "seed": seed}
    return _of_one_table("subset", root, data, chosen, settings)


def split(root: Path, name: str | None, val: float, seed: int = 0) -> ExistingSets:
    """Return a source that divides a split into `train` and `val`, stratified by class.

    Every class that is in two images or more is in both, if that is possible with this number of images.

    Args:
        root: The data set.
        name: The split. None is the only one.
        val: Fraction of validation images if below 1, else their number.
        seed: Random seed of the selection.

    Raises:
        DataError: The split cannot be used, or one of the two would be empty.
    """
    opened = open_splits(root, [name] if name else ())
    if len(opened) > 1:
        raise DataError(f"{root} has the splits {', '.join(opened)}; choose one of them with --split")
    (data,) = opened.values()
    count = round(val * len(data)) if val < 1 else val
    if not 0 < count < len(data) or count != int(count):
        raise DataError(
            f"--val {val:g} of the {len(data)} images in {root} is {count:g}; expected an integer that leaves at least "
            "one image in each split"
        )
    classes = classes_of(data)
    held_out = on_both_sides(classes, stratified(classes, int(count), seed))
    others = np.delete(np.arange(len(data)), held_out)
    sides = {"train": others, "val": held_out}
    chosen = {side: [Chosen(0, indices)] for side, indices in sides.items()}
    source = _of_one_table("split", root, [data], chosen, {"val": val, "seed": seed})
    return replace(source, remarks=tuple(_classes_missing(classes, sides, data.categories)))


def _classes_missing(
    classes: npt.NDArray[np.uint8], sides: Mapping[str, npt.NDArray[np.int64]], categories: CategoryTable
) -> Iterator[str]:
    """Yield a sentence for each side that has no image of a class that the data set has."""
    images = np.unpackbits(classes, axis=1).sum(axis=0, dtype=np.int64)
    for side, indices in sides.items():
        found = np.unpackbits(classes[indices], axis=1).sum(axis=0, dtype=np.int64)
        missing = [
            f"{categories.by_label(label).name} ({counted(int(images[label]), 'image')})"
            for label in np.flatnonzero((found == 0) & (images > 0)).tolist()
        ]
        if missing:
            yield f"{side} has no image of {counted(len(missing), 'class')}: {listing(missing)}"


def remap(root: Path, splits: Sequence[str], path: Path) -> ExistingSets:
    """Return a source that maps the categories of `splits` (all if empty) with the YAML `path`.

    Raises:
        DataError: As in `category_map.read_map`, or a split cannot be used.
    """
    opened = open_splits(root, splits)
    parts, chosen = [], {}
    for number, (name, data) in enumerate(opened.items()):
        new = read_map(path, data.categories)
        parts.append(Part(data, new.new_id))
        chosen[name] = [Chosen(number, range(len(data)))]
    return ExistingSets("remap", root, new.table, tuple(parts), chosen, {"map": path.read_text(encoding="utf-8")})


def merge(
    first: Path, second: Path, splits: Sequence[str], path: Path | None = None, replaces: bool = False
) -> ExistingSets:
    """Return a source that merges splits and categories of the same name from two data sets.

    Files of `second` are put in a folder with its name. Its images keep their ids unless `first` uses them.

    Args:
        first: The first data set.
        second: The second data set.
        splits: The splits; if empty, all. If `replaces`, those of `first`.
        path: Category map for `second`, as in `remap`.
        replaces: Add no image, but use the annotations of `second` for the images of `first` with the same file name,
            in any split.

    Raises:
        DataError: As in `category_map.read_map`, `merged_tables` and `find_replacements`, a split cannot be used, or
            both are the same folder.
    """
    if resolve_links(first) == resolve_links(second):
        raise DataError(f"{first} and {second} are the same data set; choose another one to merge")
    ours, theirs = open_splits(first, splits), open_splits(second, () if replaces else splits)
    table = table_of_splits(first, ours)
    mapped = read_map(path, table_of_splits(second, theirs)) if path else None
    merged = merged_tables(table, mapped.table if mapped else table_of_splits(second, theirs), f"{first} and {second}")
    second_id = merged.new_id
    if mapped:
        second_id = {old: None if new is None else merged.new_id[new] for old, new in mapped.new_id.items()}
    parts = [Part(data, unchanged(table)) for data in ours.values()]
    parts += [Part(data, second_id) for data in theirs.values()]
    settings: dict[str, Any] = {
        "second": str(resolve_links(second)),
        "map": path.read_text(encoding="utf-8") if path else None,
    }
    if replaces:
        found = find_replacements(ours, theirs, f"{first} and {second}")
        settings["replace"] = True
        return ExistingSets("merge", first, merged.table, tuple(parts), _replaced(ours, found), settings)
    chosen = {name: [Chosen(part, range(len(data)))] for part, (name, data) in enumerate(ours.items())}
    for part, (name, data) in enumerate(theirs.items(), len(ours)):
        new_ids = _new_ids(data, ours[name]) if name in ours else None
        chosen.setdefault(name, []).append(Chosen(part, range(len(data)), f"{resolve_links(second).name}/", new_ids))
    return ExistingSets("merge", first, merged.table, tuple(parts), chosen, settings)


def _replaced(ours: Mapping[str, CocoPanoptic], found: Sequence[Replacement]) -> dict[str, list[Chosen]]:
    """Return the images of each split: those that keep their annotation, then those that get another one."""
    chosen = {}
    for part, (name, data) in enumerate(ours.items()):
        here = [one for one in found if one.old.part == part]
        kept = np.delete(np.arange(len(data)), [one.old.number for one in here])
        chosen[name] = [Chosen(part, kept)]
        for other in sorted({one.new.part for one in here}):
            pairs = [one for one in here if one.new.part == other]
            originals = Originals(part, [one.old.number for one in pairs])
            indices = [one.new.number for one in pairs]
            chosen[name].append(Chosen(len(ours) + other, indices, originals=originals))
    return chosen


def _new_ids(theirs: CocoPanoptic, ours: CocoPanoptic) -> list[int | None]:
    """Return a new unused id for each image of `theirs` whose id is also in `ours`, and None for the others."""
    known, new_ids = DiskList(map(str, _ids(ours)), key=str), list[int | None]()  # 1 and "1" are one id
    numbers = (int(image_id) for data in (ours, theirs) for image_id in _ids(data) if _is_number(image_id))
    free = 1 + max(numbers, default=0)
    for image_id in map(str, _ids(theirs)):
        is_used = known.first(image_id) is not None
        new_ids.append(free if is_used else None)
        free += is_used
    return new_ids


def _is_number(image_id: int | str) -> bool:
    return isinstance(image_id, int) or (image_id.isdecimal() and len(image_id) < 20)


def _ids(data: CocoPanoptic) -> Iterator[int | str]:
    return (data.image_info(index).id for index in range(len(data)))


def _of_one_table(
    name: str, root: Path, data: Sequence[CocoPanoptic], chosen: dict[str, list[Chosen]], settings: dict[str, Any]
) -> ExistingSets:
    categories = table_of_splits(root, dict(enumerate(data)))
    parts = tuple(Part(one, unchanged(categories)) for one in data)
    return ExistingSets(name, root, categories, parts, chosen, settings)


def open_splits(root: Path, splits: Sequence[str]) -> dict[str, CocoPanoptic]:
    """Return the splits of a data set by name, all if `splits` is empty. Raises a DataError if there are none."""
    names = splits or find_splits(root)
    if not names:
        raise DataError(f"{root} has no split; expected annotations/panoptic_<split>.json with its PNGs and images")
    return {name: CocoPanoptic(root, name, skip_unannotated=True) for name in names}


def _sample(data: CocoPanoptic, count: int, seed: int) -> npt.NDArray[np.int64]:
    if count > len(data):
        raise DataError(
            f"{data.layout.annotation} annotates only {counted(len(data), 'image')}; expected {count} or more; lower "
            "--images"
        )
    return stratified(classes_of(data), count, seed)


def table_of_splits(root: Path, opened: Mapping[Any, CocoPanoptic]) -> CategoryTable:
    """Return the categories of a data set, which must be the same in all splits."""
    first, *others = (data.categories for data in opened.values())
    if any(other != first for other in others):
        raise DataError(
            f"the splits of {root} have different categories; choose splits with the same ones with --split"
        )
    return first
