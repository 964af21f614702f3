"""Test-time augmentation: the masks of several views of an image are averaged, and merged once.

An object is usually found in every view, with slightly different scores and masks. Candidates of one class are joined
across views if their masks overlap, at most one of each view (docs/model.md, "Views").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.combined.grouping import SAME_OBJECT, join_groups
from panformer_cli.engine.combined.options import View
from panformer_cli.engine.inference import Predictor
from panformer_cli.models.base import Prediction
from panformer_cli.models.candidates import Bools, Floats, MaskCandidates, MaskPrediction

Masks = TypeVar("Masks", bound=MaskCandidates)


class AugmentedPredictor(Predictor):
    """Run a model on several views of each image.

    Args:
        predictor: The model; it predicts masks.
        views: The views, two or more.
    """

    def __init__(self, predictor: Predictor, views: Sequence[View]) -> None:
        super().__init__(predictor.model, predictor.recipe, predictor.device, predictor.precision)
        self.views = {view: _scaled(predictor, view.scale) for view in views}

    def described(self, size: tuple[int, int]) -> dict[str, Any]:
        """Return the views; see `Predictor.described`."""
        return {**super().described(size), "views": [str(view) for view in self.views]}

    def notes(self) -> list[str]:
        """Return the views; see `Predictor.notes`."""
        return [f"Each image is run in {len(self.views)} views ({'; '.join(map(str, self.views))})"]

    def _batch_key(self, image: ImageArray) -> tuple[int, ...]:
        """Return the input sizes of all views: only images that agree in all of them form a batch."""
        return tuple(side for predictor in self.views.values() for side in predictor.input_size(image.shape[:2]))

    def _predictions(self, images: Sequence[ImageArray], size: tuple[int, int] | None = None) -> Iterator[Prediction]:
        """Yield the predictions of a batch. One view at a time is run; only its small masks are kept."""
        parts = [list(_view_predictions(predictor, view, images, size)) for view, predictor in self.views.items()]
        for predictions in zip(*parts, strict=True):
            yield predictions[0].with_candidates(average([prediction.candidates for prediction in predictions]))


def _scaled(predictor: Predictor, scale: float) -> Predictor:
    """Return the predictor for inputs of another size, which are resized from the original image."""
    data = predictor.recipe.data
    data = replace(data, short_side=round(scale * data.short_side), long_side=round(scale * data.long_side))
    recipe = replace(predictor.recipe, data=data)
    return Predictor(predictor.model, recipe, predictor.device, predictor.precision)


def _view_predictions(
    predictor: Predictor, view: View, images: Sequence[ImageArray], size: tuple[int, int] | None
) -> Iterator[MaskPrediction]:
    """Yield the predictions of one view of a batch, with boxes as in the original images, or as in those of `size`."""
    shown = [np.ascontiguousarray(image[:, ::-1]) if view.flipped else image for image in images]
    output = predictor.infer(*predictor.prepare(shown))
    for number, image in enumerate(images):
        prediction = predictor.postprocess(output, number, size or (image.shape[0], image.shape[1]))
        assert isinstance(prediction, MaskPrediction), "checked by `with_options`"
        yield prediction.with_candidates(mirrored(prediction.candidates)) if view.flipped else prediction


def mirrored(candidates: Masks) -> Masks:
    """Return the candidates with left and right exchanged."""
    boxes, width = candidates.boxes.copy(), np.float32(candidates.size[1])
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return replace(candidates, masks=np.ascontiguousarray(candidates.masks[:, :, ::-1]), boxes=boxes)


def average(views: Sequence[Masks]) -> Masks:
    """Return the candidates of one image from those of its views.

    Masks are compared and averaged on the finest grid of the views. A view without a thing counts as a class score of
    0 for it, but its mask and box are the mean of those views that have it.
    """
    shape = max((view.masks.shape[1:] for view in views), key=math.prod)
    regridded = [replace(view, masks=_resized(view.masks, shape)) for view in views]
    things = _joined([view.things() for view in regridded])
    stuff = [view.stuff() for view in regridded]
    assert all(np.array_equal(view.labels, stuff[0].labels) for view in stuff), "every view has the same stuff classes"
    return replace(
        views[0],
        labels=np.concatenate([things.labels, stuff[0].labels]),
        class_scores=np.concatenate([things.class_scores, np.mean([view.class_scores for view in stuff], axis=0)]),
        masks=np.concatenate([things.masks, np.mean([view.masks for view in stuff], axis=0)]),
        boxes=things.boxes,
    )


def _joined(views: Sequence[Masks]) -> Masks:
    """Return the things of all views on one grid, those of one object as one, by descending class score."""
    labels, scores, masks, boxes = (
        np.concatenate([getattr(view, name) for view in views]) for name in ("labels", "class_scores", "masks", "boxes")
    )
    owners = np.repeat(np.arange(len(views)), [len(view.labels) for view in views])
    groups = join_groups(owners.tolist(), _pairs(labels, scores, owners, masks > views[0].threshold))
    means = np.array([scores[group].sum() / len(views) for group in groups], np.float32)
    order = np.argsort(-means, kind="stable").tolist()
    chosen = [groups[number] for number in order]
    return replace(
        views[0],
        labels=labels[[group[0] for group in chosen]],
        class_scores=means[order],
        masks=np.array([masks[group].mean(axis=0) for group in chosen], np.float32).reshape(-1, *masks.shape[1:]),
        boxes=np.array([boxes[group].mean(axis=0) for group in chosen], np.float32).reshape(-1, 4),
    )


def _pairs(
    labels: npt.NDArray[np.int64], scores: Floats, owners: npt.NDArray[np.int64], claimed: Bools
) -> list[tuple[int, int]]:
    """Return the pairs of things of one class in two views that overlap, the most certain pairs first.

    The order is by IoU times both class scores: a view can find an object several times, and then its best candidates
    are joined.

    Args:
        labels: (n,).
        scores: (n,) class scores.
        owners: (n,) view of each thing.
        claimed: (n, h, w) cells above the threshold.
    """
    found: list[tuple[float, int, int]] = []
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        cells = claimed[of_class].reshape(len(of_class), -1).astype(np.float32)
        areas, shared = cells.sum(axis=1), cells @ cells.T
        overlap = shared / np.maximum(areas[:, None] + areas - shared, 1)
        views = owners[of_class]
        one, other = np.nonzero((overlap > SAME_OBJECT) & (views[:, None] < views))
        certainty = overlap[one, other] * scores[of_class[one]] * scores[of_class[other]]
        found += zip(certainty.tolist(), of_class[one].tolist(), of_class[other].tolist(), strict=True)
    return [(one, other) for _, one, other in sorted(found, key=lambda pair: -pair[0])]


def _resized(masks: Floats, shape: tuple[int, ...]) -> Floats:
    """Return masks (n, h, w) on another grid, resized bilinearly."""
    if masks.shape[1:] == shape:
        return masks
    height, width = shape
    resized = [cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR) for mask in masks]
    return np.array(resized, np.float32).reshape(-1, height, width)
