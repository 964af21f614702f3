"""Matching, compared with brute force over all assignments."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou, sigmoid_focal_loss

from panformer_cli.errors import NonFiniteError, PanformerError
from panformer_cli.models.panoptic_segformer.location_decoder import LocationOutput
from panformer_cli.models.panoptic_segformer.matcher import (
    Match,
    Things,
    location_cost,
    match_locations,
    match_masks,
)
from tests.models.panoptic_segformer.small import targets_of

CLASSES, LAYERS = 5, 3
SIZE = (40, 60)
BOXES = [(0, 0, 20, 20), (15, 10, 50, 35), (30, 0, 60, 40), (1, 1, 21, 19)]


def things_of(count: int) -> Things:
    return Things.of(targets_of(SIZE, *[(number % CLASSES, BOXES[number]) for number in range(count)]), CLASSES)


def guesses(queries: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random class logits (layers, Q, classes) and boxes (layers, Q, 4)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(LAYERS, queries, CLASSES, generator=generator) * 2
    return logits, torch.rand(LAYERS, queries, 4, generator=generator) * 0.8 + 0.1


def literal_cost(logits: Tensor, boxes: Tensor, things: Things, class_weight: float) -> Tensor:
    """Return the cost (Q, n) for one layer, one pair at a time, with torchvision's functions."""
    height, width = SIZE
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    cost = torch.zeros(len(logits), len(things.labels))
    for q in range(len(logits)):
        pixels = box_convert(boxes[q], "cxcywh", "xyxy") * scale
        for n, (label, box) in enumerate(zip(things.labels, things.boxes, strict=True)):
            logit = logits[q, label]
            positive = sigmoid_focal_loss(logit, torch.tensor(1.0), alpha=0.25, gamma=2.0)
            negative = sigmoid_focal_loss(logit, torch.tensor(0.0), alpha=0.25, gamma=2.0)
            distance = (boxes[q] - box_convert(box / scale, "xyxy", "cxcywh")).abs().sum()
            overlap = generalized_box_iou(pixels[None], box[None])[0, 0]
            cost[q, n] = class_weight * (positive - negative) + 5 * distance - 2 * overlap
    return cost


def cheapest(cost: Tensor) -> set[tuple[int, int]]:
    """Return the (query, object) pairs of the cheapest assignment, by brute force."""
    queries, objects = cost.shape
    if queries >= objects:
        candidates = [
            list(zip(chosen, range(objects), strict=True)) for chosen in permutations(range(queries), objects)
        ]
    else:
        candidates = [
            list(zip(range(queries), chosen, strict=True)) for chosen in permutations(range(objects), queries)
        ]
    return set(min(candidates, key=lambda pairs: sum(float(cost[q, n]) for q, n in pairs)))


def pairs_of(match: Match, layer: int) -> set[tuple[int, int]]:
    return set(zip(match.queries[layer].tolist(), match.objects[layer].tolist(), strict=True))


