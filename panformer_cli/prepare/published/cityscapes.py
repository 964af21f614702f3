"""`prepare-data cityscapes`: convert Cityscapes' instance maps, or panoptic PNGs made by cityscapesScripts."""

from __future__ import annotations

from collections import Counter
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
from panformer_cli.prepare.left_out import AnnotationLog
from panformer_cli.prepare.pixel_values import distinct_values, pixels_of, read_values
from panformer_cli.prepare.published.ready_panoptic import VOID, read_categories, read_ready_panoptic, segment_table
from panformer_cli.prepare.source import LabeledMap, SourceImage, listed_pngs, with_unused_labels
from panformer_cli.storage.files import name_inside
from panformer_cli.wording import short

_IMAGE, _INSTANCES = "_leftImg8bit.png", "_gtFine_instanceIds.png"
_JSON, _TRAIN_ID = "cityscapes_panoptic_", "_trainId"
_ANY_ID = CategoryTable(Category(number, "", False) for number in range(256))
"""Accepts any category id, for a JSON that may have label ids or trainIds."""


@dataclass(frozen=True)
class Cityscapes:
    """The folder `root` with `leftImg8bit` and `gtFine`, either directly or inside `<name>_trainvaltest`.

    A split is read from `gtFine/<split>/<city>/*_instanceIds.png` or, if there are none, from
    `gtFine/cityscapes_panoptic_<split>.json` or `..._<split>_trainId.json` with the folder of PNGs next to it.
    """

    root: Path
    name: str = "cityscapes"
    categories: CategoryTable = CATEGORIES
    settings: dict[str, Any] = field(default_factory=dict)

    def splits(self) -> Sequence[str]:
        """Return all splits except `test`, whose labels are not public: its maps contain only void."""
        found = self._splits_found()
        return [split for split in found if split != "test"] or found

    def images(self, split: str) -> Iterator[SourceImage]:
        """Return the images; the id is `<city>_<sequence>_<frame>`, as in the benchmark."""
        found = self._splits_found()
        if split not in found:
            raise DataError(
                f"{self._ground_truth} has no split {split}: found neither {split}/<city>/*{_INSTANCES} nor "
                f"{_JSON}{split}.json; available splits: {', '.join(found)}"
            )
        if self.reads_panoptic_pngs(split):
            return self._images_of_json(split)
        maps = (path for path in listed_pngs(self._ground_truth / split) if path.name.endswith(_INSTANCES))
        return with_unused_labels(self._images_of_maps(split), maps, _folder(self.root, "leftImg8bit") / split)

    def reads_panoptic_pngs(self, split: str) -> bool:
        """Return whether the split has no instance maps."""
        return not self._has_maps(split)

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        """Return the annotation; segments keep the ids of the instance map, which are label ids for stuff."""
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
                f"{self._ground_truth} contains neither <split>/<city>/*{_INSTANCES} nor {_JSON}<split>.json; "
                "unpack gtFine_trainvaltest.zip there"
            )
        return sorted(found)

    def _has_maps(self, split: str) -> bool:
        return next((self._ground_truth / split).glob(f"*/*{_INSTANCES}"), None) is not None

    def _panoptic_json(self, split: str) -> Path:
        plain = self._ground_truth / f"{_JSON}{split}.json"
        return plain if plain.is_file() else plain.with_name(f"{_JSON}{split}{_TRAIN_ID}.json")

    def _images_of_maps(self, split: str) -> Iterator[SourceImage]:
        image_folder, maps = _folder(self.root, "leftImg8bit") / split, self._ground_truth / split
        for path in listed_pngs(image_folder):
            inner = path.relative_to(image_folder).as_posix()
            if inner.endswith(_IMAGE):
                label = name_inside(maps, inner.removesuffix(_IMAGE) + _INSTANCES, str(maps))
                yield SourceImage(path.name.removesuffix(_IMAGE), path, inner, (label,))

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
                    f"{path}: segment {segment.id} has the category id {segment.category_id}; expected a {kind} like "
                    "the other category ids in the file; regenerate the file"
                )
            return VOID if label.train_id == IGNORED else label.id

        for index, info in enumerate(annotation.images):
            image_path, file_name = self._image_file(split, str(info.id), path)
            png = name_inside(path.with_suffix(""), info.png_name, str(path))
            table = segment_table(annotation.segments(index), category_of)
            yield SourceImage(info.id, image_path, file_name, (png, path), table)

    def _image_file(self, split: str, image_id: str, annotation: Path) -> tuple[Path, str]:
        """Return the image file and its name below the folder of the split. Small samples have no subfolders."""
        image_folder = _folder(self.root, "leftImg8bit")
        name = f"{image_id}{_IMAGE}"
        in_city = f"{image_id.split('_')[0]}/{name}"
        for folder, inner in ((image_folder / split, in_city), (image_folder, name)):
            path = name_inside(folder, inner, str(annotation))
            if path.is_file():
                return path, inner
        return image_folder / split / in_city, in_city  # reading it reports that it is missing


