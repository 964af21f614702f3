"""Confusion of segments and of pixels, compared with hand-worked values and plain loops."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.metrics.analysis.causes import find_causes
from panformer_cli.metrics.analysis.confusion import Confusion
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.matching import match_segments
from panformer_cli.metrics.quality import PanopticQuality
from tests.metrics.test_quality import CAT, DOG, SEA, SKY, TABLE, Pair, panoptic, seeded_pairs


def confuse(*pairs: Pair) -> Confusion:
    confusion = Confusion(TABLE)
    for prediction, truth in pairs:
        record = compare(prediction, truth)
        matching = match_segments(record, TABLE)
        confusion.add(record, matching, find_causes(record, matching, TABLE))
    return confusion


def test_hand_worked_image() -> None:
    truth = panoptic([[1] * 4 + [2] * 4 + [3] * 4 + [4] * 2 + [0]], {1: DOG, 2: DOG, 3: SKY, 4: CAT}, crowd=(4,))
    guess = panoptic([[5] * 4 + [6] * 4 + [7] + [0] * 3 + [8] * 2 + [5]], {5: DOG, 6: CAT, 7: SEA, 8: CAT})
    table = confuse((guess, truth)).to_json()
    segments = [(DOG, DOG, 1), (DOG, CAT, 1), (SKY, None, 1), (None, SEA, 1)]
    assert sorted(table["segments"], key=str) == sorted(segments, key=str)
    pixels = [(DOG, DOG, 4), (DOG, CAT, 4), (SKY, None, 3), (CAT, CAT, 2), (SKY, SEA, 1)]
    assert sorted(table["pixels"], key=str) == sorted(pixels, key=str)
    assert [count for *_, count in table["pixels"]] == [4, 4, 3, 2, 1]


@pytest.mark.slow
def test_rows_sum_to_tp_and_fn_and_columns_to_tp_and_fp() -> None:
    pairs = seeded_pairs(150, seed=6)
    quality = PanopticQuality(TABLE)
    for prediction, truth in pairs:
        quality.update(compare(prediction, truth))
    segments = confuse(*pairs).segments
    rows = quality.result().categories
    assert segments[:-1].sum(axis=1).tolist() == [row.tp + row.fn for row in rows]
    assert segments[:, :-1].sum(axis=0).tolist() == [row.tp + row.fp for row in rows]
    assert segments.diagonal().tolist() == [*(row.tp for row in rows), 0]
    assert segments[:-1, :-1].sum() > segments.diagonal().sum()


def test_pixels_equal_a_plain_loop() -> None:
    pairs = seeded_pairs(20, seed=7)
    expected: Counter[tuple[int | None, int | None]] = Counter()
    for prediction, truth in pairs:
        category = {segment.id: segment.category_id for segment in truth.segments}
        predicted_category = {segment.id: segment.category_id for segment in prediction.segments}
        for true, guess in zip(truth.ids.flat, prediction.ids.flat, strict=True):
            if int(true) in category:
                expected[category[int(true)], predicted_category.get(int(guess))] += 1
    assert {(true, guess): n for true, guess, n in confuse(*pairs).to_json()["pixels"]} == expected


def test_merged_parts_equal_the_whole() -> None:
    pairs = seeded_pairs(20, seed=8)
    whole, part = confuse(*pairs), confuse(*pairs[7:])
    part.merge(confuse(*pairs[:7]))
    np.testing.assert_array_equal(part.segments, whole.segments)
    np.testing.assert_array_equal(part.pixels, whole.pixels)
    with pytest.raises(DataError, match="different category tables"):
        part.merge(Confusion(CategoryTable(TABLE.categories[:2])))
