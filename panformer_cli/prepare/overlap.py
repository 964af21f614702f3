"""Merge overlapping masks into a panoptic map, in which every pixel belongs to at most one segment."""

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
from panformer_cli.prepare.left_out import COVERED, NO_PIXELS, AnnotationLog

OverlapRule = Literal["last", "first", "smallest", "error"]
OVERLAP_RULES: tuple[OverlapRule, ...] = get_args(OverlapRule)
"""Which mask keeps a pixel covered by several: the last, the first, or the one with the smallest area (the first of
equal ones). `error` rejects such an image."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Layer:
    """One annotated object or region before overlaps are resolved.

    Attributes:
        mask: (h, w) bool; a crop of the image that starts at row `top` and column `left`.
        name: Name in error messages, such as `polygon 3 (car)`.
    """

    category_id: int
    mask: Mask
    name: str
    top: int = 0
    left: int = 0
    is_crowd: bool = False


def panoptic_of_layers(
    layers: Iterable[Layer],
    size: tuple[int, int],
    categories: CategoryTable,
    rule: OverlapRule,
    where: str,
    log: AnnotationLog,
) -> PanopticMap:
    """Merge masks into one map; uncovered pixels are void (0).

    Each thing gets its own id, numbered from 1 in the order of `layers`. All stuff of one category is one segment that
    is never a crowd, as in COCO. All crowds of one category are also one segment. Segments without pixels are dropped.

    Args:
        layers: Masks in drawing order.
        size: Height and width of the map.
        categories: The category table.
        rule: Which mask keeps shared pixels.
        where: The file, for error messages.
        log: Receives the masks without pixels, and the segments that others cover.

    Raises:
        DataError: Two segments overlap and the rule is `error`.
    """
    ids: IdMap = np.zeros(size, np.int32)
    numbers = _Numbers(categories)
    # Number the layers before sorting, so that the rule does not change the ids.
    numbered = [(layer, numbers.of(layer)) for layer in layers]
    if rule == "smallest":  # the smallest is painted last; of equal ones, the first
        numbered = sorted(numbered, key=lambda pair: int(pair[0].mask.sum()))[::-1]
    for layer, number in numbered:
        _paint(ids, layer, number, rule, numbers, where)
    segments = segments_of(ids, numbers.category_of_id, numbers.crowd_ids)
    visible = {segment.id for segment in segments}
    for layer, number in numbered:
        if not layer.mask.any():
            log.left_out.append((NO_PIXELS, f"{where}: {layer.name} has no pixels"))
        elif number not in visible:
            log.left_out.append((COVERED, f"{where}: other annotations cover all pixels of {layer.name}"))
    return PanopticMap(ids, segments)


class _Numbers:
    """Assigns segment ids."""

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
            "fix the annotation, or resolve overlaps with --overlap last, first or smallest"
        )
