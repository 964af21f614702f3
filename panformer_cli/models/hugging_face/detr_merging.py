"""DETR's merging of masks: every pixel goes to the kept query with the highest mask logit, and none is void.

The rule is that of the original project (docs/hugging_face_rules.md). It merges the masks of one stuff class, but only
in the first round. In the next rounds such a query is among those that are dropped, since its area is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from panformer_cli.models.hugging_face.merging import LabelMap, QuerySegment
from panformer_cli.models.hugging_face.query_masks import Kept, QueryMasks, Size

SMALLEST_DROPPED = 4
"""Queries with this many pixels or fewer are dropped."""


def merge(masks: QueryMasks, kept: Kept, groups: Sequence[int | None]) -> LabelMap:
    """Return the map of the kept queries.

    Args:
        masks: masks of the image.
        kept: the queries above the score threshold.
        groups: of each label; masks of one group are merged in the first round.
    """
    logits = masks.resized_logits(kept.queries)
    numbers = list(range(len(kept.queries)))
    winners = _winners(logits, _merged([groups[label] for label in kept.labels]), masks.size)
    while numbers:
        areas = np.bincount(winners.reshape(-1), minlength=len(numbers))
        large = [place for place in range(len(numbers)) if areas[place] > SMALLEST_DROPPED]
        if len(large) == len(numbers):
            segments = [QuerySegment(place + 1, number) for place, number in enumerate(numbers)]
            return LabelMap(winners.astype(np.int32) + 1, segments)
        numbers = [numbers[place] for place in large]
        winners = _winners(logits[numbers], list(range(len(numbers))), masks.size)
    return LabelMap(np.zeros(masks.size, np.int32), [])


def _merged(groups: Sequence[int | None]) -> list[int]:
    """Return for each query the first query of its group, or itself."""
    first: dict[int, int] = {}
    return [number if group is None else first.setdefault(group, number) for number, group in enumerate(groups)]


def _winners(logits: Tensor, merged: Sequence[int], size: Size) -> npt.NDArray[np.int64]:
    """Return the number of the query of each pixel of the image, (H, W).

    Args:
        logits: (n, h, w) at the size of the resized image.
        merged: number of the query that gets the pixels of each query.
        size: of the image.
    """
    if not len(logits):
        return np.zeros(size, np.int64)
    best = logits.softmax(0).numpy().argmax(0)  # the first one of equals
    numbers = np.array(merged, np.int32)[best]
    height, width = size
    return np.asarray(Image.fromarray(numbers, mode="I").resize((width, height), Image.Resampling.NEAREST), np.int64)
