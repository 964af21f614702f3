"""Box AP and mask AP of the things against the panoptic annotation, computed by pycocotools.

Each image is matched by pycocotools as soon as it is added. Only scores and flags are kept, no masks; `Detections`
computes AP from them.
Letters for shapes: N instances of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.metrics.average_precision import (
    AREAS,
    METRICS,
    THRESHOLDS,
    Detections,
    Flags,
    ImageDetections,
    Metric,
    pack_flags,
)
from panformer_cli.wording import listing

Row = dict[str, Any]


@dataclass
class InstancePrediction:
    """The predicted things of one image, in any order.

    Attributes:
        image_id: dataset id of the image.
        scores: (N,) confidence 0..1.
        labels: (N,) integer labels of the category table, things only.
        boxes: (N, 4) x1, y1, x2, y2 in pixels of the image.
        masks: N COCO run-length encodings at the size of the image, as returned by `encode_mask`.
    """

    image_id: int | str
    scores: npt.ArrayLike
    labels: npt.ArrayLike
    boxes: npt.ArrayLike
    masks: Sequence[dict[str, Any]]


class DetectionQuality:
    """Evaluator of AP: images are added one by one; processes `merge` their parts before `result`.

    Args:
        categories: the category table.
        metrics: those that images are matched for; each takes time.
    """

    def __init__(self, categories: CategoryTable, metrics: Sequence[Metric] = METRICS) -> None:
        self.categories = categories
        self.metrics = tuple(metrics)
        self._detections = Detections(self.metrics, categories.num_things)

    def update(self, prediction: InstancePrediction, truth: PanopticMap) -> None:
        """Match and add one image; errors as `match_instances` and `add`."""
        self.add(match_instances(prediction, truth, self.categories, self.metrics))

    def add(self, image: ImageDetections) -> None:
        """Add an image that was matched for the metrics of this evaluator.

        Raises:
            DataError: the image was already added.
        """
        if image.image_id in self._detections.positions:
            raise DataError(f"image {image.image_id} was already added; expected each image once")
        self._detections.add(image)

    def merge(self, other: DetectionQuality) -> None:
        """Add the images of `other`, which must be different ones, with an equal category table."""
        if other.categories != self.categories:
            raise DataError("cannot merge detections with different category tables; expected equal tables")
        twice = sorted(str(image_id) for image_id in self._detections.positions.keys() & other._detections.positions)
        if twice:
            raise DataError(
                f"images {listing(twice)} are in two parts of the detections; expected each image in one part"
            )
        self._detections.merge(other._detections)

    def result(self, metrics: Iterable[Metric] | None = None) -> dict[str, dict[str, float | None]]:
        """Return `{"bbox": {"AP": 41.2, "AP50": ...}, "segm": {...}}` in percent, with the keys of `AP_RANGES`.

        Values are None if the ground truth has no object. The order of the images does not matter.

        Args:
            metrics: some of the metrics of this evaluator; None: all.
        """
        chosen = self.metrics if metrics is None else metrics
        return {metric: self._detections.average_precisions(metric) for metric in chosen}


def match_instances(
    prediction: InstancePrediction, truth: PanopticMap, categories: CategoryTable, metrics: Sequence[Metric] = METRICS
) -> ImageDetections:
    """Return the matched instances of one image. Stuff is ignored; boxes and areas are those listed in `truth`.

    Raises:
        DataError: the lists of the prediction differ in length, a label is not a thing, a mask differs in size from the
            ground truth, or a category is not in the table.
    """
    where = f"image {prediction.image_id}"
    true = _truth_rows(truth, categories, where)
    predicted = _prediction_rows(prediction, truth, categories.num_things, where)
    matches = {metric: _match(true, predicted, metric) for metric in metrics}
    by_label = next(iter(matches.values()), {})  # labels, scores and objects are the same for each metric
    scores = [rows[0]["dtScores"] for rows in by_label.values()]
    counts = [[int(np.sum(row["gtIgnore"] == 0)) for row in rows] for rows in by_label.values()]
    labels = np.array(list(by_label), np.int64)
    return ImageDetections(
        image_id=prediction.image_id,
        labels=np.repeat(labels, [len(of_label) for of_label in scores]),
        scores=np.array([score for of_label in scores for score in of_label], np.float64),
        flags={metric: _flags(found.values()) for metric, found in matches.items()},
        truth_labels=labels,
        truth_counts=np.array(counts, np.int64).reshape(len(labels), AREAS),
    )


def encode_mask(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return COCO's compressed run-length encoding `{"size": [H, W], "counts": text}` of an (H, W) bool mask."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _truth_rows(truth: PanopticMap, categories: CategoryTable, where: str) -> list[Row]:
    """Return the things as rows of pycocotools."""
    unknown = sorted({s.category_id for s in truth.segments if s.category_id not in categories})
    if unknown:
        raise DataError(f"{where}: categories {unknown} are unknown; expected ids of the category table")
    ids = np.asfortranarray(truth.ids)  # the order in which masks are encoded; transposed once instead of for each mask
    return [
        {
            "category_id": categories.label(segment.category_id),
            "bbox": [float(side) for side in segment.bbox],
            "area": float(segment.area),
            "iscrowd": int(segment.is_crowd),
            "segmentation": encode_mask(ids == segment.id),
        }
        for segment in truth.segments
        if categories.by_id(segment.category_id).is_thing
    ]


def _prediction_rows(prediction: InstancePrediction, truth: PanopticMap, num_things: int, where: str) -> list[Row]:
    """Return the instances as rows of pycocotools, without areas."""
    scores = np.asarray(prediction.scores, dtype=np.float64)
    labels = np.asarray(prediction.labels, dtype=np.int64)
    boxes = np.asarray(prediction.boxes, dtype=np.float64).reshape(-1, 4)
    lengths = [len(scores), len(labels), len(boxes), len(prediction.masks)]
    if len(set(lengths)) > 1:
        raise DataError(f"{where}: scores, labels, boxes and masks have lengths {lengths}; expected equal lengths")
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_things):
        raise DataError(f"{where}: labels {labels.tolist()}; expected things, 0 to {num_things - 1}")
    size = [int(side) for side in truth.ids.shape]
    if any(list(mask["size"]) != size for mask in prediction.masks):
        raise DataError(
            f"{where}: a predicted mask differs in size from the ground truth, {size}; expected equal sizes"
        )
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    columns = zip(labels.tolist(), xywh.tolist(), scores.tolist(), prediction.masks, strict=True)
    return [
        {"category_id": label, "bbox": box, "score": score, "segmentation": mask, "iscrowd": 0}
        for label, box, score, mask in columns
    ]


def _match(true: list[Row], predicted: list[Row], metric: Metric) -> dict[int, list[Row]]:
    """Return pycocotools' matches by label, ascending: one for each area range."""
    if not true and not predicted:
        return {}
    areas = [_predicted_area(row, metric) for row in predicted]
    sized = [{**row, "area": area} for row, area in zip(predicted, areas, strict=True)]
    with redirect_stdout(StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_one_image(true), _one_image(sized), metric)
        evaluation.params.imgIds = [0]
        evaluation.params.catIds = sorted({row["category_id"] for row in true + predicted})
        evaluation.evaluate()
    return {
        int(label): evaluation.evalImgs[index * AREAS : (index + 1) * AREAS]
        for index, label in enumerate(evaluation.params.catIds)
    }


def _predicted_area(row: Row, metric: Metric) -> float:
    if metric == "bbox":
        return float(row["bbox"][2] * row["bbox"][3])
    return float(coco_mask.area(row["segmentation"]))


def _one_image(rows: list[Row]) -> COCO:
    """Return pycocotools' data set of image 0. Rows are numbered from 1, since the id 0 means unmatched."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 0, "height": None, "width": None}],  # the keys are required, but only polygons need the size
        "annotations": [{**row, "id": number, "image_id": 0} for number, row in enumerate(rows, start=1)],
        "categories": [{"id": label} for label in {row["category_id"] for row in rows}],
    }
    coco.createIndex()
    return coco


def _flags(matches: Iterable[list[Row]]) -> Flags:
    """Return the flags of `ImageDetections` from pycocotools' matches, label by label."""
    none = np.zeros((AREAS, THRESHOLDS, 0), dtype=bool)
    by_label = list(matches)
    matched = [np.stack([row["dtMatches"] > 0 for row in rows]) for rows in by_label]
    ignored = [np.stack([row["dtIgnore"] for row in rows]) for rows in by_label]
    return pack_flags(np.concatenate([none, *matched], axis=-1), np.concatenate([none, *ignored], axis=-1))
