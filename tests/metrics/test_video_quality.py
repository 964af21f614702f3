"""VPQ, compared with a case worked by hand and with a plain loop over pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.quality import PanopticQuality
from panformer_cli.metrics.video_quality import VideoQuality, VideoResult

DOG, CAT, SKY = 18, 3, 187
TABLE = CategoryTable([Category(DOG, "dog", True), Category(CAT, "cat", True), Category(SKY, "sky", False)])
Frames = Sequence[tuple[PanopticMap, PanopticMap]]
"""Prediction and ground truth of each frame."""


def panoptic(ids: object, categories: dict[int, int], crowd: tuple[int, ...] = ()) -> PanopticMap:
    array = np.asarray(ids, np.int32)
    return PanopticMap(array, segments_of(array, categories, crowd))


def measure(*videos: Frames, windows: Sequence[int] = (1, 2, 3, 4)) -> VideoResult:
    quality = VideoQuality(TABLE, windows)
    for video in videos:
        quality.add(compare(*pair) for pair in video)
    return quality.result()


def dog_with_ids(*ids: int) -> Frames:
    """Return frames of a dog and the sky, 2 pixels each; the predicted masks are right, the dog's ids are given."""
    truth = panoptic([[1, 1, 2, 2]], {1: DOG, 2: SKY})
    return [(panoptic([[i, i, 9, 9]], {i: DOG, 9: SKY}), truth) for i in ids]


def test_a_changed_id_worked_by_hand() -> None:
    result = measure(dog_with_ids(7, 7, 8, 8))
    dog = {size: window.things.pq for size, window in result.windows.items()}
    assert dog[1] == 100
    # Windows (7 7), (7 8), (8 8): two matches; half of the middle tube each: IoU 1/2 is no match, 1 FN and 2 FP.
    assert dog[2] == pytest.approx(100 * 2 / (2 + 0.5 + 1))
    # Windows (7 7 8), (7 8 8): a match with IoU 2/3 and an FP each.
    assert dog[3] == pytest.approx(100 * (4 / 3) / (2 + 1))
    assert dog[4] == 0  # (7 7 8 8)
    assert result.things == pytest.approx(sum(dog.values()) / 4)
    assert result.stuff == 100
    assert result.all == pytest.approx((result.things + 100) / 2)


def test_equal_ids_give_100_and_a_window_of_one_frame_is_pq() -> None:
    assert measure(dog_with_ids(5, 5, 5, 5, 5)).all == 100
    video = random_video(3, 5)
    pq = PanopticQuality(TABLE)
    for pair in video:
        pq.update(compare(*pair))
    assert measure(video).windows[1] == pq.result()


def test_a_video_shorter_than_a_window_does_not_count_for_it() -> None:
    result = measure(dog_with_ids(7, 8))
    assert [window.all.n for window in result.windows.values()] == [2, 2, 0, 0]
    assert result.things == 50  # the mean of 100 (1 frame) and 0 (2 frames)
    assert measure(dog_with_ids(7), dog_with_ids(8)).things == 100  # windows do not cross videos


def test_an_id_with_two_classes_is_an_error() -> None:
    truth = panoptic([[1, 2]], {1: DOG, 2: SKY})
    changed = panoptic([[1, 2]], {1: CAT, 2: SKY})
    with pytest.raises(DataError, match="segment 1 has category 18 in one frame and 3 in another"):
        measure([(truth, truth), (changed, truth)])


def test_merging_equals_one_evaluator() -> None:
    videos = [random_video(seed, 6) for seed in range(4)]
    parts = [VideoQuality(TABLE), VideoQuality(TABLE)]
    for number, video in enumerate(videos):
        parts[number % 2].add(compare(*pair) for pair in video)
    parts[0].merge(parts[1])
    assert parts[0].result() == measure(*videos)
    with pytest.raises(DataError, match="different windows"):
        parts[0].merge(VideoQuality(TABLE, (1,)))


@pytest.mark.parametrize("seed", range(8))
def test_random_videos_equal_a_plain_loop(seed: int) -> None:
    videos = [random_video(seed, 5), random_video(seed + 100, 3)]
    result = measure(*videos)
    for size, window in result.windows.items():
        expected = plain_tube_pq(videos, size)
        found = {row.category_id: row.pq for row in window.categories if row.counts}
        assert found == pytest.approx({category: 100 * float(pq) for category, pq in expected.items()})


