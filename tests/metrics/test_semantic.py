"""mIoU, fwIoU and accuracy, compared with plain label maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.semantic import SemanticQuality, SemanticResult
from tests.metrics.test_quality import CAT, DOG, SEA, SKY, TABLE, Pair, panoptic, seeded_pairs


def measure(*pairs: Pair) -> SemanticResult:
    quality = SemanticQuality(TABLE)
    for prediction, truth in pairs:
        quality.update(compare(prediction, truth))
    return quality.result()


def categories_of(side: PanopticMap) -> np.ndarray:
    """Return the category id of each pixel, (H, W); -1 for void and unlisted ids."""
    flat = np.full(side.ids.shape, -1)
    for segment in side.segments:
        flat[side.ids == segment.id] = segment.category_id
    return flat


def plain(pairs: list[Pair]) -> tuple[list[float], float, float]:
    """Return IoU by category (nan if it has no pixels), fwIoU and accuracy, 0..1, of all pixels."""
    predicted = np.concatenate([categories_of(prediction).ravel() for prediction, _ in pairs])
    true = np.concatenate([categories_of(truth).ravel() for _, truth in pairs])
    predicted, true = predicted[true >= 0], true[true >= 0]
    ious = []
    weighted = 0.0
    for category in TABLE.categories:
        both = ((predicted == category.id) & (true == category.id)).sum()
        either = ((predicted == category.id) | (true == category.id)).sum()
        ious.append(float(both / either) if either else float("nan"))
        weighted += float(both / either * (true == category.id).mean()) if either else 0.0
    return ious, weighted, float((predicted == true).mean())


def test_equals_label_maps() -> None:
    pairs = seeded_pairs(60, seed=5)
    unlisted = [
        (predicted, replace(truth, segments=truth.segments[1:])) for predicted, truth in seeded_pairs(20, seed=6)
    ]
    assert any(segment.is_crowd for _, truth in pairs for segment in truth.segments)
    for few in (pairs + unlisted, pairs[:1], unlisted[:2]):
        result = measure(*few)
        ious, weighted, accuracy = plain(few)
        assert [row.iou / 100 for row in result.categories] == pytest.approx(np.nan_to_num(ious).tolist(), abs=1e-12)
        assert result.miou / 100 == pytest.approx(np.nanmean(ious), abs=1e-12)
        assert result.n == np.isfinite(ious).sum()
        assert result.fwiou / 100 == pytest.approx(weighted, abs=1e-12)
        assert result.accuracy / 100 == pytest.approx(accuracy, abs=1e-12)


def test_worked_by_hand() -> None:
    truth = panoptic([[1, 1, 2, 2, 3, 3, 0, 9]], {1: DOG, 2: DOG, 3: SKY})  # 9 is not listed
    predicted = panoptic([[5, 5, 5, 6, 6, 0, 7, 7]], {5: DOG, 6: SKY, 7: CAT})
    # dog: 3 of 4 pixels and no others; sky: 1 of 2, and 1 of the dog's; cat only on excluded pixels
    result = measure((predicted, truth))
    cat, dog, sea, sky = result.categories
    assert (dog.iou, dog.truth_pixels, dog.union_pixels) == (75.0, 4, 4)
    assert sky.iou == pytest.approx(100 / 3)
    assert (sky.truth_pixels, sky.union_pixels) == (2, 3)
    assert (cat.union_pixels, sea.union_pixels, result.n) == (0, 0, 2)
    assert (cat.category_id, sea.category_id) == (CAT, SEA)
    assert result.miou == pytest.approx((75 + 100 / 3) / 2)
    assert result.fwiou == pytest.approx((4 * 75 + 2 * 100 / 3) / 6)
    assert result.accuracy == pytest.approx(100 * 4 / 6)


def test_a_crowd_counts_as_pixels_of_its_category() -> None:
    truth = panoptic([[1, 1, 1, 1]], {1: DOG}, crowd=(1,))
    assert measure((panoptic([[5, 5, 5, 0]], {5: DOG}), truth)).miou == 75.0


def test_listed_areas_do_not_matter() -> None:
    truth = panoptic([[1, 1, 1, 1]], {1: DOG, 2: CAT}, areas={1: 9, 2: 5})
    result = measure((panoptic([[5, 5, 5, 0]], {5: DOG}), truth))
    assert (result.miou, result.n) == (75.0, 1)


def test_without_pixels_the_results_are_zero() -> None:
    result = measure()
    assert (result.miou, result.fwiou, result.accuracy, result.n) == (0.0, 0.0, 0.0, 0)
    assert measure((panoptic([[5, 5]], {5: DOG}), panoptic([[0, 0]], {}))).n == 0


def test_merged_parts_give_identical_results() -> None:
    pairs = seeded_pairs(30, seed=7)
    parts = [SemanticQuality(TABLE) for _ in range(3)]
    for number, (prediction, truth) in enumerate(pairs):
        parts[number % 3].update(compare(prediction, truth))
    first, *others = parts
    for other in others:
        first.merge(other)
    assert first.result() == measure(*pairs)


def test_different_category_tables_cannot_be_merged() -> None:
    other = SemanticQuality(CategoryTable(TABLE.categories[:2]))
    with pytest.raises(DataError, match="different category tables"):
        SemanticQuality(TABLE).merge(other)


def test_an_unknown_category_is_an_error() -> None:
    with pytest.raises(DataError, match=r"^x, prediction: categories \[77\] are unknown"):
        SemanticQuality(TABLE).update(compare(panoptic([[5]], {5: 77}), panoptic([[1]], {1: SKY}), file_name="x"))
