"""Tracks: which segments of a video get the same id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.scenes.moving import CATEGORIES, MovingOptions, moving_scene
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.data.structures import PanopticMap
from panformer_cli.engine.video.tracking import Tracker
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.video_quality import VideoQuality

DISC, BOX, SKY = 7, 3, 20
TABLE = CategoryTable([Category(DISC, "disc", True), Category(BOX, "box", True), Category(SKY, "sky", False)])
Shape = tuple[int, int, int, int]
"""Row and column of a disc's center, radius, and category."""


def frame(*shapes: Shape, first_id: int = 1, size: tuple[int, int] = (40, 90)) -> PanopticMap:
    """Return a frame of sky with discs, later ones on top; ids count from `first_id`, the sky is last."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    ids = np.full(size, first_id + len(shapes), np.int32)
    categories = {first_id + len(shapes): SKY}
    for number, (row, column, radius, category) in enumerate(shapes, first_id):
        ids[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = number
        categories[number] = category
    return PanopticMap(ids, segments_of(ids, categories))


def track_at(panoptic: PanopticMap, row: int, column: int) -> int:
    return int(panoptic.ids[row, column])


def shuffled(panoptic: PanopticMap, random: np.random.Generator) -> PanopticMap:
    """Return the map with other ids and another order of the segments."""
    new = (random.permutation(len(panoptic.segments)) + 1 + random.integers(1000)).tolist()
    ids = np.zeros_like(panoptic.ids)
    segments = []
    for segment, number in zip(panoptic.segments, new, strict=True):
        ids[panoptic.ids == segment.id] = number
        segments.append(replace(segment, id=number))
    return PanopticMap(ids, tuple(segments[position] for position in random.permutation(len(segments))))


def tracked(frames: Sequence[PanopticMap], stride: int = 1, memory: int = 30) -> list[PanopticMap]:
    tracker = Tracker(TABLE, memory)
    return [tracker.update(panoptic, number) for number, panoptic in enumerate(frames) if number % stride == 0]


def test_ids_count_from_1_and_stay_with_the_object() -> None:
    frames = [frame((10, 10 + 2 * t, 6, DISC), (30, 60 - 3 * t, 6, DISC), first_id=1 + 50 * t) for t in range(12)]
    results = tracked(frames)
    assert [track_at(result, 10, 10 + 2 * t) for t, result in enumerate(results)] == [1] * 12
    assert [track_at(result, 30, 60 - 3 * t) for t, result in enumerate(results)] == [2] * 12
    assert {track_at(result, 0, 45) for result in results} == {3}


def test_objects_that_cross_keep_their_ids() -> None:
    """One disc passes in front of another one of its class, which is half covered for a while."""
    frames = [frame((20, 10 + 3 * t, 8, DISC), (28, 70 - 3 * t, 8, DISC)) for t in range(20)]
    results = tracked(frames)
    assert {track_at(result, 14, 10 + 3 * t) for t, result in enumerate(results)} == {1}
    assert {track_at(result, 28, 70 - 3 * t) for t, result in enumerate(results)} == {2}


@pytest.mark.parametrize(("hidden", "memory", "same"), [(2, 30, True), (2, 2, True), (2, 1, False), (3, 2, False)])
def test_an_object_returns_with_its_id_within_the_memory(hidden: int, memory: int, same: bool) -> None:
    present = [t not in range(5, 5 + hidden) for t in range(10)]
    frames = [frame(*([(20, 20 + t, 6, DISC)] if there else [])) for t, there in enumerate(present)]
    results = tracked(frames, memory=memory)
    assert track_at(results[4], 20, 24) == 1
    assert track_at(results[9], 20, 29) == (1 if same else 3)


@pytest.mark.parametrize(("memory", "same"), [(10, True), (9, False)])
def test_the_memory_counts_skipped_frames(memory: int, same: bool) -> None:
    """With a stride of 5, an object that is missing in two of the frames is hidden for 10 frames of the video."""
    present = [t not in range(8, 18) for t in range(31)]  # missing in frames 10 and 15
    frames = [frame(*([(20, 20 + t, 6, DISC)] if there else [])) for t, there in enumerate(present)]
    results = tracked(frames, stride=5, memory=memory)
    assert [track_at(result, 20, 20 + 5 * t) for t, result in enumerate(results)] == [
        1,
        1,
        2,
        2,
        *[1 if same else 3] * 3,
    ]


def test_neighbors_are_compared_with_any_stride() -> None:
    frames = [frame((20, 20, 6, DISC))] * 200
    assert {track_at(result, 20, 20) for result in tracked(frames, stride=60, memory=0)} == {1}


def test_another_class_is_another_track() -> None:
    results = tracked([frame((20, 20, 6, DISC)), frame((20, 20, 6, BOX)), frame((20, 20, 6, DISC))])
    assert [track_at(result, 20, 20) for result in results] == [1, 3, 1]


def test_stuff_has_one_track_per_class() -> None:
    ids = np.array([[1, 1, 0, 2, 2]], np.int32)
    panoptic = PanopticMap(ids, tuple(replace(s, score=s.id / 10) for s in segments_of(ids, {1: SKY, 2: SKY})))
    found = Tracker(TABLE).update(panoptic)
    assert found.ids.tolist() == [[1, 1, 0, 1, 1]]
    assert [(s.id, s.area, s.bbox, s.score) for s in found.segments] == [(1, 4, (0, 0, 5, 1), 0.2)]


def test_a_fresh_tracker_per_video_and_an_empty_frame() -> None:
    frames = [frame((20, 20, 6, DISC))] * 2
    tracker = Tracker(TABLE)
    nothing = tracker.update(PanopticMap(np.zeros((40, 90), np.int32), ()))
    assert len(nothing.segments) == 0
    assert not nothing.ids.any()
    for result in [tracker.update(frames[0]), *tracked(frames)]:
        assert [segment.id for segment in result.segments] == [1, 2]


def test_wrong_calls_are_errors() -> None:
    tracker = Tracker(TABLE)
    tracker.update(frame(), 4)
    with pytest.raises(ValueError, match="frame 4 follows frame 4"):
        tracker.update(frame(), 4)
    with pytest.raises(ValueError, match="expected one size"):
        tracker.update(frame(size=(9, 9)), 5)
    with pytest.raises(ValueError, match="memory is -1"):
        Tracker(TABLE, -1)


@pytest.mark.parametrize("seed", range(4))
def test_segments_and_tracks_are_one_to_one(seed: int) -> None:
    """Masks, classes, scores and areas belong to the track id that they are returned with."""
    random = np.random.default_rng(seed)
    tracker = Tracker(CATEGORIES)
    for _, truth in moving_scene(MovingOptions(SceneOptions(height=48, width=64), frames=6), seed):
        given = shuffled(truth, random)
        given = PanopticMap(given.ids, tuple(replace(s, score=float(random.random())) for s in given.segments))
        found = tracker.update(given)
        assert len({segment.id for segment in found.segments}) == len(given.segments)
        for before, after in zip(given.segments, found.segments, strict=True):
            assert replace(after, id=before.id) == before
            assert np.array_equal(found.ids == after.id, given.ids == before.id)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_vpq_is_100_where_nothing_is_hidden(seed: int, stride: int) -> None:
    random = np.random.default_rng(seed)
    tracker, quality = Tracker(CATEGORIES), VideoQuality(CATEGORIES)
    scene = moving_scene(MovingOptions(SceneOptions(height=64, width=96), frames=16), seed)
    pairs = [
        (tracker.update(shuffled(truth, random), number), truth)
        for number, (_, truth) in enumerate(scene)
        if number % stride == 0
    ]
    quality.add(compare(*pair) for pair in pairs)
    assert quality.result().all == 100


@pytest.mark.slow
def test_most_hidden_objects_return_with_their_id() -> None:
    """An object that was never seen as a whole before can come out too far from where it is expected."""
    kept = 0
    for seed in range(8):
        random = np.random.default_rng(seed)
        tracker = Tracker(CATEGORIES)
        ids: dict[int, list[int]] = {}
        options = MovingOptions(SceneOptions(height=64, width=96), frames=20, hidden_frames=4, largest_step=0.05)
        scene = [truth for _, truth in moving_scene(options, seed)]
        for truth in scene:
            found = tracker.update(shuffled(truth, random))
            for segment in truth.segments:
                ids.setdefault(segment.id, []).append(int(found.ids[truth.ids == segment.id][0]))
        kept += all(len(set(found)) == 1 for found in ids.values())
    assert kept >= 7