def test_the_cost_is_the_weighted_sum_of_three_terms() -> None:
    logits, boxes = guesses(6)
    things = things_of(4)
    for weight in (2.0, 4.0):
        ours = location_cost(logits, boxes, things, weight)
        for layer in range(LAYERS):
            expected = literal_cost(logits[layer], boxes[layer], things, weight)
            torch.testing.assert_close(ours[layer], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("objects", [1, 2, 3, 4])
@pytest.mark.parametrize("queries", [2, 6])
def test_the_matching_is_the_cheapest(queries: int, objects: int) -> None:
    different = set()
    for seed in range(5):
        logits, boxes = guesses(queries, seed)
        things = things_of(objects)
        (match,) = match_locations(logits[:, None], boxes[:, None], [things])
        assert match.queries.shape == match.objects.shape == (LAYERS, min(queries, objects))
        assert match.queries.dtype == match.objects.dtype == torch.int64
        for layer in range(LAYERS):
            assert match.queries[layer].tolist() == sorted(match.queries[layer].tolist())
            assert pairs_of(match, layer) == cheapest(literal_cost(logits[layer], boxes[layer], things, 2.0))
            different.add(tuple(sorted(pairs_of(match, layer))))
    assert len(different) > 1


def test_the_second_matching_doubles_the_class_cost_and_adds_masks() -> None:
    things, changed = things_of(3), 0
    for seed in range(10):
        logits, boxes = (part[0] for part in guesses(3, seed))
        generator = torch.Generator().manual_seed(100 + seed)
        targets = (torch.rand(3, 5, 8, generator=generator) < 0.3).float()
        masks = targets[torch.randperm(3, generator=generator)] * 0.9
        cost = literal_cost(logits, boxes, things, 4.0)
        without_masks = cheapest(literal_cost(logits, boxes, things, 2.0))
        for q in range(3):
            for n in range(3):
                p, t = masks[q], targets[n]
                dice = 1 - 2 * (p * t).sum() / (p.square().sum() + 1e-3 + t.square().sum() + 1e-3)
                cost[q, n] += 2 * dice
        match = match_masks(logits, boxes, masks, things, targets)
        assert match.queries.shape == (1, 3)
        assert pairs_of(match, 0) == cheapest(cost)
        changed += cheapest(cost) != without_masks
    assert changed > 0


def test_masks_decide_between_equal_boxes_and_classes() -> None:
    """Two objects with the same class and box, and queries that differ only in their masks."""
    box = (10, 10, 30, 30)
    things = Things.of(targets_of(SIZE, (0, box), (0, box)), CLASSES)
    targets = torch.zeros(2, 4, 4)
    targets[0, :, :2] = targets[1, :, 2:] = 1
    logits, boxes = torch.zeros(2, CLASSES), torch.full((2, 4), 0.5)
    swapped = match_masks(logits, boxes, targets.flip(0), things, targets)
    straight = match_masks(logits, boxes, targets, things, targets)
    assert pairs_of(swapped, 0) == {(0, 1), (1, 0)}
    assert pairs_of(straight, 0) == {(0, 0), (1, 1)}


def test_no_objects_give_an_empty_matching() -> None:
    logits, boxes = guesses(4)
    (match,) = match_locations(logits[:, None], boxes[:, None], [things_of(0)])
    assert match.queries.shape == match.objects.shape == (LAYERS, 0)
    assert match.queries.dtype == torch.int64


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_costs_that_are_not_finite_are_reported_as_divergence(value: float) -> None:
    logits, boxes = guesses(4)
    boxes[1, 2, 0] = value
    with pytest.raises(PanformerError, match=r"training diverged.*--set train\.lr="):
        match_locations(logits[:, None], boxes[:, None], [things_of(2)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_costs_of_extreme_logits_in_half_precision_are_those_of_float32(dtype: torch.dtype) -> None:
    """In float16, the smallest number of the cost's logarithm would be 0, and a sum of squares of a mask infinite."""
    logits, boxes = guesses(4)
    logits, boxes = (200 * logits.sign()).to(dtype), boxes.to(dtype)
    things = things_of(3)
    masks = torch.full((4, *SIZE), 200, dtype=dtype)
    masks[1:, :20] = 0
    with torch.autocast("cpu", dtype):
        halves = match_locations(logits[:, None], boxes[:, None], [things])
    half = match_masks(logits[-1], boxes[-1], masks, things, things.masks.float())  # the losses are outside autocast
    wholes = match_locations(logits.float()[:, None], boxes.float()[:, None], [things])
    whole = match_masks(logits[-1].float(), boxes[-1].float(), masks.float(), things, things.masks.float())
    for one, other in ((halves[0], wholes[0]), (half, whole)):
        assert torch.equal(one.queries, other.queries)
        assert torch.equal(one.objects, other.objects)
    logits[0, 1, 2] = float("nan")
    with pytest.raises(NonFiniteError, match="the matching costs are no longer finite"):
        match_locations(logits[:, None], boxes[:, None], [things])


def test_things_are_the_targets_with_thing_labels() -> None:
    targets = targets_of(SIZE, (7, (0, 0, 60, 5)), (2, (0, 10, 30, 40)), (5, (0, 0, 1, 1)), (4, (6, 6, 12, 20)))
    things = Things.of(targets, num_things=5)
    assert things.labels.tolist() == [2, 4]
    assert things.boxes.tolist() == [[0, 10, 30, 40], [6, 6, 12, 20]]
    assert things.size.tolist() == [60, 40, 60, 40]
    assert things.masks.flatten(1).sum(1).tolist() == [900, 84]
    torch.testing.assert_close(things.normalized_boxes[0], torch.tensor([0.25, 0.625, 0.5, 0.75]))


def test_training_selects_the_queries_matched_at_the_last_layer() -> None:
    logits, boxes = guesses(6)
    location = LocationOutput(
        logits[:, None].repeat(1, 2, 1, 1), boxes[:, None].repeat(1, 2, 1, 1), torch.zeros(2, 6, 8)
    )
    targets = [targets_of(SIZE, (0, BOXES[0]), (9, BOXES[1]), (1, BOXES[2])), targets_of(SIZE, (9, BOXES[1]))]
    things = [Things.of(target, CLASSES) for target in targets]
    matches = match_locations(location.class_logits, location.boxes, things)
    selected = [match.queries[-1] for match in matches]
    (expected,) = match_locations(logits[:, None], boxes[:, None], things[:1])
    assert [len(indices) for indices in selected] == [2, 0]
    assert torch.equal(selected[0], expected.queries[-1])
    assert torch.equal(matches[0].objects, expected.objects)
    assert matches[1].queries.shape == (LAYERS, 0)
