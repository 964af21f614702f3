"""Instances of one image, which may overlap, for box AP and mask AP, by the rules of the original projects."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from panformer_cli.metrics.detection import encode_mask
from panformer_cli.models.hugging_face.query_masks import QueryMasks
from panformer_cli.models.layers.boxes import cxcywh_to_xyxy

Box = tuple[float, float, float, float]


class Instance(NamedTuple):
    """One instance.

    Attributes:
        label: of the network.
        score: 0..1.
        box: x1, y1, x2, y2 in pixels.
        mask: COCO's run-length encoding.
        area: number of pixels of the mask.
    """

    label: int
    score: float
    box: Box
    mask: dict[str, Any]
    area: int


def best_pairs(masks: QueryMasks, most: int, labels: Collection[int]) -> Iterator[Instance]:
    """Yield the best pairs of a query and a label; one query can have several. Mask2Former's rule.

    The score is the class score times the mean probability inside the mask. Empty masks are left out.

    Args:
        masks: masks of the image.
        most: number of pairs, counting those of other labels.
        labels: the labels to yield.
    """
    scores = masks.class_logits.softmax(-1)[:, :-1].flatten()
    best = scores.topk(min(most, len(scores)))
    number_of_labels = masks.class_logits.shape[-1] - 1
    of_query: dict[int, list[tuple[int, float]]] = {}
    for score, pair in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        query, label = divmod(pair, number_of_labels)
        if label in labels:
            of_query.setdefault(query, []).append((label, score))
    for query, pairs in of_query.items():
        logits = masks.enlarged(query)
        mask = logits > 0
        area = int(mask.sum())
        if area:
            quality = float(logits.sigmoid()[mask].sum()) / (area + 1e-6)
            inside = mask.numpy()
            box, encoded = _tight_box(inside), encode_mask(inside)
            for label, score in pairs:
                yield Instance(label, score * quality, box, encoded, area)


def one_per_query(masks: QueryMasks, labels: Collection[int]) -> Iterator[Instance]:
    """Yield an instance for each query whose best label is one of `labels`; DETR's rule. Its box is the predicted one.

    Empty masks are left out.
    """
    assert masks.boxes is not None, "DETR predicts boxes"
    best = masks.class_logits.softmax(-1)[:, :-1].max(-1)
    height, width = masks.size
    boxes = cxcywh_to_xyxy(masks.boxes) * torch.tensor([width, height, width, height], dtype=torch.float32)
    for query, (score, label) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        if label not in labels:
            continue
        inside = (masks.resized_logits([query]).sigmoid() > 0.5).float()
        mask = F.interpolate(inside[None], masks.size, mode="nearest")[0, 0].bool()
        if area := int(mask.sum()):
            left, top, right, bottom = boxes[query].tolist()
            yield Instance(label, score, (left, top, right, bottom), encode_mask(mask.numpy()), area)


def _tight_box(mask: npt.NDArray[np.bool_]) -> Box:
    """Return the smallest box around the pixels of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
