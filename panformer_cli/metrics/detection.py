"""Box AP and mask AP of the things, by pycocotools, against the panoptic annotation.

Letters for shapes: N instances of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError

Metric = Literal["bbox", "segm"]
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""Names of pycocotools' first six figures, in its order."""


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
    """Gathers images one by one; processes that share the images `merge` their parts before `result`."""

    def __init__(self, categories: CategoryTable) -> None:
        self.categories = categories
        self._images: dict[int | str, dict[str, Any]] = {}

    def update(self, prediction: InstancePrediction, truth: PanopticMap) -> None:
        """Add one image. The stuff of `truth` is left out; boxes and areas are those of its rows.

        Raises:
            DataError: the image came before, the lists of the prediction differ in length, a label is not that of a
                thing, a mask has another size than the ground truth, or a category is not in the table.
        """
        where = f"image {prediction.image_id}"
        if prediction.image_id in self._images:
            raise DataError(f"{where} was counted before; expected every image once")
        size = [int(side) for side in truth.ids.shape]
        self._images[prediction.image_id] = {
            "id": prediction.image_id,
            "size": size,
            "truth": self._truth_rows(truth, where),
            "predictions": self._prediction_rows(prediction, size, where),
        }

    def merge(self, other: DetectionQuality) -> None:
        """Add the images of `other`, which must have an equal category table and none of the same images."""
        if other.categories != self.categories:
            raise DataError("two detection qualities have different category tables; expected one table for both")
        twice = sorted(str(image_id) for image_id in self._images.keys() & other._images.keys())
        if twice:
            raise DataError(f"images {twice[:5]} are in two parts of the detections; expected every image in one part")
        self._images.update(other._images)

    def state(self) -> dict[str, Any]:
        """All images, for JSON; `from_state` reads it back without loss."""
        return {"images": list(self._images.values())}

    @classmethod
    def from_state(cls, categories: CategoryTable, state: dict[str, Any]) -> DetectionQuality:
        """A quality that goes on from a `state()`."""
        quality = cls(categories)
        quality._images = {image["id"]: image for image in state["images"]}
        return quality

    def result(self, metrics: Iterable[Metric] = ("bbox", "segm")) -> dict[str, dict[str, float | None]]:
        """`{"bbox": {"AP": 41.2, "AP50": ...}, "segm": {...}}` in percent, keys as `FIGURES`.

        None stands where there is no ground truth to find. The order in which images came does not matter.
        """
        ordered = sorted(self._images.values(), key=lambda image: (isinstance(image["id"], str), image["id"]))
        return {metric: self._evaluate(ordered, metric) for metric in metrics}

    def _truth_rows(self, truth: PanopticMap, where: str) -> list[dict[str, Any]]:
        unknown = sorted({s.category_id for s in truth.segments if s.category_id not in self.categories})
        if unknown:
            raise DataError(f"{where}: categories {unknown} are unknown; expected ids of the category table")
        ids = np.asfortranarray(truth.ids)  # the order in which masks are encoded: transposed once, not for every mask
        things = [segment for segment in truth.segments if self.categories.by_id(segment.category_id).is_thing]
        return [
            {
                "category_id": segment.category_id,
                "bbox": [float(side) for side in segment.bbox],
                "area": float(segment.area),
                "iscrowd": int(segment.is_crowd),
                "counts": encode_mask(ids == segment.id)["counts"],
            }
            for segment in things
        ]

    def _prediction_rows(self, prediction: InstancePrediction, size: list[int], where: str) -> list[dict[str, Any]]:
        scores = np.asarray(prediction.scores, dtype=np.float64)
        labels = np.asarray(prediction.labels, dtype=np.int64)
        boxes = np.asarray(prediction.boxes, dtype=np.float64).reshape(-1, 4)
        lengths = [len(scores), len(labels), len(boxes), len(prediction.masks)]
        if len(set(lengths)) > 1:
            raise DataError(f"{where}: scores, labels, boxes, masks have the lengths {lengths}; expected equal lengths")
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.categories.num_things):
            raise DataError(
                f"{where}: labels {labels.tolist()}; expected things, 0 to {self.categories.num_things - 1}"
            )
        if any(list(mask["size"]) != size for mask in prediction.masks):
            raise DataError(
                f"{where}: a predicted mask has another size than the ground truth, {size}; expected equal sizes"
            )
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        return [
            {
                "category_id": self.categories.by_label(label).id,
                "bbox": box,
                "score": score,
                "counts": _text(mask["counts"]),
            }
            for label, box, score, mask in zip(
                labels.tolist(), xywh.tolist(), scores.tolist(), prediction.masks, strict=True
            )
        ]

    def _evaluate(self, images: list[dict[str, Any]], metric: Metric) -> dict[str, float | None]:
        with redirect_stdout(StringIO()):  # pycocotools prints its progress and its table
            evaluation = COCOeval(
                self._coco(images, "truth", metric), self._coco(images, "predictions", metric), metric
            )
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return {
            name: None if value < 0 else 100 * float(value)
            for name, value in zip(FIGURES, evaluation.stats[: len(FIGURES)], strict=True)
        }

    def _coco(self, images: list[dict[str, Any]], rows: Literal["truth", "predictions"], metric: Metric) -> COCO:
        """The table of pycocotools: all ground truth, or all predictions.

        Images are numbered anew, since pycocotools takes no mixture of texts and numbers for ids. Rows are numbered
        from 1, since it takes the id 0 for `unmatched`.
        """
        annotations = [
            _annotation(row, number, image["size"], metric)
            for number, image in enumerate(images)
            for row in image[rows]
        ]
        coco = COCO()
        coco.dataset = {
            "images": [
                {"id": number, "height": image["size"][0], "width": image["size"][1]}
                for number, image in enumerate(images)
            ],
            "annotations": [{"id": place, **annotation} for place, annotation in enumerate(annotations, start=1)],
            "categories": [{"id": row.id} for row in self.categories.categories if row.is_thing],
        }
        coco.createIndex()
        return coco


def encode_mask(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's compressed run-length encoding `{"size": [H, W], "counts": text}` of an (H, W) bool mask."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": _text(encoded["counts"])}


def _annotation(row: dict[str, Any], image: int, size: list[int], metric: Metric) -> dict[str, Any]:
    """A row of pycocotools' table. A prediction's area is that of its box for `bbox`, of its mask for `segm`."""
    mask = {"size": size, "counts": row["counts"]}
    area = row.get("area")
    if area is None:
        area = row["bbox"][2] * row["bbox"][3] if metric == "bbox" else float(coco_mask.area(mask))
    return {
        "image_id": image,
        "category_id": row["category_id"],
        "bbox": row["bbox"],
        "area": area,
        "iscrowd": row.get("iscrowd", 0),
        "score": row.get("score", 0.0),
        "segmentation": mask,
    }


def _text(counts: bytes | str) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts
