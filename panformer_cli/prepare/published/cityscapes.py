"""Cityscapes: its instance maps, or the panoptic PNGs that cityscapesScripts has made of them already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.cityscapes_labels import CATEGORIES, IGNORED, LABELS, Label
from panformer_cli.data.coco.panoptic_annotation import PanopticAnnotation
from panformer_cli.data.coco.panoptic_json import read_predictions
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.errors import DataError
from panformer_cli.prepare.pixel_values import distinct_values, read_values
from panformer_cli.prepare.published.ready_panoptic import VOID, read_categories, read_ready_panoptic, segment_table
from panformer_cli.prepare.source import SourceImage, listed_pngs, with_unused_labels
from panformer_cli.storage.files import name_inside
from panformer_cli.wording import short

_PICTURE, _INSTANCES = "_leftImg8bit.png", "_gtFine_instanceIds.png"
_JSON, _TRAIN_ID = "cityscapes_panoptic_", "_trainId"
_ANY_ID = CategoryTable(Category(number, str(number), False) for number in range(256))
"""To read a JSON of which it is not known yet what its category ids are."""


@dataclass(frozen=True)
class Cityscapes:
    """The folder `root` with `leftImg8bit` and `gtFine`, each as unpacked or inside `<name>_trainvaltest`.

    A split is read from `gtFine/<split>/<city>/*_instanceIds.png`; where there are none, from
    `gtFine/cityscapes_panoptic_<split>.json`, or `..._<split>_trainId.json`, and the folder of PNGs beside it.
    """

    root: Path
    name: str = "cityscapes"
    categories: CategoryTable = CATEGORIES
    settings: dict[str, Any] = field(default_factory=dict)

    def splits(self) -> Sequence[str]:
        """All but `test`, whose labels are not public: its maps hold void alone."""
        found = self._splits_found()
        return [split for split in found if split != "test"] or found

    def images(self, split: str) -> Iterator[SourceImage]:
        """As `Source`; the id is `<city>_<sequence>_<frame>`, by which the benchmark knows an image."""
        found = self._splits_found()
        if split not in found:
            raise DataError(
                f"{self._ground_truth} has no split {split}: neither {split}/<city>/*{_INSTANCES} nor "
                f"{_JSON}{split}.json is there; the splits there are {', '.join(found)}"
            )
        if self.reads_panoptic_pngs(split):
            return self._images_of_json(split)
        maps = (path for path in listed_pngs(self._ground_truth / split) if path.name.endswith(_INSTANCES))
        return with_unused_labels(self._images_of_maps(split), maps, _folder(self.root, "leftImg8bit") / split)

    def reads_panoptic_pngs(self, split: str) -> bool:
        """As `ReadsPanopticPngs`."""
        return not self._has_maps(split)

    def read(self, image: SourceImage, size: tuple[int, int]) -> PanopticMap:
        """As `Source`; segments have the ids of the instance map, which for stuff is the label id."""
        if image.extra is None:
            return _panoptic_of_instances(image.labels[0], size)
        png, annotation = image.labels
        return read_ready_panoptic(png, annotation, image.extra, CATEGORIES)

    @property
    def _ground_truth(self) -> Path:
        return _folder(self.root, "gtFine")

    def _splits_found(self) -> list[str]:
        maps = [path.name for path in self._ground_truth.iterdir() if self._has_maps(path.name)]
        jsons = [path.stem for path in self._ground_truth.glob(f"{_JSON}*.json")]
        found = {*maps, *(stem.removeprefix(_JSON).removesuffix(_TRAIN_ID) for stem in jsons)}
        if not found:
            raise DataError(
                f"{self._ground_truth} holds neither <split>/<city>/*{_INSTANCES} nor {_JSON}<split>.json; "
                "unpack gtFine_trainvaltest.zip there"
            )
        return sorted(found)

    def _has_maps(self, split: str) -> bool:
        return next((self._ground_truth / split).glob(f"*/*{_INSTANCES}"), None) is not None

    def _panoptic_json(self, split: str) -> Path:
        plain = self._ground_truth / f"{_JSON}{split}.json"
        return plain if plain.is_file() else plain.with_name(f"{_JSON}{split}{_TRAIN_ID}.json")

    def _images_of_maps(self, split: str) -> Iterator[SourceImage]:
        pictures, maps = _folder(self.root, "leftImg8bit") / split, self._ground_truth / split
        for path in listed_pngs(pictures):
            inner = path.relative_to(pictures).as_posix()
            if inner.endswith(_PICTURE):
                label = name_inside(maps, inner.removesuffix(_PICTURE) + _INSTANCES, str(maps))
                yield SourceImage(path.name.removesuffix(_PICTURE), path, inner, (label,))

    def _images_of_json(self, split: str) -> Iterator[SourceImage]:
        path = self._panoptic_json(split)
        annotation = read_predictions(path, _ANY_ID)
        has_train_ids = _has_train_ids(annotation)
        label_of = {label.train_id if has_train_ids else label.id: label for label in LABELS.values()}

        def category_of(segment: Segment) -> int:
            label = label_of.get(segment.category_id)
            if label is None:
                kind = "trainId" if has_train_ids else "label id"
                raise DataError(
                    f"{path}: segment {segment.id} has the category id {segment.category_id}; expected a {kind}, as "
                    "the other category ids of the file are; create the file again"
                )
            return VOID if label.train_id == IGNORED else label.id

        for index, info in enumerate(annotation.images):
            picture, file_name = self._picture(split, str(info.id), path)
            png = name_inside(path.with_suffix(""), info.png_name, str(path))
            table = segment_table(annotation.segments(index), category_of)
            yield SourceImage(info.id, picture, file_name, (png, path), table)

    def _picture(self, split: str, image_id: str, annotation: Path) -> tuple[Path, str]:
        """The picture of an image and its name below the folder of the split; small samples have no such folders."""
        pictures = _folder(self.root, "leftImg8bit")
        name = f"{image_id}{_PICTURE}"
        in_city = f"{image_id.split('_')[0]}/{name}"
        for folder, inner in ((pictures / split, in_city), (pictures, name)):
            path = name_inside(folder, inner, str(annotation))
            if path.is_file():
                return path, inner
        return pictures / split / in_city, in_city  # reading it says that it is missing


def _folder(root: Path, name: str) -> Path:
    """`root/name`, or where the zip of that name was unpacked into a folder of its own."""
    places = (root / name, root / f"{name}_trainvaltest" / name)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise DataError(f"{root} has no folder {name}; expected that of {name}_trainvaltest.zip from Cityscapes")
    return found


def _label_of(segment_id: int) -> Label | None:
    """Of stuff and groups the id is the label id, of an object 1000 times that plus its number."""
    return LABELS.get(segment_id if segment_id < 1000 else segment_id // 1000)


def _panoptic_of_instances(path: Path, size: tuple[int, int]) -> PanopticMap:
    """As `preparation/createPanopticImgs.py` of cityscapesScripts: a thing without a number is a crowd."""
    values, place = distinct_values(read_values(path, size))
    numbers = []
    category_of_id: dict[int, int] = {}
    for value in values:
        label = _label_of(value)
        if label is None:
            raise DataError(
                f"the instance map {path} holds the value {value}; expected a label id from 0 to {max(LABELS)} or "
                "1000 times that plus a number; restore the file as it was released"
            )
        numbers.append(0 if label.train_id == IGNORED else value if label.is_thing else label.id)
        category_of_id[numbers[-1]] = label.id
    ids = np.array(numbers, np.int32)[place]
    crowds = {number for number in numbers if 0 < number < 1000 and LABELS[number].is_thing}
    return PanopticMap(ids, segments_of(ids, category_of_id, crowds))


def _has_train_ids(annotation: PanopticAnnotation) -> bool:
    """Whether the category ids are trainIds, by the JSON's `categories` or else by its segment ids.

    Raises:
        DataError: they are neither trainIds nor label ids, or now the one and now the other.
    """
    rows = read_categories(annotation.path)
    ids = _ids_of_segments(annotation) if rows is None else _ids_of_categories(rows, annotation.path)
    possible = {True, False}
    for where, category_id, label in ids:
        fits = {has for has, number in ((True, label.train_id), (False, label.id)) if number == category_id}
        if not fits & possible:
            raise DataError(
                f"{annotation.path}: {where} has the category id {category_id}; expected {label.id} (label id) or "
                f"{label.train_id} (trainId) for {label.name}, and one of the two throughout; create the file again"
            )
        possible &= fits
    return possible == {True}


def _ids_of_categories(rows: Any, path: Path) -> Iterator[tuple[str, int, Label]]:
    label_of_name = {label.name: label for label in LABELS.values()}
    for row in rows if isinstance(rows, list) else [rows]:
        label = label_of_name.get(str(row.get("name"))) if isinstance(row, dict) else None
        if label is None or not isinstance(row.get("id"), int):
            raise DataError(f"{path}: a category is {short(row)}; expected an id and a name of Cityscapes")
        yield f"the category {label.name}", row["id"], label


def _ids_of_segments(annotation: PanopticAnnotation) -> Iterator[tuple[str, int, Label]]:
    for index, info in enumerate(annotation.images):
        for segment in annotation.segments(index):
            label = _label_of(segment.id)
            if label is None:
                raise DataError(
                    f"{annotation.path}: segment {segment.id} of image {info.id!r} shows no label id; expected that or "
                    "1000 times that plus a number, as the JSON has no `categories`; add them"
                )
            yield f"segment {segment.id} of image {info.id!r}", segment.category_id, label
