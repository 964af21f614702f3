"""Predictions on disk beside their ground truth: two panoptic JSONs and their PNGs, no images."""

from __future__ import annotations

from pathlib import Path

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.annotation_index import open_annotation
from panformer_cli.data.coco.coco_panoptic import measured
from panformer_cli.data.coco.panoptic_annotation import ImageInfo, PanopticAnnotation
from panformer_cli.data.coco.panoptic_json import read_predictions
from panformer_cli.data.coco.panoptic_png import expect_reads, read_panoptic_png
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.storage.files import name_inside


class PanopticPairs:
    """The images that `truth` annotates, each with its prediction; further predictions are left out.

    truth, predictions: panoptic JSONs; of the predictions' only `annotations` with image_id, file_name and, for every
        segment, id and category_id (and score) is needed.
    truth_pngs, predicted_pngs: folders of their PNGs; None: the JSON's path without `.json`.

    Raises:
        DataError: a JSON or a folder cannot be used, or an annotated image has no prediction. Reading an item raises it
            when a PNG is missing or damaged.
    """

    def __init__(
        self,
        truth: Path,
        predictions: Path,
        truth_pngs: Path | None = None,
        predicted_pngs: Path | None = None,
    ) -> None:
        self.truth = open_annotation(truth)
        self.predictions = read_predictions(predictions, self.truth.categories)
        self.truth_pngs = _folder(truth_pngs, truth, "--gt-folder")
        self.predicted_pngs = _folder(predicted_pngs, predictions, "--pred-folder")
        places = {info.id: place for place, info in enumerate(self.predictions.images)}
        missing = [info for info in self.truth.images if info.id not in places]
        if missing:
            raise DataError(
                f"{predictions} lacks {len(missing)} of the {len(self.truth.images)} images of {truth}, first image "
                f"{missing[0].id!r} ({missing[0].file_name}); expected a prediction for every annotated image"
            )
        self._places = [places[info.id] for info in self.truth.images]
        expect_reads(2 * len(self))

    @property
    def categories(self) -> CategoryTable:
        return self.truth.categories

    def __len__(self) -> int:
        return len(self.truth.images)

    def image_info(self, index: int) -> ImageInfo:
        """What the ground truth says of an image."""
        return self.truth.images[index]

    def prediction_path(self, index: int) -> Path:
        return _png(self.predicted_pngs, self.predictions, self._places[index])

    def truth_path(self, index: int) -> Path:
        return _png(self.truth_pngs, self.truth, index)

    def __getitem__(self, index: int) -> tuple[PanopticMap, PanopticMap]:
        """Prediction and ground truth of an image, as they are: list and map of the ground truth may disagree.

        Areas that the ground truth does not list are those of the pixels.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        ids = read_panoptic_png(self.truth_path(index))
        truth = PanopticMap(ids, tuple(measured(segment, ids) for segment in self.truth.segments(index)))
        guessed = read_panoptic_png(self.prediction_path(index))
        segments = tuple(measured(segment, guessed) for segment in self.predictions.segments(self._places[index]))
        return PanopticMap(guessed, segments), truth


def _folder(given: Path | None, json_path: Path, option: str) -> Path:
    folder = given or json_path.with_suffix("")
    if not folder.is_dir():
        raise DataError(
            f"the folder of PNGs {folder} of {json_path} does not exist; expected one PNG for each annotated image; "
            f"name the folder with {option}"
        )
    return folder


def _png(folder: Path, annotation: PanopticAnnotation, index: int) -> Path:
    return name_inside(folder, annotation.images[index].png_name, str(annotation.path))
