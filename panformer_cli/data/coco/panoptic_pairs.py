"""Predictions on disk with their ground truth: two panoptic JSONs and their PNGs, without images."""

from __future__ import annotations

from pathlib import Path

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.annotation_index import open_annotation
from panformer_cli.data.coco.coco_panoptic import measured
from panformer_cli.data.coco.image_pairing import pair_images
from panformer_cli.data.coco.panoptic_annotation import ImageInfo, PanopticAnnotation
from panformer_cli.data.coco.panoptic_json import read_predictions
from panformer_cli.data.coco.panoptic_png import expect_reads, read_panoptic_png
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.storage.files import name_inside
from panformer_cli.wording import counted

_CLASSES = 3
"""Number of classes with other ids that a note lists."""


class PanopticPairs:
    """The images annotated in `truth`, each with its prediction; other predictions are ignored.

    Args:
        truth: panoptic JSON of the ground truth.
        predictions: panoptic JSON of the predictions; only `annotations` is needed, with image_id, file_name and, for
            each segment, id and category_id (score is optional). File names in its `images` are compared with those of
            the ground truth.
        truth_pngs: PNG folder of the ground truth; None: the path of the JSON without `.json`.
        predicted_pngs: PNG folder of the predictions; likewise.

    Attributes:
        notes: `Pairing.note`, that classes are paired by name, and how many images the ground truth does not annotate.

    Raises:
        DataError: a JSON or a folder cannot be used, the ground truth annotates no image, or an annotated image has no
            prediction, see `pair_images`.
            Reading an item raises it if a PNG is missing or corrupt.
    """

    def __init__(
        self,
        truth: Path,
        predictions: Path,
        truth_pngs: Path | None = None,
        predicted_pngs: Path | None = None,
    ) -> None:
        self.truth = open_annotation(truth)
        if not self.truth.images:
            listed = counted(len(self.truth.unannotated), "listed image")
            raise DataError(f"{truth} annotates none of its {listed}; expected at least one row in `annotations`")
        self.predictions = read_predictions(predictions, self.truth.categories)
        self.truth_pngs = _folder(truth_pngs, truth, "--gt-folder")
        self.predicted_pngs = _folder(predicted_pngs, predictions, "--pred-folder")
        pairing = pair_images(self.truth, self.predictions)
        self._positions = pairing.positions
        self.notes = [
            note for note in (pairing.note, self._note_about_classes(), self._note_about_unannotated()) if note
        ]
        expect_reads(2 * len(self))

    def _note_about_classes(self) -> str:
        ids = self.predictions.ids_by_name or {}
        others = [(own, self.categories.by_id(other)) for own, other in ids.items() if own != other]
        if not others:
            return ""
        listed = "; ".join(f"{row.name!r} is {own} here and {row.id} there" for own, row in others[:_CLASSES])
        return (
            f"{self.predictions.path} numbers {counted(len(others), 'class')} differently from the ground truth "
            f"({listed}), so classes are paired by name"
        )

    def _note_about_unannotated(self) -> str:
        count, total = len(self.truth.unannotated), len(self.truth.unannotated) + len(self.truth.images)
        if not count:
            return ""
        return (
            f"{self.truth.path} annotates {len(self.truth.images)} of its {counted(total, 'image')}; {count} left out"
        )

    @property
    def categories(self) -> CategoryTable:
        return self.truth.categories

    def __len__(self) -> int:
        return len(self.truth.images)

    def image_info(self, index: int) -> ImageInfo:
        """Return id, file names and size of an image from the ground truth."""
        return self.truth.images[index]

    def prediction_path(self, index: int) -> Path:
        return _png(self.predicted_pngs, self.predictions, self._positions[index])

    def truth_path(self, index: int) -> Path:
        return _png(self.truth_pngs, self.truth, index)

    def __getitem__(self, index: int) -> tuple[PanopticMap, PanopticMap]:
        """Return prediction and ground truth of an image; list and map of the ground truth may disagree.

        Areas that the ground truth does not list are counted in the map.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        ids = read_panoptic_png(self.truth_path(index))
        truth = PanopticMap(ids, tuple(measured(segment, ids) for segment in self.truth.segments(index)))
        predicted = read_panoptic_png(self.prediction_path(index))
        segments = tuple(measured(segment, predicted) for segment in self.predictions.segments(self._positions[index]))
        return PanopticMap(predicted, segments), truth


def _folder(given: Path | None, json_path: Path, option: str) -> Path:
    folder = given or json_path.with_suffix("")
    if not folder.is_dir():
        raise DataError(
            f"the folder of PNGs {folder} of {json_path} does not exist; expected one PNG for each annotated image; "
            f"pass the folder with {option}"
        )
    return folder


def _png(folder: Path, annotation: PanopticAnnotation, index: int) -> Path:
    return name_inside(folder, annotation.images[index].png_name, str(annotation.path))