def _folder(root: Path, name: str) -> Path:
    """Return the folder `name` in `root`, or in a folder named after its zip."""
    candidates = (root / name, root / f"{name}_trainvaltest" / name)
    found = next((folder for folder in candidates if folder.is_dir()), None)
    if found is None:
        raise DataError(f"{root} has no folder {name}; expected the content of Cityscapes' {name}_trainvaltest.zip")
    return found


def _label_of(segment_id: int) -> Label | None:
    """Return the label of a segment id: the label id for stuff and groups, 1000 x label id + number for objects."""
    return LABELS.get(segment_id if segment_id < 1000 else segment_id // 1000)


def _panoptic_of_instances(path: Path, size: tuple[int, int]) -> LabeledMap:
    """Return the map as cityscapesScripts' preparation/createPanopticImgs.py does: things without number are crowds."""
    values, index_of_pixel = distinct_values(read_values(path, size))
    numbers, void_values = [], Counter[str]()
    category_of_id: dict[int, int] = {}
    for value, pixels in zip(values, pixels_of(index_of_pixel, len(values)), strict=True):
        label = _label_of(value)
        if label is None:
            raise DataError(
                f"the instance map {path} contains the value {value}; expected a label id from 0 to {max(LABELS)} or "
                "1000 x label id + number; restore the original file"
            )
        numbers.append(0 if label.train_id == IGNORED else value if label.is_thing else label.id)
        category_of_id[numbers[-1]] = label.id
        if label.train_id == IGNORED:
            void_values[f"{label.id} ({label.name})"] += pixels
    ids = np.array(numbers, np.int32)[index_of_pixel]
    crowds = {number for number in numbers if 0 < number < 1000 and LABELS[number].is_thing}
    return LabeledMap(ids, segments_of(ids, category_of_id, crowds), void_values)


def _has_train_ids(annotation: PanopticAnnotation) -> bool:
    """Return whether the category ids are trainIds, based on the JSON's `categories` or else its segment ids.

    Raises:
        DataError: They are neither trainIds nor label ids, or a mixture of both.
    """
    rows = read_categories(annotation.path)
    ids = _ids_of_segments(annotation) if rows is None else _ids_of_categories(rows, annotation.path)
    possible = {True, False}
    for where, category_id, label in ids:
        fits = {has for has, number in ((True, label.train_id), (False, label.id)) if number == category_id}
        if not fits & possible:
            raise DataError(
                f"{annotation.path}: {where} has the category id {category_id}; expected {label.id} (label id) or "
                f"{label.train_id} (trainId) for {label.name}, and the same kind throughout; regenerate the file"
            )
        possible &= fits
    return possible == {True}


def _ids_of_categories(rows: Any, path: Path) -> Iterator[tuple[str, int, Label]]:
    label_of_name = {label.name: label for label in LABELS.values()}
    for row in rows if isinstance(rows, list) else [rows]:
        label = label_of_name.get(str(row.get("name"))) if isinstance(row, dict) else None
        if label is None or not isinstance(row.get("id"), int):
            raise DataError(f"{path}: a category is {short(row)}; expected an id and a Cityscapes class name")
        yield f"the category {label.name}", row["id"], label


def _ids_of_segments(annotation: PanopticAnnotation) -> Iterator[tuple[str, int, Label]]:
    for index, info in enumerate(annotation.images):
        for segment in annotation.segments(index):
            label = _label_of(segment.id)
            if label is None:
                raise DataError(
                    f"{annotation.path}: segment id {segment.id} of image {info.id!r} is neither a label id nor 1000 x "
                    "label id + number, as expected in a JSON without `categories`; add `categories`"
                )
            yield f"segment {segment.id} of image {info.id!r}", segment.category_id, label