def random_video(seed: int, length: int) -> Frames:
    """Return frames of 6 x 8 pixels whose ids are columns with noise: void, a crowd, changed ids and classes."""
    random = np.random.default_rng(seed)
    truth_classes, classes = {1: DOG, 2: DOG, 3: CAT, 4: SKY, 5: DOG}, {1: DOG, 2: DOG, 3: DOG, 4: SKY, 6: CAT}
    base = np.repeat(np.array([0, 1, 2, 3, 4, 4, 5, 1]), 6).reshape(8, 6).T
    frames = []
    for _ in range(length):
        base = np.roll(base, int(random.integers(0, 2)), axis=1)
        truth = np.where(random.random(base.shape) < 0.1, random.integers(0, 6, base.shape), base)
        found = np.where(random.random(base.shape) < 0.15, random.integers(0, 5, base.shape), base)
        found[found == 5] = 6
        if random.random() < 0.3:
            found = np.array([0, 2, 1, 3, 4, 0, 6])[found]
        frames.append((panoptic(found, classes), panoptic(truth, truth_classes, (5,))))
    return frames


def plain_tube_pq(videos: Sequence[Frames], size: int) -> dict[int, Fraction]:
    """Return the PQ of tubes by class, from sets of pixels (frame, row, column)."""
    iou_sum: dict[int, Fraction] = defaultdict(Fraction)
    tp: dict[int, int] = defaultdict(int)
    halves: dict[int, int] = defaultdict(int)
    for video in videos:
        for start in range(len(video) - size + 1):
            window = video[start : start + size]
            predicted, _ = plain_tubes([pair[0] for pair in window])
            truth, crowds = plain_tubes([pair[1] for pair in window])
            void = {pixel for pixel in pixels_of(window) if id_at([pair[1] for pair in window], pixel) == 0}
            matched_truth, matched = set(), set()
            for (t, t_class), t_pixels in truth.items():
                for (p, p_class), p_pixels in predicted.items():
                    shared = len(t_pixels & p_pixels)
                    iou = Fraction(shared, len((t_pixels | p_pixels) - void))
                    if t_class == p_class and t not in crowds and iou > Fraction(1, 2):
                        iou_sum[t_class] += iou
                        tp[t_class] += 1
                        matched_truth.add(t)
                        matched.add(p)
            for (t, t_class), _ in truth.items():
                halves[t_class] += t not in matched_truth and t not in crowds
            for (p, p_class), p_pixels in predicted.items():
                crowd = next((pixels for (t, c), pixels in truth.items() if t in crowds and c == p_class), set())
                ignored = 2 * len(p_pixels & (void | crowd)) > len(p_pixels)
                halves[p_class] += p not in matched and not ignored
    classes = {c for c in (*tp, *halves) if tp[c] + halves[c]}
    return {c: iou_sum[c] / (tp[c] + Fraction(halves[c], 2)) for c in classes}


Pixel = tuple[int, int, int]


def pixels_of(window: Frames) -> list[Pixel]:
    return [(frame, y, x) for frame, (found, _) in enumerate(window) for y, x in np.ndindex(found.ids.shape)]


def id_at(frames: Sequence[PanopticMap], pixel: Pixel) -> int:
    frame, y, x = pixel
    return int(frames[frame].ids[y, x])


def plain_tubes(frames: Sequence[PanopticMap]) -> tuple[dict[tuple[int, int], set[Pixel]], set[int]]:
    """Return the pixels of each (id, class), and the ids that are crowds."""
    tubes: dict[tuple[int, int], set[Pixel]] = defaultdict(set)
    crowds = set()
    for number, frame in enumerate(frames):
        for segment in frame.segments:
            if segment.is_crowd:
                crowds.add(segment.id)
            for y, x in zip(*np.nonzero(frame.ids == segment.id), strict=True):
                tubes[segment.id, segment.category_id].add((number, int(y), int(x)))
    return dict(tubes), crowds
