"""Scored masks that compete for the pixels of an image: what tiles and test-time augmentation combine before merging.

A family whose predictions are made of such masks sets `PanopticModel.predicts_masks`, and its `postprocess` returns a
`MaskPrediction`. The engine then combines the masks of several forward passes without knowing the family.

Letters in shapes: n candidates, h x w cells of a mask, H x W pixels of the image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import PanopticMap
from panformer_cli.models.base import Prediction

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Own = TypeVar("Own", bound="MaskCandidates")


@dataclass(frozen=True)
class MaskCandidates(ABC):
    """Masks that compete for the pixels of one image: things first, then stuff, each stuff class at most once.

    Attributes:
        labels: (n,) int64.
        class_scores: (n,), 0..1.
        masks: (n, h, w), 0 or more. Their grid covers the whole image.
        boxes: (things, 4), x1, y1, x2, y2 in pixels of the original image, clipped to it.
        size: height H and width W of the original image, at which the masks are merged.
        threshold: value of a mask above which a pixel is claimed.
    """

    labels: npt.NDArray[np.int64]
    class_scores: Floats
    masks: Floats
    boxes: Floats
    size: tuple[int, int]
    threshold: ClassVar[float]

    def enlarged(self, index: int) -> Floats:
        """Return a mask, resized bilinearly to the size of the image, (H, W)."""
        height, width = self.size
        return np.asarray(cv2.resize(self.masks[index], (width, height), interpolation=cv2.INTER_LINEAR), np.float32)

    def binary(self, index: int) -> Bools:
        """Return the pixels that candidate `index` claims, (H, W)."""
        return self.enlarged(index) > self.threshold

    def things(self: Own) -> Own:
        """Return only the things."""
        count = len(self.boxes)
        return replace(
            self, labels=self.labels[:count], class_scores=self.class_scores[:count], masks=self.masks[:count]
        )

    def stuff(self: Own) -> Own:
        """Return only the stuff."""
        count = len(self.boxes)
        return replace(
            self,
            labels=self.labels[count:],
            class_scores=self.class_scores[count:],
            masks=self.masks[count:],
            boxes=self.boxes[:0],
        )

    @abstractmethod
    def scores(self, least: float = 0.0) -> Floats:
        """Return the scores by which the family merges, (n,); 0 for an empty mask.

        Args:
            least: scores that cannot reach this value may be 0 instead.
        """


class Claim(NamedTuple):
    """The pixels that a candidate claims, as a crop of the image.

    Attributes:
        label: of the category table.
        score: 0 or more.
        top: first row of the crop in the image.
        left: first column of the crop in the image.
        mask: (height, width) bool.
    """

    label: int
    score: float
    top: int
    left: int
    mask: Bools


class MaskPrediction(Prediction):
    """A prediction from scored masks, which can be combined with those of other forward passes.

    Attributes:
        candidates: its masks.
        categories: category table of the data set.
    """

    candidates: MaskCandidates
    categories: CategoryTable

    @property
    @abstractmethod
    def least_score(self) -> float:
        """The lowest score of a segment."""

    @abstractmethod
    def with_candidates(self, candidates: MaskCandidates) -> MaskPrediction:
        """Return the prediction that other masks give, with the same settings."""

    @abstractmethod
    def merge(self, claims: Iterable[Claim], size: tuple[int, int]) -> PanopticMap:
        """Return the panoptic map of an image of any size, by the rules and settings of this prediction.

        Args:
            claims: in descending order of score, each at least `least_score`. Stuff of one class may be in several
                claims, which become one segment.
            size: height and width of the image.
        """
