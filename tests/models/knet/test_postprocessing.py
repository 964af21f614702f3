"""Merging of K-Net's masks, against the rules applied to all masks at once in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from panformer_cli.data.structures import PanopticMap
from panformer_cli.models.knet.output import KNetOutput
from panformer_cli.models.knet.postprocessing import KernelPrediction, ScoredMasks, scored_masks, winners_of
from panformer_cli.models.knet.settings import WinnerSettings
from tests.models.panoptic_segformer.small import table

THINGS, STUFF, KERNELS = 3, 2, 6
TABLE = table(THINGS, STUFF)
RESIZED, SIZE = (75, 101), (40, 54)
"""An input of 75 x 101 pixels, which is padded to 96 x 128, of an image of 40 x 54 pixels."""


def output_of(seed: int, images: int = 1) -> KNetOutput:
    """Return smooth random masks, some of which win pixels without an own mask, and confident and faint classes."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(images, KERNELS + STUFF, 4, 5, generator=generator)
    masks = 6 * F.interpolate(coarse, (12, 16), mode="bicubic") - 2
    classes = 2 * torch.randn(images, KERNELS + STUFF, THINGS + STUFF, generator=generator)
    padding = torch.ones(images, 96, 110, dtype=torch.bool)
    padding[:, : RESIZED[0], : RESIZED[1]] = False
    return KNetOutput(classes, masks, padding)


def prediction_of(output: KNetOutput, settings: WinnerSettings | None = None) -> KernelPrediction:
    return KernelPrediction(scored_masks(output, 0, SIZE, THINGS), TABLE, settings or WinnerSettings())


def all_masks(output: KNetOutput) -> torch.Tensor:
    """Return the masks of the first image at its size, all at once."""
    masks = F.interpolate(output.masks[:1], scale_factor=2, mode="bilinear").sigmoid()
    masks = F.interpolate(masks, (96, 128), mode="bilinear")[..., : RESIZED[0], : RESIZED[1]]
    return F.interpolate(masks, SIZE, mode="bilinear")[0]


def merged_plainly(output: KNetOutput, settings: WinnerSettings) -> list[tuple[int, float, set[tuple[int, int]]]]:
    """Return label, score and pixels of the segments, by the rules of docs/knet.md ("Merging"), pixel by pixel."""
    masks, probabilities = all_masks(output), output.class_logits[0].sigmoid()
    scored = []
    for row in range(KERNELS + STUFF):
        if row < KERNELS:
            values = probabilities[row, :THINGS].tolist()
            scored.append((max(values), values.index(max(values))))
        else:
            label = THINGS + row - KERNELS
            scored.append((float(probabilities[row, label]), label))
    products = torch.stack([score * mask for (score, _), mask in zip(scored, masks, strict=True)])
    winner = products.argmax(dim=0)
    found = []
    for row in sorted(range(len(scored)), key=lambda row: -scored[row][0]):
        score, label = scored[row]
        won = {(y, x) for y, x in (winner == row).nonzero().tolist()}
        own = int((masks[row] >= 0.5).sum())
        if label < THINGS and score < settings.score_threshold:
            continue
        if won and own and len(won) / own >= settings.won_threshold:
            found.append((label, score, won))
    return found


def segments(panoptic: PanopticMap) -> list[tuple[int, float, set[tuple[int, int]]]]:
    found = []
    for segment in panoptic.segments:
        pixels = {(y, x) for y, x in np.argwhere(panoptic.ids == segment.id).tolist()}
        assert segment.area == len(pixels)
        assert segment.score is not None
        found.append((TABLE.label(segment.category_id), segment.score, pixels))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("thresholds", [(0.3, 0.6), (0.0, 0.0), (0.9, 0.9), (0.7, 0.1)])
def test_segments_are_those_of_the_rules(seed: int, thresholds: tuple[float, float]) -> None:
    output, settings = output_of(seed), WinnerSettings(*thresholds)
    panoptic = prediction_of(output, settings).panoptic
    expected = merged_plainly(output, settings)
    assert [segment.id for segment in panoptic.segments] == list(range(1, len(expected) + 1))
    ours = segments(panoptic)
    assert [(label, pixels) for label, _, pixels in ours] == [(label, pixels) for label, _, pixels in expected]
    assert [score for _, score, _ in ours] == pytest.approx([score for _, score, _ in expected])


def test_the_cases_occur() -> None:
    """Confident and faint things, kernels with few and many of their pixels, and stuff below the threshold."""
    counts = {len(merged_plainly(output_of(seed), WinnerSettings())) for seed in range(4)}
    strict = {len(merged_plainly(output_of(seed), WinnerSettings(0.9, 0.9))) for seed in range(4)}
    assert max(counts) >= 3
    assert min(strict) < max(counts)


def test_masks_one_at_a_time_equal_all_masks_at_once() -> None:
    output = output_of(7)
    masks = torch.stack(list(prediction_of(output).scored.masks()))
    torch.testing.assert_close(masks, all_masks(output), rtol=0, atol=3e-7)


def scored(masks: list[list[float]], scores: list[float], labels: list[int]) -> ScoredMasks:
    """Return one-dimensional masks of 8 x 8 pixels per cell: constant logits give constant probabilities."""
    logits = torch.tensor(masks).logit()[:, None, :]
    size = (8, 8 * logits.shape[-1])
    return ScoredMasks(np.array(scores, np.float32), np.array(labels), logits, size, size)


def test_on_a_tie_the_first_kernel_wins() -> None:
    winners = winners_of(scored([[0.5], [0.5], [0.25]], [0.5, 0.5, 1.0], [0, 1, 3]))
    assert winners.won.tolist() == [64, 0, 0]
    assert winners.own.tolist() == [64, 64, 0]


def test_by_hand() -> None:
    """Thing 0 wins everything by 0.9 x 0.9; a faint thing wins where nobody else does, but is not kept: void."""
    sure, faint = scored([[0.9], [0.6]], [0.9, 0.2], [0, 1]), scored([[0.1], [0.6]], [0.9, 0.2], [0, 1])
    for given, ids in ((sure, {1}), (faint, {0})):
        assert set(np.unique(KernelPrediction(given, TABLE, WinnerSettings()).panoptic.ids)) == ids
    assert KernelPrediction(faint, TABLE, WinnerSettings(0.2, 0.6)).panoptic.segments[0].category_id == 11
    stuff = scored([[0.6]], [0.01], [3])
    assert KernelPrediction(stuff, TABLE, WinnerSettings()).panoptic.segments[0].category_id == TABLE.by_label(3).id


def test_an_image_of_the_size_of_the_input_is_not_resized_again() -> None:
    output = output_of(1)
    scored = scored_masks(output, 0, RESIZED, THINGS)
    mask = next(iter(scored.masks()))
    assert mask.shape == RESIZED


def test_each_image_of_a_batch_has_its_own_result() -> None:
    output = output_of(2, images=2)
    both = [scored_masks(output, number, SIZE, THINGS) for number in range(2)]
    single = scored_masks(KNetOutput(*(tensor[1:] for tensor in output)), 0, SIZE, THINGS)
    assert np.array_equal(both[1].scores, single.scores)
    assert torch.equal(both[1].logits, single.logits)
    assert not np.array_equal(both[0].scores, both[1].scores)


def test_instances_are_the_thing_kernels_with_their_own_masks() -> None:
    output = output_of(0)
    output.masks[0, 2] = -9.0  # an empty mask is no instance
    prediction = prediction_of(output)
    found = prediction.instances("i")
    masks = all_masks(output)[:KERNELS] >= 0.5
    rows = [row for row in range(KERNELS) if masks[row].any()]
    assert 2 not in rows
    assert found.image_id == "i"
    assert found.scores == prediction.scored.scores[rows].tolist()
    assert found.labels == prediction.scored.labels[rows].tolist()
    assert len(found.masks) == len(rows)
    boxes = np.asarray(found.boxes)
    for row, mask, box in zip(rows, found.masks, boxes, strict=True):
        assert np.array_equal(coco_mask.decode(mask), masks[row].numpy())
        y, x = masks[row].nonzero(as_tuple=True)
        assert box.tolist() == [float(x.min()), float(y.min()), float(x.max()) + 1, float(y.max()) + 1]


def test_no_instances() -> None:
    output = output_of(0)
    output.masks[:] = -9.0
    found = prediction_of(output).instances(1)
    assert (found.scores, found.labels, found.masks, np.asarray(found.boxes).shape) == ([], [], [], (0, 4))
