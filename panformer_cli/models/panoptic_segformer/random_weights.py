"""Random weights that produce segments, to time a model without trained weights.

In a newly initialized model every class has a probability of 1 % and most masks are empty, so merging has nothing to
do. The last linear layers for masks and classes are rescaled so that about as many candidates reach the score threshold
as in a photo. All other layers are unchanged. The masks are still noise, and similar to each other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from panformer_cli.models.panoptic_segformer.query_selection import gather_queries, select_top
from panformer_cli.models.panoptic_segformer.settings import MergingSettings

if TYPE_CHECKING:
    from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer

THINGS, STUFF = 20, 10
"""Number of candidates whose class score reaches the threshold."""
FOREGROUND = 0.2
"""Share of all mask values that are above the threshold of 0.5. Their mean becomes 1."""

_FAINT = 5  # the lowest class score among the candidates is the threshold divided by this
_ALL_POSITIVE = 16.0  # with this mask bias the following ReLU has no effect


@torch.no_grad()
def spread_scores(model: PanopticSegFormer, image: Tensor, settings: MergingSettings) -> None:
    """Rescale the last layers for masks and classes; see `PanopticModel.spread_scores`."""
    mask_heads = [_last_linear(decoder) for decoder in (model.thing_mask_decoder, model.stuff_mask_decoder)]
    for head in mask_heads:
        nn.init.constant_(head.bias, _ALL_POSITIVE)
    padding_mask = torch.zeros(1, *image.shape[-2:], dtype=torch.bool, device=image.device)
    memory = model.encode(image, padding_mask)
    location = model.location_decoder(memory)
    class_logits = location.class_logits[-1]
    queries = gather_queries(location.queries, select_top(class_logits, settings.top_k).queries)
    things, stuff, stuff_logits = model.decode_masks(memory, queries, every_mask=False)
    for head, output in zip(mask_heads, (things, stuff), strict=True):
        _rescale_masks(head, output.masks[-1])
    threshold = min(max(settings.score_threshold, 0.01), 0.99)
    _rescale_classes(model.location_decoder.class_branches[-1], class_logits, (THINGS, settings.top_k), threshold)
    _rescale_classes(
        model.stuff_queries.class_branches[-1], stuff_logits[-1], (STUFF, stuff_logits[-1].numel()), threshold
    )


def _last_linear(decoder: nn.Module) -> nn.Linear:
    layer = decoder.get_submodule("tail.mask_head.output")
    assert isinstance(layer, nn.Linear)
    return layer


def _rescale_masks(head: nn.Linear, masks: Tensor) -> None:
    values = masks.flatten().sort(descending=True).values
    if not len(values):
        return
    foreground = values[: max(1, int(FOREGROUND * len(values)))]
    _rescale(head, (float(foreground[-1]), float(foreground.mean())), (0.5, 1.0))


def _rescale_classes(branch: nn.Module, logits: Tensor, ranks: tuple[int, int], threshold: float) -> None:
    """Map the logits at two ranks, counted from 1, to the threshold and to a low score."""
    assert isinstance(branch, nn.Linear)
    values = logits.flatten().sort(descending=True).values
    if not len(values):
        return
    clear, faint = (float(values[min(rank, len(values)) - 1]) for rank in ranks)
    _rescale(branch, (faint, clear), (_logit(threshold / _FAINT), _logit(threshold)))


def _rescale(layer: nn.Linear, actual: tuple[float, float], target: tuple[float, float]) -> None:
    """Rescale the layer linearly so that the two outputs `actual` become `target`."""
    slope = (target[1] - target[0]) / max(actual[1] - actual[0], 1e-3)
    layer.weight.mul_(slope)
    layer.bias.mul_(slope).add_(target[1] - slope * actual[1])


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
