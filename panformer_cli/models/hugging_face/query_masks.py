"""The queries of one image: their class scores and their mask logits, and these masks at the size of the image.

Letters in shapes: Q queries, C labels without "no object", h x w cells of the network's masks, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
"""Height and width in pixels."""


class Kept(NamedTuple):
    """Queries above a score threshold, in the order of the queries.

    Attributes:
        queries: their numbers.
        labels: their labels.
        scores: (n,) float32 class scores.
    """

    queries: list[int]
    labels: list[int]
    scores: Tensor


@dataclass(frozen=True)
class QueryMasks:
    """What the network found in one image.

    Attributes:
        class_logits: (Q, C + 1) float32; the last class is "no object".
        mask_logits: (Q, h, w) float32, of the padded input.
        canvas: size of the padded input.
        resized: size of the resized image in its top-left corner.
        size: size of the original image.
        boxes: (Q, 4) cx, cy, w, h in 0..1 of the image; None if the network predicts none.
    """

    class_logits: Tensor
    mask_logits: Tensor
    canvas: Size
    resized: Size
    size: Size
    boxes: Tensor | None = None

    def kept(self, threshold: float) -> Kept:
        """Return the queries whose best class is an object with a score above the threshold."""
        probabilities = self.class_logits.softmax(-1)
        scores = probabilities.amax(-1)
        labels = (probabilities == scores[:, None]).int().argmax(-1)  # the first one of equal classes
        is_kept = (labels < self.class_logits.shape[-1] - 1) & (scores > threshold)
        queries = is_kept.nonzero()[:, 0].tolist()
        return Kept(queries, labels[queries].tolist(), scores[queries])

    def resized_logits(self, queries: list[int]) -> Tensor:
        """Return mask logits at the size of the resized image, (n, height, width), without the padding."""
        logits = _interpolated(self.mask_logits[queries], self.canvas)
        return logits[:, : self.resized[0], : self.resized[1]]

    def enlarged(self, query: int) -> Tensor:
        """Return the mask logits of a query at the size of the image, (H, W)."""
        return _interpolated(self.resized_logits([query]), self.size)[0]


def _interpolated(logits: Tensor, size: Size) -> Tensor:
    """Return (n, h, w) resized bilinearly."""
    return (
        F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
        if len(logits)
        else torch.zeros(0, *size)
    )
