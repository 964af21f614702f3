"""Box AP and mask AP of the things, by pycocotools, against the panoptic annotation.

Every image is matched when it comes, by pycocotools' own code on that image alone. Scores and flags are kept of it, no
masks; `Detections` makes the figures of them.
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
    """The things that a model sees in one image, in any order.

    image_id: the data set's id of the image.
    scores: (N,) confidence 0..1.
    labels: (N,) integer labels of the category table, things only.
    boxes: (N, 4) x1, y1, x2, y2 in pixels of the image.
    masks: N COCO run-length encodings at the size of the image, as `encode_mask` makes them.
    """

    image_id: int | str
    scores: npt.ArrayLike
    labels: npt.ArrayLike
    boxes: npt.ArrayLike
    masks: Sequence[dict[str, Any]]


class DetectionQuality:
    """Gathers images one by one; processes that share the images `merge` their parts before `result`.

    metrics: what images are matched by; each takes its time.
    """

    def __init__(self, categories: CategoryTable, metrics: Sequence[Metric] = METRICS) -> None:
        self.categories = categories
        self.metrics = tuple(metrics)
        self._detections = Detections(self.metrics, categories.num_things)

    def update(self, prediction: InstancePrediction, truth: PanopticMap) -> None:
        """Match and add one image; raises as `match_instances` and `add`."""
        self.add(match_instances(prediction, truth, self.categories, self.metrics))

    def add(self, image: ImageDetections) -> None:
        """Add an image that was matched by the metrics of this quality.

        Raises:
            DataError: the image came before.
        """
        if image.image_id in self._detections.places:
            raise DataError(f"image {image.image_id} was counted before; expected every image once")
        self._detections.add(image)

    def merge(self, other: DetectionQuality) -> None:
        """Add the images of `other`, which must have an equal category table and none of the same images."""
        if other.categories != self.categories:
            raise DataError("two detection qualities have different category tables; expected one table for both")
        twice = sorted(str(image_id) for image_id in self._detections.places.keys() & other._detections.places)
        if twice:
            raise DataError(
                f"images {listing(twice)} are in two parts of the detections; expected every image in one part"
            )
        self._detections.merge(other._detections)

    def result(self, metrics: Iterable[Metric] | None = None) -> dict[str, dict[str, float | None]]:
        """`{"bbox": {"AP": 41.2, "AP50": ...}, "segm": {...}}` in percent, keys as `average_precision.FIGURES`.

        None stands where there is no ground truth to find. The order in which images came does not matter.

        metrics: some of those of this quality; None: all of them.
        """
        chosen = self.metrics if metrics is None else metrics
        return {metric: self._detections.average_precisions(metric) for metric in chosen}


def match_instances(
    prediction: InstancePrediction, truth: PanopticMap, categories: CategoryTable, metrics: Sequence[Metric] = METRICS
) -> ImageDetections:
    """Match the instances of one image. The stuff of `truth` is left out; boxes and areas are those of its rows.

    Raises:
        DataError: the lists of the prediction differ in length, a label is not that of a thing, a mask has another size
            than the ground truth, or a category is not in the table.
    """
    where = f"image {prediction.image_id}"
    true = _truth_rows(truth, categories, where)
    guessed = _prediction_rows(prediction, truth, categories.num_things, where)
    matches = {metric: _match(true, guessed, metric) for metric in metrics}
    by_label = next(iter(matches.values()), {})  # labels, scores and objects are the same for every metric
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
    """COCO's compressed run-length encoding `{"size": [H, W], "counts": text}` of an (H, W) bool mask."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _truth_rows(truth: PanopticMap, categories: CategoryTable, where: str) -> list[Row]:
    """The things as pycocotools' rows."""
    unknown = sorted({s.category_id for s in truth.segments if s.category_id not in categories})
    if unknown:
        raise DataError(f"{where}: categories {unknown} are unknown; expected ids of the category table")
    ids = np.asfortranarray(truth.ids)  # the order in which masks are encoded: transposed once, not for every mask
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
    """The instances as pycocotools' rows, without areas."""
    scores = np.asarray(prediction.scores, dtype=np.float64)
    labels = np.asarray(prediction.labels, dtype=np.int64)
    boxes = np.asarray(prediction.boxes, dtype=np.float64).reshape(-1, 4)
    lengths = [len(scores), len(labels), len(boxes), len(prediction.masks)]
    if len(set(lengths)) > 1:
        raise DataError(f"{where}: scores, labels, boxes, masks have the lengths {lengths}; expected equal lengths")
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_things):
        raise DataError(f"{where}: labels {labels.tolist()}; expected things, 0 to {num_things - 1}")
    size = [int(side) for side in truth.ids.shape]
    if any(list(mask["size"]) != size for mask in prediction.masks):
        raise DataError(
            f"{where}: a predicted mask has another size than the ground truth, {size}; expected equal sizes"
        )
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    columns = zip(labels.tolist(), xywh.tolist(), scores.tolist(), prediction.masks, strict=True)
    return [
        {"category_id": label, "bbox": box, "score": score, "segmentation": mask, "iscrowd": 0}
        for label, box, score, mask in columns
    ]


def _match(true: list[Row], guessed: list[Row], metric: Metric) -> dict[int, list[Row]]:
    """pycocotools' matches by label, ascending: one for every range of area."""
    if not true and not guessed:
        return {}
    areas = [_predicted_area(row, metric) for row in guessed]
    sized = [{**row, "area": area} for row, area in zip(guessed, areas, strict=True)]
    with redirect_stdout(StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_one_image(true), _one_image(sized), metric)
        evaluation.params.imgIds = [0]
        evaluation.params.catIds = sorted({row["category_id"] for row in true + guessed})
        evaluation.evaluate()
    return {
        int(label): evaluation.evalImgs[place * AREAS : (place + 1) * AREAS]
        for place, label in enumerate(evaluation.params.catIds)
    }


def _predicted_area(row: Row, metric: Metric) -> float:
    if metric == "bbox":
        return float(row["bbox"][2] * row["bbox"][3])
    return float(coco_mask.area(row["segmentation"]))


def _one_image(rows: list[Row]) -> COCO:
    """pycocotools' table of image 0. Rows are numbered from 1, since it takes the id 0 for `unmatched`."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 0, "height": None, "width": None}],  # it asks for the size, but only polygons need it
        "annotations": [{**row, "id": number, "image_id": 0} for number, row in enumerate(rows, start=1)],
        "categories": [{"id": label} for label in {row["category_id"] for row in rows}],
    }
    coco.createIndex()
    return coco


def _flags(matches: Iterable[list[Row]]) -> Flags:
    """The flags of `ImageDetections`, of pycocotools' matches of one label after another."""
    none = np.zeros((AREAS, THRESHOLDS, 0), dtype=bool)
    by_label = list(matches)
    matched = [np.stack([row["dtMatches"] > 0 for row in rows]) for rows in by_label]
    ignored = [np.stack([row["dtIgnore"] for row in rows]) for rows in by_label]
    return pack_flags(np.concatenate([none, *matched], axis=-1), np.concatenate([none, *ignored], axis=-1))
