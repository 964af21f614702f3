"""Mapillary Vistas 1.2 and 2.0: its panoptic PNGs, or its 16-bit instance maps."""

from __future__ import annotations

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
from panformer_cli.prepare.pixel_values import distinct_values, read_values
from panformer_cli.prepare.published.mapillary_labels import (
    categories_of_config,
    categories_of_json,
    category_of_label,
    read_config,
)
from panformer_cli.prepare.published.ready_panoptic import VOID, read_ready_panoptic, segment_table
from panformer_cli.prepare.source import SourceImage, listed_files, listed_pngs, with_unused_labels
from panformer_cli.storage.files import name_inside

Version = Literal["v1.2", "v2.0"]
VERSIONS: tuple[Version, ...] = get_args(Version)

_PANOPTIC: dict[Version, str] = {"v1.2": "panoptic/panoptic_2018.json", "v2.0": "panoptic/panoptic_2020.json"}


@dataclass(frozen=True)
class MapillaryVistas:
    """The folder `root` of the release, read in one version of its annotations; made by `open`.

    version: of the annotations.
    categories: the classes that are evaluated; all others are void.
    category_of_label: the category id of each label of the instance maps, `VOID` for void; empty without a label list.
    """

    root: Path
    version: Version
    categories: CategoryTable
    category_of_label: tuple[int, ...]
    name: str = "mapillary"

    @classmethod
    def open(cls, root: Path, version: Version | None = None) -> MapillaryVistas:
        """Find out what is there and read the table of categories.

        version: None takes the newest that is there.

        Raises:
            DataError: the folder is not that of a release, or its label list is damaged.
        """
        if not root.is_dir():
            raise DataError(f"the folder {root} does not exist; expected that of Mapillary Vistas; check --root")
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
                f"{root} has neither config_{version}.json nor <split>/{version}/{_PANOPTIC[version]}; expected the "
                "folder of Mapillary Vistas as it was unpacked; check --root and --version"
            )
        return cls(root, version, categories, category_of_label(labels or (), categories, VOID))

    @property
    def settings(self) -> dict[str, Any]:
        """The version."""
        return {"version": self.version}

    def splits(self) -> Sequence[str]:
        """`training` and `validation`; `testing` has no annotations."""
        found = [split for split in _split_names(self.root) if self._has_annotations(split)]
        if not found:
            raise DataError(
                f"{self.root} has no split with annotations of {self.version}; expected <split>/images and "
                f"<split>/{self.version}/ with {_PANOPTIC[self.version]} or instances/; check --root and --version"
            )
        return found

    def images(self, split: str) -> Iterator[SourceImage]:
        """As `Source`; the id is the name of the file without its ending."""
        if split not in self.splits():
            raise DataError(
                f"{self.root} has no annotated split {split} of {self.version}; the splits there are "
                f"{', '.join(self.splits())}"
            )
        if self.reads_panoptic_pngs(split):
            return self._ready_images(split)
        maps = listed_pngs(self._annotations(split) / "instances")
        return with_unused_labels(self._instance_maps(split), maps, self.root / split / "images")

    def reads_panoptic_pngs(self, split: str) -> bool:
        """As `ReadsPanopticPngs`."""
        return self._panoptic_json(split).is_file()

    def read(self, image: SourceImage, size: tuple[int, int]) -> PanopticMap:
        """As `Source`; segments of panoptic PNGs keep their ids, objects of an instance map have its value plus 1."""
        if image.extra is None:
            return self._panoptic_of_instances(image.labels[0], size)
        png, annotation = image.labels
        return read_ready_panoptic(png, annotation, image.extra, self.categories)

    def _annotations(self, split: str) -> Path:
        """Older releases have no folder of the version."""
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
            raise DataError(f"{path} has other categories than the other splits; restore the files from one release")
        if len(annotation.unannotated):
            raise DataError(
                f"{path} lists {len(annotation.unannotated)} images that it does not annotate, first "
                f"{annotation.unannotated[0]}; expected a row of `annotations` for each; restore the file"
            )

        def category_of(segment: Segment) -> int:
            return segment.category_id if segment.category_id in self.categories else VOID

        for index, info in enumerate(annotation.images):
            picture = name_inside(self.root / split / "images", info.file_name, str(path))
            png = name_inside(path.parent, info.png_name, str(path))
            table = segment_table(annotation.segments(index), category_of)
            yield SourceImage(info.id, picture, info.file_name, (png, path), table)

    def _instance_maps(self, split: str) -> Iterator[SourceImage]:
        if not self.category_of_label:
            raise DataError(
                f"{self.root} has no config_{self.version}.json, without which the numbers in {split}'s instance maps "
                "mean nothing; copy it there from the release"
            )
        pictures, maps = self.root / split / "images", self._annotations(split) / "instances"
        for path in listed_files(pictures):
            inner = path.relative_to(pictures)
            label = name_inside(maps, inner.with_suffix(".png").as_posix(), str(maps))
            yield SourceImage(path.stem, path, inner.as_posix(), (label,))

    def _panoptic_of_instances(self, path: Path, size: tuple[int, int]) -> PanopticMap:
        """A pixel is 256 x label + number of the object, from 0; of stuff the number says nothing."""
        _check_depth(path)
        values, place = distinct_values(read_values(path, size))
        if values[-1] // 256 >= len(self.category_of_label):
            raise DataError(
                f"the instance map {path} holds the value {values[-1]}, which is label {values[-1] // 256}; expected 0 "
                f"to {len(self.category_of_label) - 1} as in config_{self.version}.json; is it of another version?"
            )
        category_of_id: dict[int, int] = {}
        numbers = []
        for value in values:
            category_id = self.category_of_label[value // 256]
            is_void = category_id == VOID
            is_thing = not is_void and self.categories.by_id(category_id).is_thing
            numbers.append(0 if is_void else 1 + (value if is_thing else value // 256 * 256))
            category_of_id[numbers[-1]] = category_id
        ids = np.array(numbers, np.int32)[place]
        return PanopticMap(ids, segments_of(ids, category_of_id))


def _check_depth(path: Path) -> None:
    """The folder `labels` has 8-bit maps of the same names, which would all be read as birds."""
    header = read_bytes(path, "instance map")[:26]
    if header.startswith(b"\x89PNG") and header[24:] != b"\x10\x00":
        raise DataError(
            f"the instance map {path} is no 16-bit grayscale PNG; expected 256 x label + object; restore the folder "
            "instances of the release"
        )


def _split_names(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.glob("*/images") if path.is_dir())


def _newest(root: Path) -> Version:
    """By the folders of the versions, else by the JSONs, else by the label lists."""
    for version in reversed(VERSIONS):
        if any((root / split / version).is_dir() for split in _split_names(root)):
            return version
    for version in reversed(VERSIONS):
        if any((root / split / _PANOPTIC[version]).is_file() for split in _split_names(root)):
            return version
    return "v2.0" if (root / "config_v2.0.json").is_file() else "v1.2"


def _config(root: Path, version: Version) -> Path | None:
    """Releases before 1.2 have the labels of 1.2 in `config.json`."""
    names = [f"config_{version}.json", *(["config.json"] if version == "v1.2" else [])]
    return next((root / name for name in names if (root / name).is_file()), None)


def _panoptic_names(root: Path, version: Version) -> Iterator[str]:
    for split in _split_names(root):
        yield f"{split}/{version}/{_PANOPTIC[version]}"
        if not (root / split / version).is_dir():
            yield f"{split}/{_PANOPTIC[version]}"
