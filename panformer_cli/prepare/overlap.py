"""Masks that may lie over each other, to a map in which every pixel belongs to one segment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import IdMap, PanopticMap
from panformer_cli.errors import DataError

OverlapRule = Literal["last", "first", "smallest", "error"]
OVERLAP_RULES: tuple[OverlapRule, ...] = get_args(OverlapRule)
"""Who keeps a pixel that several masks claim: the last of them, the first, or the one of the smallest area (of equal
ones the first); `error` refuses such an image."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Layer:
    """One annotated object or region before overlaps are resolved.

    mask: (h, w) bool, the part of the image from `top` and `left` on: an object is small, the image is not.
    name: how an error speaks of it: `polygon 3 (car)`.
    """

    category_id: int
    mask: Mask
    name: str
    top: int = 0
    left: int = 0
    is_crowd: bool = False


def panoptic_of_layers(
    layers: Iterable[Layer], size: tuple[int, int], categories: CategoryTable, rule: OverlapRule, where: str
) -> PanopticMap:
    """Lay masks over each other; uncovered pixels are void (0).

    size: height and width of the map.
    Things get an id each, numbered from 1 in the order of `layers`. All stuff of one category is one segment, as COCO
    has it and never a crowd, and so are the crowds of one category. A segment that keeps no pixel is left out.

    Raises:
        DataError: with the rule `error`, two segments claim a pixel; `where` says of what file.
    """
    ids: IdMap = np.zeros(size, np.int32)
    numbers = _Numbers(categories)
    # Numbered before they are sorted, so that the rule does not change the ids.
    numbered = [(layer, numbers.of(layer)) for layer in layers]
    if rule == "smallest":  # painted last, and of equal ones the first
        numbered = sorted(numbered, key=lambda pair: int(pair[0].mask.sum()))[::-1]
    for layer, number in numbered:
        _paint(ids, layer, number, rule, numbers, where)
    return PanopticMap(ids, segments_of(ids, numbers.category_of_id, numbers.crowd_ids))


class _Numbers:
    """Segment ids as they are given out."""

    def __init__(self, categories: CategoryTable) -> None:
        self._categories = categories
        self._shared: dict[tuple[int, bool], int] = {}
        self.category_of_id: dict[int, int] = {}
        self.crowd_ids: set[int] = set()
        self.names: dict[int, str] = {}

    def of(self, layer: Layer) -> int:
        is_thing = self._categories.by_id(layer.category_id).is_thing
        is_crowd = layer.is_crowd and is_thing
        is_shared = is_crowd or not is_thing
        key = (layer.category_id, is_crowd)
        number = self._shared.get(key) if is_shared else None
        if number is None:
            number = len(self.category_of_id) + 1
            self.category_of_id[number] = layer.category_id
            self.names[number] = layer.name
            if is_crowd:
                self.crowd_ids.add(number)
            if is_shared:
                self._shared[key] = number
        return number


def _paint(ids: IdMap, layer: Layer, number: int, rule: OverlapRule, numbers: _Numbers, where: str) -> None:
    height, width = layer.mask.shape
    part = ids[layer.top : layer.top + height, layer.left : layer.left + width]
    mask = layer.mask[: part.shape[0], : part.shape[1]]
    if rule == "error":
        _refuse_overlap(part, mask, number, layer, numbers, where)
    if rule == "first":
        mask = mask & (part == 0)
    part[mask] = number


def _refuse_overlap(part: IdMap, mask: Mask, number: int, layer: Layer, numbers: _Numbers, where: str) -> None:
    taken = part[mask]
    others = taken[(taken != 0) & (taken != number)]
    if others.size:
        other = numbers.names[int(others[0])]
        raise DataError(
            f"{where}: {layer.name} and {other} share {int((others == others[0]).sum())} pixels; expected no overlap; "
            "fix the annotation, or choose who keeps such pixels with --overlap last, first or smallest"
        )
