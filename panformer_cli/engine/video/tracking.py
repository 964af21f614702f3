"""Follows segments from frame to frame, by the overlap of their masks and their class.

A thing that was seen before is expected where its speed takes it. Two assignments pair the known things with those of a
new frame, each of them one to one and with the largest sum: first by IoU with the mask as last seen; then what is left,
by the part that is near the expected place, because a thing that comes out from behind another one is only partly
visible, and a fast one does not overlap with itself. Stuff needs no assignment: all of a class is one track.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import IdMap, PanopticMap, Segment
from panformer_cli.engine.video.options import MEMORY

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Pair = tuple[int, int]

LEAST_IOU = 0.2
"""Smallest IoU of the first assignment."""
LEAST_NEAR = 0.5
"""Smallest part of a segment near the expected place, in the second assignment."""
MARGIN = 0.5
"""What is near: the box of the thing, larger on each side by this part of its shorter side."""
LARGEST_MEAN = 5
"""Motions in the mean that is the speed."""


@dataclass(frozen=True)
class _Patch:
    """A mask inside its box.

    Attributes:
        mask: (h, w) bool.
        corner: (2,) row and column of the box in the frame, in pixels; it may be outside the frame.
    """

    mask: Mask
    corner: Floats

    def moved(self, distance: Floats) -> _Patch:
        return replace(self, corner=self.corner + distance)

    def surroundings(self) -> _Patch:
        """Return the box with a margin, as a mask."""
        margin = max(2, round(MARGIN * min(self.mask.shape)))
        height, width = self.mask.shape
        return _Patch(np.ones((height + 2 * margin, width + 2 * margin), np.bool_), self.corner - margin)


@dataclass(frozen=True)
class _Thing:
    """A thing as it was last seen.

    Attributes:
        track_id: Its track.
        category_id: Its class.
        frame: The last frame in which it was seen.
        seen: Its pixels in that frame.
        whole: Where it was in that frame, hidden parts included: its largest mask in the last frames, moved along.
        whole_frame: The frame of that mask.
        speed: (2,) rows and columns per frame, the mean of the last motions.
        motions: Number of motions in that mean.
    """

    track_id: int
    category_id: int
    frame: int
    seen: _Patch
    whole: _Patch
    whole_frame: int
    speed: Floats
    motions: int


class Tracker:
    """Gives the segments of a video ids that stay with an object.

    Use one tracker per video and call `update` with every frame in order:

    >>> from panformer_cli.data.categories import Category
    >>> tracker = Tracker(CategoryTable([Category(7, "cat", True)]))
    >>> for left in (0, 1, 2):
    ...     ids = np.zeros((8, 8), np.int32)
    ...     ids[2:6, left : left + 4] = 40 + left  # the ids of a prediction mean nothing in other frames
    ...     segment = Segment(40 + left, 7, 16, (left, 2, 4, 4))
    ...     print([segment.id for segment in tracker.update(PanopticMap(ids, (segment,))).segments])
    [1]
    [1]
    [1]

    Args:
        categories: Category table of the segments.
        memory: Largest number of frames for which an object can be hidden and keep its id, 0 or more. Frames of the
            video count, also those that are skipped between two updates.
    """

    def __init__(self, categories: CategoryTable, memory: int = MEMORY) -> None:
        if memory < 0:
            raise ValueError(f"the memory is {memory} frames; expected 0 or more")
        self._categories = categories
        self._memory = memory
        self._things: list[_Thing] = []
        self._stuff: dict[int, int] = {}
        self._tracks = 0
        self._frame: int | None = None
        self._shape: tuple[int, ...] = ()

    def update(self, panoptic: PanopticMap, frame: int | None = None) -> PanopticMap:
        """Return the map of the next frame with track ids, counted from 1 in this video, as segment ids.

        Segments of the same class of stuff become one. The order of the segments is kept.

        Args:
            panoptic: The prediction for the frame; its ids need no relation to those of other frames.
            frame: Number of the frame in the video, larger than the previous one; None for the next one. With a stride,
                it tells the tracker how far objects moved.

        Raises:
            ValueError: The number of the frame is not larger than the previous one, or the size of the frame changed.
            KeyError: The category of a segment is not in the table.
        """
        previous, number = self._frame, self._number(frame, panoptic)
        things = [s for s in panoptic.segments if self._categories.by_id(s.category_id).is_thing]
        if previous is not None:
            self._things = [thing for thing in self._things if previous - thing.frame <= self._memory]
        seen = _Seen(panoptic.ids, things)
        known = {column: self._things[row] for row, column in self._assigned(seen, number)}
        track_of: dict[int, int] = {}
        for column, segment in enumerate(things):
            thing = self._thing(known.get(column), seen, column, number)
            track_of[segment.id] = thing.track_id
            self._things = [other for other in self._things if other.track_id != thing.track_id] + [thing]
        for segment in panoptic.segments:
            if segment.id not in track_of:
                if segment.category_id not in self._stuff:
                    self._stuff[segment.category_id] = self._next_id()
                track_of[segment.id] = self._stuff[segment.category_id]
        return _renamed(panoptic, track_of)

    def _number(self, frame: int | None, panoptic: PanopticMap) -> int:
        """Return the number of the next frame, and remember it."""
        number = frame if frame is not None else 0 if self._frame is None else self._frame + 1
        if self._frame is not None and number <= self._frame:
            raise ValueError(f"frame {number} follows frame {self._frame}; expected a larger number")
        if self._frame is not None and panoptic.ids.shape != self._shape:
            raise ValueError(f"the frame is {panoptic.ids.shape} and the previous one {self._shape}; expected one size")
        self._frame, self._shape = number, panoptic.ids.shape
        return number

    def _next_id(self) -> int:
        self._tracks += 1
        return self._tracks

    def _assigned(self, seen: _Seen, frame: int) -> list[Pair]:
        """Return the pairs (index of a known thing, index of a seen one)."""
        same = [[thing.category_id == segment.category_id for segment in seen.segments] for thing in self._things]
        allowed = np.array(same, np.bool_).reshape(len(self._things), len(seen.segments))
        steps = [thing.speed * (frame - thing.frame) for thing in self._things]
        iou = [
            np.maximum(seen.iou(thing.seen.moved(step)), seen.iou(thing.seen))
            for thing, step in zip(self._things, steps, strict=True)
        ]
        pairs = _assignment(_stacked(iou, allowed), LEAST_IOU)
        for row, column in pairs:
            allowed[row], allowed[:, column] = False, False
        near = [
            seen.inside(thing.whole.moved(step).surroundings()) for thing, step in zip(self._things, steps, strict=True)
        ]
        return pairs + _assignment(_stacked(near, allowed), LEAST_NEAR)

    def _thing(self, known: _Thing | None, seen: _Seen, column: int, frame: int) -> _Thing:
        """Return a seen thing as the next state of a known one, or as a new one."""
        patch = seen.patch(column)
        if known is None:
            category_id = seen.segments[column].category_id
            return _Thing(self._next_id(), category_id, frame, patch, patch, frame, np.zeros(2), 0)
        elapsed = frame - known.frame
        distance = _motion(known.seen, patch, known.speed * elapsed)
        whole, whole_frame = known.whole.moved(distance), known.whole_frame
        if seen.areas[column] >= seen.pixels_below(whole).sum() or frame - whole_frame > self._memory:
            whole, whole_frame = patch, frame
        motions = min(known.motions + 1, LARGEST_MEAN)
        speed = known.speed + (distance / elapsed - known.speed) / motions
        return _Thing(known.track_id, known.category_id, frame, patch, whole, whole_frame, speed, motions)


class _Seen:
    """The things of one frame.

    Attributes:
        segments: Their segments.
        areas: (N,) their pixels in the map.
    """

    def __init__(self, ids: IdMap, segments: Sequence[Segment]) -> None:
        self.segments = segments
        order = np.argsort([segment.id for segment in segments]).astype(np.int32)
        known = np.array([segment.id for segment in segments], np.int32)[order]
        found = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
        self._index = np.zeros(ids.shape, np.int32)  # 0, or 1 + position in `segments`
        if len(known):
            self._index = np.where(known[found] == ids, 1 + order[found], 0)
        self.areas: Floats = np.bincount(self._index.ravel(), minlength=1 + len(segments))[1:].astype(np.float64)

    def patch(self, position: int) -> _Patch:
        """Return the mask of a thing."""
        rows, columns = self.segments[position].box_slices
        mask = self._index[rows, columns] == 1 + position
        return _Patch(mask, np.array([rows.start, columns.start], np.float64))

    def pixels_below(self, patch: _Patch) -> Floats:
        """Return the pixels of a mask on none of the things and on each of them, (1 + N,); outside the frame none."""
        top, left = (int(side) for side in np.rint(patch.corner))
        height, width = patch.mask.shape
        window = self._index[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
        own = patch.mask[max(-top, 0) :, max(-left, 0) :][: window.shape[0], : window.shape[1]]
        return np.bincount(window[own], minlength=1 + len(self.segments)).astype(np.float64)

    def iou(self, patch: _Patch) -> Floats:
        """Return the IoU of each thing with a mask, (N,)."""
        pixels = self.pixels_below(patch)
        iou: Floats = pixels[1:] / np.maximum(pixels.sum() + self.areas - pixels[1:], 1)
        return iou

    def inside(self, patch: _Patch) -> Floats:
        """Return the part of each thing that is inside a mask, (N,)."""
        part: Floats = self.pixels_below(patch)[1:] / np.maximum(self.areas, 1)
        return part


def _motion(before: _Patch, after: _Patch, expected: Floats) -> Floats:
    """Return how far a thing moved, (2,) rows and columns: the distance with the largest IoU of both masks.

    Where it is partly hidden, a side of its box is not its own. So those of the expected distance and of the four sides
    are tried in both directions; among equal ones the expected distance counts.
    """
    first = after.corner - before.corner
    last = first + np.array(after.mask.shape) - np.array(before.mask.shape)
    best, distance = -1.0, expected
    tried = set()
    for rows in (expected[0], first[0], last[0]):
        for columns in (expected[1], first[1], last[1]):
            candidate = np.array([rows, columns])
            moved = before.moved(candidate)
            pixels = tuple(np.rint(moved.corner).tolist())
            if pixels not in tried and (iou := _iou(moved, after)) > best:
                best, distance = iou, candidate
            tried.add(pixels)
    return distance


def _iou(first: _Patch, second: _Patch) -> float:
    """Return the IoU of two masks."""
    offset = np.rint(first.corner).astype(int) - np.rint(second.corner).astype(int)
    low = np.maximum(offset, 0)
    high = np.minimum(offset + first.mask.shape, second.mask.shape)
    if (high <= low).any():
        return 0.0
    own = first.mask[low[0] - offset[0] : high[0] - offset[0], low[1] - offset[1] : high[1] - offset[1]]
    shared = int((own & second.mask[low[0] : high[0], low[1] : high[1]]).sum())
    return shared / (int(first.mask.sum()) + int(second.mask.sum()) - shared)


def _stacked(rows: Sequence[Floats], allowed: npt.NDArray[np.bool_]) -> Floats:
    """Return rows as a table, with 0 where a pair is not allowed."""
    return np.where(allowed, np.array(rows, np.float64).reshape(allowed.shape), 0)


def _assignment(values: Floats, least: float) -> list[Pair]:
    """Return the pairs (row, column) of a one-to-one assignment with the largest sum of values of at least `least`."""
    kept = np.where(values >= least, values, 0)
    rows, columns = linear_sum_assignment(kept, maximize=True)
    return [(row, column) for row, column in zip(rows.tolist(), columns.tolist(), strict=True) if kept[row, column] > 0]


def _renamed(panoptic: PanopticMap, new_id: dict[int, int]) -> PanopticMap:
    """Return the map with other ids; segments that get the same one become one."""
    old = np.array(sorted(new_id), np.int32)
    new = np.array([new_id[segment_id] for segment_id in old.tolist()] or [0], np.int32)
    found = np.minimum(np.searchsorted(old, panoptic.ids), max(len(old) - 1, 0))
    ids = np.where(old[found] == panoptic.ids, new[found], 0) if len(old) else np.zeros_like(panoptic.ids)
    segments: dict[int, Segment] = {}
    for segment in panoptic.segments:
        renamed = replace(segment, id=new_id[segment.id])
        segments[renamed.id] = _joined(segments[renamed.id], renamed) if renamed.id in segments else renamed
    return PanopticMap(ids.astype(np.int32), tuple(segments.values()))


def _joined(first: Segment, second: Segment) -> Segment:
    """Return two segments as one, with the larger score."""
    left, top = (min(first.bbox[side], second.bbox[side]) for side in (0, 1))
    right, bottom = (max(box[side] + box[side + 2] for box in (first.bbox, second.bbox)) for side in (0, 1))
    scores = [score for score in (first.score, second.score) if score is not None]
    return replace(
        first,
        area=first.area + second.area,
        bbox=(left, top, right - left, bottom - top),
        score=max(scores, default=None),
    )
