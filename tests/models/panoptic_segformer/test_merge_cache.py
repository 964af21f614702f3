"""Merging regions, compared with merging pixels, at many thresholds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from panformer_cli.data.structures import PanopticMap, Sample, Segment
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import ImageOverlap, compare
from panformer_cli.models.panoptic_segformer.merge_cache import MergeCache, cache_of
from panformer_cli.models.panoptic_segformer.postprocessing import Candidates, merge_masks
from panformer_cli.models.panoptic_segformer.settings import MergingSettings
from tests.models.panoptic_segformer.small import table

THINGS, STUFF = 3, 2
TABLE = table(THINGS, STUFF)
SIZE = (22, 31)


def candidates_of(seed: int, things: int = 14) -> Candidates:
    """Return overlapping soft blobs, several of each class, to be resized to the image. One of them is empty."""
    rng = np.random.default_rng(seed)
    count = things + STUFF
    y, x = np.mgrid[:6, :8]
    centers = rng.uniform(0, 8, (count, 2, 1, 1))
    masks = 1.3 * np.exp(-((y - centers[:, 0]) ** 2 + (x - centers[:, 1]) ** 2) / rng.uniform(2, 12, (count, 1, 1)))
    masks[3] = 0.4
    labels = np.concatenate([rng.integers(0, THINGS, things), THINGS + np.arange(STUFF)])
    scores = rng.uniform(0.05, 1, count).astype(np.float32)
    return Candidates(labels, scores, masks.astype(np.float32), np.zeros((things, 4), np.float32), SIZE)


def sample_of(seed: int) -> Sample:
    """Return a ground truth of blocks, with void, a crowd and an id without a segment."""
    rng = np.random.default_rng(seed)
    ids = np.kron(rng.integers(0, 6, (3, 4)), np.ones((8, 8), int))[: SIZE[0], : SIZE[1]].astype(np.int32)
    categories = [TABLE.by_label(label).id for label in (0, 1, 3, 4)]
    rows = [Segment(n, categories[n - 1], int((ids == n).sum()), (0, 0, 1, 1), n == 2) for n in range(1, 5)]
    return Sample(
        np.zeros((*SIZE, 3), np.uint8), PanopticMap(ids, tuple(rows)), f"i{seed}", f"{seed}.jpg", f"{seed}.png"
    )


def without_boxes(record: ImageOverlap) -> tuple[object, ...]:
    predictions = [replace(segment, bbox=(0, 0, 0, 0)) for segment in record.predictions]
    return record.image_id, record.file_name, record.size, record.truth, predictions, record.overlap.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_merging_regions_equals_merging_pixels(seed: int, tmp_path: Path) -> None:
    candidates, sample = candidates_of(seed), sample_of(seed)
    cache_of(candidates, sample, least=0.05).save(tmp_path / "a.npz")
    regions = MergeCache.load(tmp_path / "a.npz")
    rng = np.random.default_rng(seed)
    numbers = set()
    for score, thing, stuff in [(0.05, 1.0, 1.0), (1.0, 0.0, 0.0), *rng.uniform(0.05, 0.9, (20, 3)).tolist()]:
        recipe = MergingSettings(score_threshold=score, thing_overlap=thing, stuff_overlap=stuff)
        live = compare(merge_masks(candidates, TABLE, recipe), sample.annotation, sample.image_id, sample.file_name)
        assert without_boxes(regions.overlap(recipe, TABLE)) == without_boxes(live)
        numbers.add(len(live.predictions))
    assert len(numbers) > 3, "the thresholds must change the result"


def test_a_score_at_the_threshold_is_accepted() -> None:
    candidates, sample = candidates_of(0), sample_of(0)
    for score in candidates.scores():
        recipe = MergingSettings(score_threshold=float(score))
        live = compare(merge_masks(candidates, TABLE, recipe), sample.annotation, "i0", "0.jpg")
        assert without_boxes(cache_of(candidates, sample, 0.0).overlap(recipe, TABLE)) == without_boxes(live)


def test_pixels_claimed_by_the_same_candidates_are_one_region() -> None:
    masks = np.array([[[1, 1, 1, 0, 0, 1]], [[0, 1, 1, 1, 0, 0]]], np.float32)
    candidates = Candidates(
        np.array([0, 3]), np.array([0.9, 0.5], np.float32), masks, np.zeros((1, 4), np.float32), (1, 6)
    )
    truth = PanopticMap(np.array([[1, 1, 0, 0, 0, 0]], np.int32), (Segment(1, 10, 2, (0, 0, 2, 1)),))
    regions = cache_of(candidates, Sample(np.zeros((1, 6, 3), np.uint8), truth, 0, "x", "x"), 0.0)
    pixels = {tuple(claims): int(count) for claims, count in zip(regions.claims.T, regions.pixels[:-1], strict=True)}
    assert pixels == {(True, False): 2, (True, True): 2, (False, True): 1}
    assert regions.pixels[-1] == 1  # the fifth pixel
    # By hand: the thing takes 4 pixels. Two thirds of the stuff mask are already taken, which is more than 0.2.
    assert regions.overlap(MergingSettings(), TABLE).overlap.tolist() == [[2, 0], [2, 2], [0, 0]]
    two_thirds = MergingSettings(stuff_overlap=2 / 3)
    assert regions.overlap(two_thirds, TABLE).overlap.tolist() == [[2, 0, 0], [2, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("least", [0.0, 1.0])
def test_an_image_without_candidates_is_void(least: float, tmp_path: Path) -> None:
    empty = replace(candidates_of(0), masks=np.zeros((16, 6, 8), np.float32)) if least == 0 else candidates_of(0)
    cache_of(empty, sample_of(0), least).save(tmp_path / "a.npz")
    record = MergeCache.load(tmp_path / "a.npz").overlap(MergingSettings(score_threshold=1.0), TABLE)
    assert record.predictions == ()
    assert record.overlap.sum() == SIZE[0] * SIZE[1]


@pytest.mark.parametrize("damage", ["truncated", "emptied", "changed"])
def test_a_corrupt_file_is_reported(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    cache_of(candidates_of(0), sample_of(0), 0.0).save(path)
    content = bytearray(path.read_bytes())
    if damage == "changed":
        content[300:340] = bytes(40)
    path.write_bytes(content[: {"truncated": 200, "emptied": 0}.get(damage)])
    with pytest.raises(DataError, match=r"a\.npz is corrupt: .*; delete it and run the command again"):
        MergeCache.load(path)
