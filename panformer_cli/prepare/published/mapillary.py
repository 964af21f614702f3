"""`prepare-data mapillary`: convert the panoptic PNGs or 16-bit instance maps of Mapillary Vistas 1.2 and 2.0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_json import read_annotation
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.images import read_bytes
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.errors import DataError
from panformer_cli.prepare.left_out import AnnotationLog
from panformer_cli.prepare.pixel_values import distinct_values, pixels_of, read_values
from panformer_cli.prepare.published.mapillary_labels import (
    categories_of_config,
    categories_of_json,
    category_of_label,
    read_config,
)
from panformer_cli.prepare.published.ready_panoptic import VOID, read_ready_panoptic, segment_table
from panformer_cli.prepare.source import LabeledMap, SourceImage, listed_files, listed_pngs, with_unused_labels
from panformer_cli.storage.files import name_inside
from panformer_cli.wording import counted

Version = Literal["v1.2", "v2.0"]
VERSIONS: tuple[Version, ...] = get_args(Version)

_PANOPTIC: dict[Version, str] = {"v1.2": "panoptic/panoptic_2018.json", "v2.0": "panoptic/panoptic_2020.json"}


@dataclass(frozen=True)
class MapillaryVistas:
    """A release of Mapillary Vistas with one version of its annotations; created by `open`.

    Attributes:
        version: Version of the annotations.
        categories: The evaluated classes; all others are void.
        category_of_label: Category id of each label of the instance maps, or `VOID`; empty without a label list.
    """

    root: Path
    version: Version
    categories: CategoryTable
    category_of_label: tuple[int, ...]
    name: str = "mapillary"

    @classmethod
    def open(cls, root: Path, version: Version | None = None) -> MapillaryVistas:
        """Return the source in `root`, after detecting its layout and reading its categories.

        Args:
            root: The folder of the release.
            version: None takes the newest available one.

        Raises:
            DataError: The folder is not a release, or its label list is corrupt.
        """
        if not root.is_dir():
            raise DataError(f"the folder {root} does not exist; expected Mapillary Vistas; check --root")
        version = version or _newest(root)
        config = _config(root, version)
        labels = read_config(config) if config else None
        annotation = next((path for path in map(root.joinpath, _panoptic_names(root, version)) if path.is_file()), None)
        if annotation is not None:
            categories = categories_of_json(annotation, labels)
        elif labels is not None:
            categories = categories_of_config(labels)
        else:
            raise DataError(
                f"{root} has neither config_{version}.json nor <split>/{version}/{_PANOPTIC[version]}; expected "
                "Mapillary Vistas as unpacked; check --root and --version"
            )
        return cls(root, version, categories, category_of_label(labels or (), categories, VOID))

    @property
    def settings(self) -> dict[str, Any]:
        """The annotation version."""
        return {"version": self.version}

    def splits(self) -> Sequence[str]:
        """Return the annotated splits: `training` and `validation`, not `testing`."""
        found = [split for split in _split_names(self.root) if self._has_annotations(split)]
        if not found:
            raise DataError(
                f"{self.root} has no split with annotations of {self.version}; expected <split>/images and "
                f"<split>/{self.version}/ with {_PANOPTIC[self.version]} or instances/; check --root and --version"
            )
        return found

    def images(self, split: str) -> Iterator[SourceImage]:
        """Return the images; the id is the file name without extension."""
        if split not in self.splits():
            raise DataError(
                f"{self.root} has no annotated split {split} of {self.version}; available splits: "
                f"{', '.join(self.splits())}"
            )
        if self.reads_panoptic_pngs(split):
            return self._ready_images(split)
        maps = listed_pngs(self._annotations(split) / "instances")
        return with_unused_labels(self._instance_maps(split), maps, self.root / split / "images")

    def reads_panoptic_pngs(self, split: str) -> bool:
        """Return whether the split has a panoptic JSON."""
        return self._panoptic_json(split).is_file()

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        """Return the annotation; segments keep the ids of panoptic PNGs, or have an instance map's value plus 1."""
        if image.extra is None:
            return self._panoptic_of_instances(image.labels[0], size)
        png, annotation = image.labels
        return read_ready_panoptic(png, annotation, image.extra, self.categories)

    def _annotations(self, split: str) -> Path:
        """Return the folder of the version, which older releases do not have."""
        folder = self.root / split
        return folder / self.version if (folder / self.version).is_dir() else folder

    def _panoptic_json(self, split: str) -> Path:
        return self._annotations(split) / _PANOPTIC[self.version]

    def _has_annotations(self, split: str) -> bool:
        return self._panoptic_json(split).is_file() or (self._annotations(split) / "instances").is_dir()

    def _ready_images(self, split: str) -> Iterator[SourceImage]:
        path = self._panoptic_json(split)
        annotation = read_annotation(path)
        known = {category.id: category for category in annotation.categories.categories}
        if any(known.get(category.id) != category for category in self.categories.categories):
            raise DataError(
                f"{path} has different categories from the other splits; restore the files from one release"
            )
        if len(annotation.unannotated):
            raise DataError(
                f"{path} lists {counted(len(annotation.unannotated), 'image')} that it does not annotate, first "
                f"{annotation.unannotated[0]}; expected a row of `annotations` for each; restore the file"
            )

        def category_of(segment: Segment) -> int:
            return segment.category_id if segment.category_id in self.categories else VOID

        for index, info in enumerate(annotation.images):
            image_path = name_inside(self.root / split / "images", info.file_name, str(path))
            png = name_inside(path.parent, info.png_name, str(path))
            table = segment_table(annotation.segments(index), category_of)
            yield SourceImage(info.id, image_path, info.file_name, (png, path), table)

    def _instance_maps(self, split: str) -> Iterator[SourceImage]:
        if not self.category_of_label:
            raise DataError(
                f"{self.root} has no config_{self.version}.json, which defines the labels in the instance maps of "
                f"{split}; copy it from the release"
            )
        image_folder, maps = self.root / split / "images", self._annotations(split) / "instances"
        for path in listed_files(image_folder):
            inner = path.relative_to(image_folder)
            label = name_inside(maps, inner.with_suffix(".png").as_posix(), str(maps))
            yield SourceImage(path.stem, path, inner.as_posix(), (label,))

    def _panoptic_of_instances(self, path: Path, size: tuple[int, int]) -> LabeledMap:
        """Return the map of an instance map, whose pixels are 256 x label + object number (ignored for stuff)."""
        _check_depth(path)
        values, index_of_pixel = distinct_values(read_values(path, size))
        if values[-1] // 256 >= len(self.category_of_label):
            raise DataError(
                f"the instance map {path} contains the value {values[-1]}, which is label {values[-1] // 256}; "
                f"expected 0 to {len(self.category_of_label) - 1} as in config_{self.version}.json; check --version"
            )
        category_of_id: dict[int, int] = {}
        numbers, void_values = [], Counter[str]()
        for value, pixels in zip(values, pixels_of(index_of_pixel, len(values)), strict=True):
            category_id = self.category_of_label[value // 256]
            is_void = category_id == VOID
            is_thing = not is_void and self.categories.by_id(category_id).is_thing
            numbers.append(0 if is_void else 1 + (value if is_thing else value // 256 * 256))
            category_of_id[numbers[-1]] = category_id
            if is_void:
                void_values[str(value // 256)] += pixels
        ids = np.array(numbers, np.int32)[index_of_pixel]
        return LabeledMap(ids, segments_of(ids, category_of_id), void_values)


def _check_depth(path: Path) -> None:
    """Reject the 8-bit maps of the same names in the folder `labels`, whose pixels would all be label 0 (bird)."""
    header = read_bytes(path, "instance map")[:26]
    if header.startswith(b"\x89PNG") and header[24:] != b"\x10\x00":
        raise DataError(
            f"the instance map {path} is not a 16-bit grayscale PNG; expected 256 x label + object; restore the "
            "release's folder instances"
        )


def _split_names(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.glob("*/images") if path.is_dir())


def _newest(root: Path) -> Version:
    """Return the newest version by version folders, or else by JSONs, or else by label lists."""
    for version in reversed(VERSIONS):
        if any((root / split / version).is_dir() for split in _split_names(root)):
            return version
    for version in reversed(VERSIONS):
        if any((root / split / _PANOPTIC[version]).is_file() for split in _split_names(root)):
            return version
    return "v2.0" if (root / "config_v2.0.json").is_file() else "v1.2"


def _config(root: Path, version: Version) -> Path | None:
    """Return the label list. Releases before 1.2 have the labels of 1.2 in `config.json`."""
    names = [f"config_{version}.json", *(["config.json"] if version == "v1.2" else [])]
    return next((root / name for name in names if (root / name).is_file()), None)


def _panoptic_names(root: Path, version: Version) -> Iterator[str]:
    for split in _split_names(root):
        yield f"{split}/{version}/{_PANOPTIC[version]}"
        if not (root / split / version).is_dir():
            yield f"{split}/{_PANOPTIC[version]}"
