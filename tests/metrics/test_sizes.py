"""PQ by size, compared with hand-worked counts and with PQ."""

from __future__ import annotations

import numpy as np
import pytest

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.quality import PanopticQuality
from panformer_cli.metrics.sizes import SIZES, SizeQuality
from tests.metrics.test_quality import CAT, DOG, SKY, TABLE, Pair, panoptic, seeded_pairs

SHAPE = (200, 300)
SMALL, MEDIUM, LARGE = (31, 33), (32, 32), (96, 96)  # 1023, 1024 and 9216 pixels


def scene(*objects: tuple[int, tuple[int, int], tuple[int, int]]) -> np.ndarray:
    """Draw rectangles (id, top left corner, height and width) on void."""
    ids = np.zeros(SHAPE, int)
    for number, (top, left), (height, width) in objects:
        ids[top : top + height, left : left + width] = number
    return ids


def counts(quality: SizeQuality, category_id: int) -> dict[str, tuple[int, int, int]]:
    """Return tp, fp, fn by size."""
    found = {}
    for name, result in quality.result().items():
        row = next(row for row in result.categories if row.category_id == category_id)
        found[name] = (row.tp, row.fp, row.fn)
    return found


def measured(*pairs: Pair) -> SizeQuality:
    quality = SizeQuality(TABLE)
    for prediction, truth in pairs:
        quality.update(compare(prediction, truth))
    return quality


def test_limits_are_those_of_coco() -> None:
    ids = scene((1, (0, 0), SMALL), (2, (50, 50), MEDIUM), (3, (100, 100), LARGE))
    everything = panoptic(ids, {1: DOG, 2: DOG, 3: DOG})
    quality = measured((everything, everything))
    assert counts(quality, DOG) == dict.fromkeys(SIZES, (1, 0, 0))
    assert [result.things.pq for result in quality.result().values()] == [100.0, 100.0, 100.0]


def test_a_pair_has_the_size_of_its_ground_truth_and_a_wrong_prediction_its_own() -> None:
    truth = panoptic(
        scene((1, (0, 0), SMALL), (2, (50, 50), LARGE), (9, (150, 150), (50, 150))), {1: DOG, 2: CAT, 9: SKY}
    )
    guess = scene((5, (0, 0), (33, 33)), (6, (50, 50), (10, 20)), (7, (150, 150), (30, 40)))
    quality = measured((panoptic(guess, {5: DOG, 6: CAT, 7: CAT}), truth))
    assert counts(quality, DOG) == {"small": (1, 0, 0), "medium": (0, 0, 0), "large": (0, 0, 0)}
    assert counts(quality, CAT) == {"small": (0, 1, 0), "medium": (0, 1, 0), "large": (0, 0, 1)}
    assert counts(quality, SKY) == {"small": (0, 0, 0), "medium": (0, 0, 1), "large": (0, 0, 0)}


def test_the_listed_area_determines_the_size() -> None:
    truth = panoptic(scene((1, (0, 0), SMALL)), {1: DOG}, areas={1: 1024})
    assert counts(measured((panoptic(scene((5, (0, 0), SMALL)), {5: DOG}), truth)), DOG)["medium"] == (1, 0, 0)


def test_the_sizes_add_up_to_pq() -> None:
    pairs = [(_enlarged(prediction), _enlarged(truth)) for prediction, truth in seeded_pairs(40, seed=8)]
    quality, whole = measured(*pairs), PanopticQuality(TABLE)
    for prediction, truth in pairs:
        whole.update(compare(prediction, truth))
    sizes = [result.categories for result in quality.result().values()]
    for row, *parts in zip(whole.result().categories, *sizes, strict=True):
        for name in ("tp", "fp", "fn"):
            assert sum(getattr(part, name) for part in parts) == getattr(row, name)
        assert sum(part.sq * part.tp for part in parts) == pytest.approx(row.sq * row.tp, rel=1e-12)
    assert all(sum(row.tp + row.fp + row.fn for row in rows) > 10 for rows in sizes)


def _enlarged(side: PanopticMap) -> PanopticMap:
    """Return a map with pixels and listed areas 30 x 16 times as large, so that 6 x 12 pixels reach all sizes."""
    ids = np.kron(side.ids, np.ones((30, 16), int))
    areas = {segment.id: segment.area * 480 for segment in side.segments}
    categories = {segment.id: segment.category_id for segment in side.segments}
    return panoptic(ids, categories, tuple(s.id for s in side.segments if s.is_crowd), areas)


def test_merged_parts_give_identical_results() -> None:
    pairs = seeded_pairs(30, seed=9)
    parts = [measured(*pairs[rank::3]) for rank in range(3)]
    first, *others = parts
    for other in others:
        first.merge(other)
    assert first.result() == measured(*pairs).result()


def test_different_category_tables_cannot_be_merged() -> None:
    other = SizeQuality(CategoryTable(TABLE.categories[:2]))
    with pytest.raises(DataError, match="different category tables"):
        SizeQuality(TABLE).merge(other)
