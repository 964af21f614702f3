"""Merging, compared with results worked out by hand. Masks have the size of the image, so nothing is resized.

tests/golden/test_hugging_face.py compares with recordings of the original projects.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from panformer_cli.models.hugging_face import detr_merging, merging
from panformer_cli.models.hugging_face.merging import Areas, segment_ids
from panformer_cli.models.hugging_face.query_masks import QueryMasks

CAT, SKY, SEA, NOTHING = range(4)
GROUPS = (None, 100, 200)


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def queries(*found: tuple[int, float, str], width: int = 10) -> QueryMasks:
    """Return the masks of queries.

    Args:
        found: label, class score, and one letter per pixel: `#` 0.95, `+` 0.6, `-` 0.4, `.` 0.05.
        width: pixels of a row.
    """
    values = {"#": logit(0.95), "+": logit(0.6), "-": logit(0.4), ".": logit(0.05)}
    classes = torch.full((len(found), 4), -30.0)
    for row, (label, score, _) in zip(classes, found, strict=True):
        row[label] = logit(score)
        row[NOTHING if label != NOTHING else CAT] = 0.0
    masks = torch.tensor([[values[letter] for letter in text] for _, _, text in found]).reshape(len(found), -1, width)
    size = (masks.shape[1], width)
    return QueryMasks(classes, masks, size, size, size)


def merged(masks: QueryMasks, threshold: float = 0.8, paints_outside: bool = False) -> tuple[str, list[int]]:
    """Return the ids as text, and the query of each segment."""
    kept = masks.kept(threshold)
    found = merging.merge(masks, kept, GROUPS, 0.8, paints_outside)
    return shown(found.ids), [kept.queries[segment.query] for segment in found.segments]


def shown(ids: object) -> str:
    return "".join(".123456789"[number] for number in np.asarray(ids).reshape(-1))


def test_the_largest_product_wins_and_only_pixels_inside_the_mask_are_painted() -> None:
    masks = queries((CAT, 0.9, "####......"), (SKY, 0.95, "....######"), (CAT, 0.7, "##########"))
    assert merged(masks) == ("1111222222", [0, 1])
    masks = queries((CAT, 0.9, "####------"))
    assert merged(masks) == ("1111......", [0])
    assert merged(masks, paints_outside=True) == ("1111111111", [0])


def test_equal_queries_give_the_first_one() -> None:
    masks = queries((CAT, 0.9, "#####....."), (SEA, 0.9, "#####....."))
    assert merged(masks) == ("11111.....", [0])


def test_a_query_that_won_less_than_its_share_is_dropped_and_its_pixels_stay_void() -> None:
    """The sky has 10 pixels, and wins 7 (dropped) or 8 (exactly 0.8: kept) of them."""
    cat = (CAT, 0.99, "###.......")
    assert merged(queries((SKY, 0.9, "##########"), cat)) == ("111.......", [1])
    cat = (CAT, 0.99, "##........")
    assert merged(queries((SKY, 0.9, "##########"), cat)) == ("2211111111", [0, 1])


def test_a_share_counts_pixels_outside_the_mask_too() -> None:
    """The sky wins 6 pixels at which it is below one half; they count as won, and MaskFormer paints them."""
    masks = queries((SKY, 0.9, "++++------"), (CAT, 0.99, "##........"))
    assert merged(masks) == ("2211......", [0, 1])
    assert merged(masks, paints_outside=True) == ("2211111111", [0, 1])


def test_stuff_of_one_class_is_one_segment_and_things_are_not() -> None:
    masks = queries(
        (SKY, 0.9, "##........"),
        (CAT, 0.9, "..##......"),
        (SKY, 0.9, "....##...."),
        (CAT, 0.9, "......##.."),
        (SEA, 0.9, "........##"),
    )
    assert merged(masks) == ("1122113344", [0, 1, 3, 4])


@pytest.mark.parametrize("rule", ["common", "detr"])
def test_nothing_kept_is_void(rule: str) -> None:
    masks = queries((CAT, 0.8, "##########"), (NOTHING, 0.99, "##########"))  # 0.8 is not above 0.8
    if rule == "common":
        assert merged(masks, threshold=float(masks.kept(0).scores[0])) == ("..........", [])
    else:
        assert detr(masks, threshold=0.81) == ("." * 10, [])


def test_areas() -> None:
    areas = [Areas(8, 10, 8), Areas(0, 3, 0), Areas(4, 0, 0), Areas(5, 5, 0), Areas(9, 3, 3)]
    assert segment_ids(areas, [None] * 5, 0.8, paints_outside=False) == [1, 0, 0, 0, 2]
    assert segment_ids(areas, [None] * 5, 0.8, paints_outside=True) == [1, 0, 0, 2, 3]
    assert segment_ids(areas, [7, 7, 7, 7, 7], 0.81, paints_outside=True) == [0, 0, 0, 1, 1]


def test_queries_compete_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-2, 3, (6, 8, 9), generator=generator).float()
    scores = torch.tensor([0.9, 0.9, 0.8, 0.95, 0.8, 0.9])
    values = (scores[:, None, None] * logits.sigmoid()).numpy()
    for order in ([0, 1, 2, 3, 4, 5], [3, 0, 5, 1, 4, 2]):
        competition = merging.Competition((8, 9))
        for query in order:
            competition.add(query, scores[query], logits[query])
        assert np.array_equal(competition.winner.numpy(), values.argmax(0))
        inside = logits.sigmoid() >= 0.5
        for query, areas in enumerate(competition.areas(range(6))):
            won = competition.winner == query
            assert [*areas] == [int(part.sum()) for part in (won, inside[query], won & inside[query])]


def detr(masks: QueryMasks, threshold: float = 0.85) -> tuple[str, list[int]]:
    kept = masks.kept(threshold)
    found = detr_merging.merge(masks, kept, GROUPS)
    return shown(found.ids), [kept.queries[segment.query] for segment in found.segments]


def test_detr_leaves_no_pixel_void_and_ignores_scores() -> None:
    masks = queries((CAT, 0.9, "-----....."), (SKY, 0.99, ".........."))
    assert detr(masks) == ("1" * 10, [0]), "equal logits: the first query"
    masks = queries((CAT, 0.9, "-----....."), (SKY, 0.99, ".....-----"))
    assert detr(masks) == ("1111122222", [0, 1])


def test_detr_drops_queries_of_4_pixels_and_gives_their_pixels_away() -> None:
    masks = queries((CAT, 0.9, "+++++.----"), (SKY, 0.9, "--+++++..."), (SEA, 0.9, "......++++"))
    assert detr(masks) == ("1" * 10, [0]), "both lose their pixels at once: the sky has 2, and the sea has 3"
    masks = queries((CAT, 0.9, "##########" + "....."), (SKY, 0.9, "----------" + "#####"), width=15)
    assert detr(masks) == ("1" * 10 + "2" * 5, [0, 1])
    masks = queries((CAT, 0.9, "##########" + "...."), (SKY, 0.9, "----------" + "####"), width=14)
    assert detr(masks) == ("1" * 14, [0])


def test_detr_drops_the_second_query_of_a_stuff_class() -> None:
    """Its pixels first count for the first query of the class; in the next round they go to the strongest one left."""
    masks = queries((SKY, 0.9, "#####" + "....." + "....."), (CAT, 0.9, "....." + "#####" + "-----"),
                    (SKY, 0.9, "....." + "....." + "#####"), width=15)  # fmt: skip
    assert detr(masks) == ("1" * 5 + "2" * 10, [0, 1])


def test_detr_merges_nothing_if_all_queries_are_large() -> None:
    masks = queries((CAT, 0.9, "#####....."), (CAT, 0.9, ".....#####"))
    assert detr(masks) == ("1111122222", [0, 1])


def test_labels_and_scores_of_kept_queries() -> None:
    """The first of two equal classes counts, and "no object" wins only if it is above them."""
    classes = torch.tensor([[1.0, 1.0, 0.0, 0.5], [0.0, 2.0, 0.0, 2.0], [0.0, 0.0, 0.0, 3.0]])
    masks = QueryMasks(classes, torch.zeros(3, 2, 2), (2, 2), (2, 2), (2, 2))
    kept = masks.kept(0.3)
    assert (kept.queries, kept.labels) == ([0, 1], [0, 1])
    expected: Tensor = classes.softmax(-1).amax(-1)[:2]
    torch.testing.assert_close(kept.scores, expected)


def test_masks_lose_the_padding_before_they_get_the_size_of_the_image() -> None:
    """A mask of 4 x 4 cells on an input of 8 x 8 pixels, of which 8 x 4 are the image; only its left half is inside."""
    logits = torch.tensor([[1.0, 1.0, -9.0, -9.0]]).expand(4, 4)[None]
    masks = QueryMasks(torch.zeros(1, 2), logits, canvas=(8, 8), resized=(8, 4), size=(6, 3))
    enlarged = masks.enlarged(0)
    assert enlarged.shape == (6, 3)
    assert (enlarged[:, :2] > 0).all()
    resized = masks.resized_logits([0])[0]
    assert resized.shape == (8, 4)
    assert resized[0].tolist() == pytest.approx([1, 1, 1, -1.5])  # the padding has some influence at the border
