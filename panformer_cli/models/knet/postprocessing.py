"""From the masks of the kernels to a panoptic map: every pixel goes to one kernel (docs/knet.md, "Merging").

Masks are enlarged one at a time, so that memory does not grow with the number of kernels: at the default size, all of
them together would take 1.4 GB. Letters in shapes: N kernels, h x w cells of a mask, H x W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import PanopticMap
from panformer_cli.metrics.detection import InstancePrediction, encode_mask
from panformer_cli.models.base import Prediction
from panformer_cli.models.knet.output import KNetOutput
from panformer_cli.models.knet.settings import WinnerSettings

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

MASK_STRIDE = 8
"""Of the mask logits, in pixels of the padded input."""
MASK_THRESHOLD = 0.5
"""Value of a mask from which on a pixel belongs to it."""


@dataclass(frozen=True)
class ScoredMasks:
    """The kernels of one image with their classes and masks.

    Attributes:
        scores: (N,) probability of the label, 0..1.
        labels: (N,) of the category table. Thing kernels come first, then one kernel per stuff class.
        logits: (N, h, w) mask logits at stride 8 of the padded input, on any device.
        resized: height and width of the input without padding.
        size: height H and width W of the original image.
    """

    scores: Floats
    labels: Ints
    logits: Tensor
    resized: tuple[int, int]
    size: tuple[int, int]

    @torch.inference_mode()
    def masks(self, count: int | None = None) -> Iterator[Tensor]:
        """Yield the masks of the first `count` kernels, or of all, each (H, W) float32, 0..1, on the device.

        Logits are enlarged to stride 4, become probabilities, and are enlarged to the padded input, from which the
        padding is cut off, and to the image.
        """
        height, width = self.resized
        padded = tuple(MASK_STRIDE * side for side in self.logits.shape[-2:])
        for logits in self.logits[:count].float():
            probabilities = _bilinear(logits, tuple(2 * side for side in logits.shape)).sigmoid()
            yield _bilinear(_bilinear(probabilities, padded)[:height, :width], self.size)


def _bilinear(mask: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize a mask (h, w) to `size`, without antialiasing; a mask of this size is returned as it is."""
    if mask.shape == size:
        return mask
    resized: Tensor = F.interpolate(mask[None, None], size, mode="bilinear")[0, 0]
    return resized


@dataclass(frozen=True)
class Winners:
    """The kernel that wins each pixel, whatever the thresholds are.

    Attributes:
        rows: (H, W) int32 index of the kernel with the largest score x mask; the first one on a tie.
        won: (N,) number of pixels that each kernel wins.
        own: (N,) number of pixels of its own mask, where it is at least `MASK_THRESHOLD`.
    """

    rows: npt.NDArray[np.int32]
    won: Ints
    own: Ints


@torch.inference_mode()
def winners_of(scored: ScoredMasks) -> Winners:
    """Return which kernel wins each pixel. All kernels compete, also those that no threshold keeps."""
    device, count = scored.logits.device, len(scored.scores)
    best = torch.full(scored.size, -1.0, device=device)
    rows = torch.zeros(scored.size, dtype=torch.int32, device=device)
    own = torch.zeros(count, dtype=torch.int64, device=device)
    for row, (score, mask) in enumerate(zip(scored.scores.tolist(), scored.masks(), strict=True)):
        own[row] = (mask >= MASK_THRESHOLD).sum()
        value = mask * score
        rows.masked_fill_(value > best, row)
        torch.maximum(best, value, out=best)
    winners = rows.cpu().numpy()
    return Winners(winners, np.bincount(winners.reshape(-1), minlength=count), own.cpu().numpy())


def kept_rows(scores: Floats, is_thing: npt.NDArray[np.bool_], won: Ints, own: Ints, settings: WinnerSettings) -> Ints:
    """Return the kernels that become segments, in descending order of score."""
    order = np.argsort(-scores, kind="stable")
    confident = ~is_thing | (scores.astype(np.float64) >= settings.score_threshold)
    kept = confident & (won > 0) & (own > 0) & (won / np.maximum(own, 1) >= settings.won_threshold)
    return order[kept[order]]


@dataclass(frozen=True)
class KernelPrediction(Prediction):
    """Kernels that are merged when the panoptic map is first accessed."""

    scored: ScoredMasks
    categories: CategoryTable
    settings: WinnerSettings

    @cached_property
    def winners(self) -> Winners:
        """The kernel of each pixel."""
        return winners_of(self.scored)

    @property
    def is_thing(self) -> npt.NDArray[np.bool_]:
        """(N,), whether a kernel is one of things."""
        return self.scored.labels < self.categories.num_things

    @cached_property
    def panoptic(self) -> PanopticMap:
        """The merged map at the original image size; pixels of kernels that are not kept are void."""
        scored, winners = self.scored, self.winners
        rows = kept_rows(scored.scores, self.is_thing, winners.won, winners.own, self.settings)
        numbers = np.zeros(len(scored.scores), np.int32)
        numbers[rows] = np.arange(1, len(rows) + 1)
        ids = numbers[winners.rows]
        categories = {
            number: self.categories.by_label(label).id for number, label in enumerate(scored.labels[rows].tolist(), 1)
        }
        scores = scored.scores[rows].tolist()
        segments = segments_of(ids, categories)
        return PanopticMap(ids, tuple(replace(segment, score=scores[segment.id - 1]) for segment in segments))

    def instances(self, image_id: int | str) -> InstancePrediction:
        """Return each thing kernel with its own mask and the box around it, without thresholds on scores.

        The reference implementation has no instance results for its panoptic models.
        """
        things = int(self.is_thing.sum())
        found: list[tuple[int, list[float]]] = []
        masks = []
        for row, mask in enumerate(self.scored.masks(things)):
            binary = (mask >= MASK_THRESHOLD).cpu().numpy()
            if box := _box(binary):
                found.append((row, box))
                masks.append(encode_mask(binary))
        rows = [row for row, _ in found]
        boxes = np.array([box for _, box in found], np.float32).reshape(-1, 4)
        scores, labels = self.scored.scores[rows], self.scored.labels[rows]
        return InstancePrediction(image_id, scores.tolist(), labels.tolist(), boxes, masks)


def _box(mask: npt.NDArray[np.bool_]) -> list[float]:
    """Return x1, y1, x2, y2 in pixels around a mask; empty for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    return [float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1]


def scored_masks(output: KNetOutput, image: int, size: tuple[int, int], num_things: int) -> ScoredMasks:
    """Return the scored masks of one image of a batch.

    Args:
        output: output of the network.
        image: position of the image in the batch.
        size: height and width of the original image.
        num_things: number of thing classes in the data set.
    """
    probabilities = output.class_logits[image].float().sigmoid().cpu().numpy()
    kernels, classes = probabilities.shape
    thing_kernels = kernels - (classes - num_things)
    things = probabilities[:thing_kernels, :num_things]
    stuff = np.diagonal(probabilities[thing_kernels:, num_things:])
    inside = ~output.padding_mask[image].cpu()
    return ScoredMasks(
        scores=np.concatenate([things.max(axis=1), stuff]),
        labels=np.concatenate([things.argmax(axis=1), np.arange(num_things, classes)]),
        logits=output.masks[image],
        resized=(int(inside[:, 0].sum()), int(inside[0].sum())),
        size=size,
    )
