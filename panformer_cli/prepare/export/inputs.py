"""What is exported: the annotation of a data set, or predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_annotation import PanopticAnnotation
from panformer_cli.data.coco.panoptic_json import read_annotation
from panformer_cli.data.coco.panoptic_png import read_panoptic_png, segment_ids
from panformer_cli.data.layout import predicted_image
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.errors import DataError
from panformer_cli.prepare.class_names import check_class_names
from panformer_cli.prepare.left_out import AnnotationLog
from panformer_cli.prepare.sets.derived import open_splits, table_of_splits
from panformer_cli.prepare.sets.existing import Chosen, ExistingSets, Part
from panformer_cli.prepare.source import SourceImage
from panformer_cli.storage.files import name_inside
from panformer_cli.wording import listing


@dataclass(frozen=True)
class Predictions:
    """A `Source` with the predictions of a panoptic JSON as one split; open one with `open_predictions`.

    Attributes:
        annotation: The JSON.
        pngs: The folder of its PNGs.
        root: The folder of the images.
        categories: The classes to export. Other segments become void.
        min_score: Segments with a lower score become void; None keeps all.
        split: Name of the split.
    """

    annotation: PanopticAnnotation
    pngs: Path
    root: Path
    categories: CategoryTable
    min_score: float | None
    split: str
    name: str = "export"

    @property
    def settings(self) -> dict[str, Any]:
        return {"min_score": self.min_score}

    @property
    def also_read(self) -> Sequence[Path]:
        """The folder of PNGs."""
        return [self.pngs]

    def splits(self) -> Sequence[str]:
        return [self.split]

    def reads_panoptic_pngs(self, split: str) -> bool:
        """Return True."""
        return True

    def images(self, split: str) -> Iterator[SourceImage]:
        where = str(self.annotation.path)
        for index, info in enumerate(self.annotation.images):
            path = predicted_image(self.root, info.file_name, where)
            labels = (name_inside(self.pngs, info.png_name, where), self.annotation.path)
            yield SourceImage(info.id, path, info.file_name, labels, index)

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        png, annotation = image.labels
        ids, segments = read_panoptic_png(png), self.annotation.segments(image.extra)
        drawn, listed = segment_ids(ids), {segment.id for segment in segments}
        if drawn - listed:
            raise DataError(
                f"{png} contains the segment ids {listing(sorted(drawn - listed))}, which {annotation} does not list; "
                "expected the JSON and the PNGs of one prediction"
            )
        kept = tuple(segment for segment in segments if self._keeps(segment))
        dropped = drawn - {segment.id for segment in kept}
        if dropped:
            ids = np.where(np.isin(ids, list(dropped)), 0, ids)
        return PanopticMap(ids, kept)

    def _keeps(self, segment: Segment) -> bool:
        is_good = self.min_score is None or segment.score is None or segment.score >= self.min_score
        return is_good and segment.category_id in self.categories


def open_predictions(
    path: Path, images: Path, names: Sequence[str] = (), min_score: float | None = None, split: str = "train"
) -> Predictions:
    """Return the source of a panoptic JSON with its PNGs in the folder of the same name.

    Args:
        path: The JSON.
        images: The folder of the images.
        names: The classes to export; if empty, all.
        min_score: Lowest score to export. Segments without a score are kept.
        split: Name of the split in the export.

    Raises:
        DataError: The JSON cannot be used, a folder is missing, a class does not exist, or no segment has a score.
    """
    if min_score is not None and not math.isfinite(min_score):
        raise DataError(f"--min-score {min_score}: expected a number, such as 0.5")
    annotation, pngs = read_annotation(path), path.with_suffix("")
    if not annotation.images:
        raise DataError(f"{path} has no predictions; expected at least one annotated image")
    for folder, what in ((pngs, f"of PNGs, next to {path.name},"), (images, "of images")):
        if not folder.is_dir():
            raise DataError(f"the folder {what} {folder} does not exist; check the path")
    if min_score is not None and len(annotation.rows) and np.isnan(annotation.rows["score"]).all():
        raise DataError(f"no segment in {path} has a score; expected scores for --min-score; leave the option out")
    return Predictions(annotation, pngs, images, _chosen(annotation.categories, names, str(path)), min_score, split)


def open_truth(root: Path, splits: Sequence[str] = (), names: Sequence[str] = ()) -> ExistingSets:
    """Return the source of a data set's annotation.

    Args:
        root: The data set.
        splits: The splits; if empty, all.
        names: The classes to export; if empty, all. Segments of other classes become void.

    Raises:
        DataError: A split cannot be used, the splits have different categories, or a class does not exist.
    """
    opened = open_splits(root, splits)
    table = table_of_splits(root, opened)
    categories = _chosen(table, names, str(root))
    new_id = {category.id: category.id if category.id in categories else None for category in table.categories}
    parts = tuple(Part(data, new_id) for data in opened.values())
    chosen = {name: [Chosen(part, range(len(data)))] for part, (name, data) in enumerate(opened.items())}
    return ExistingSets("export", root, categories, parts, chosen)


def _chosen(categories: CategoryTable, names: Sequence[str], where: str) -> CategoryTable:
    check_class_names(names, categories, "--class", where)
    return CategoryTable(category for category in categories.categories if not names or category.name in names)
