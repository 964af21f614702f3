"""Random weights that keep queries, to time a model without trained weights.

In a newly initialized network every class has about the same probability, so no query is kept, and merging has nothing
to do. The class head is rescaled so that about as many queries are kept as in a photo. The masks are still noise: they
compete for pixels, but few of them win enough to become segments.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panformer_cli.models.hugging_face.model import HuggingFaceModel
from panformer_cli.models.hugging_face.settings import QueryMergingSettings

KEPT = 30
"""Number of queries whose class score is above the threshold."""
STEPS_PER_OCTAVE = 8
NEVER = -1e4
"""A logit that never wins."""


@torch.no_grad()
def spread_scores(model: HuggingFaceModel, image: Tensor, settings: QueryMergingSettings) -> None:
    """Rescale the class head; see `PanopticModel.spread_scores`."""
    if model.square:
        height, width = image.shape[-2:]
        image = F.pad(image, (0, model.square - width, 0, model.square - height))  # negative numbers cut the image
    output = model.infer(image, torch.zeros(1, *image.shape[-2:], dtype=torch.bool, device=image.device))
    logits = output.class_logits[0]  # (Q, C + 1)
    head = _class_head(model, logits.shape[-1])
    head.bias[-1] = NEVER  # "no object"
    logits[:, -1] = NEVER
    gains = [2 ** (step / STEPS_PER_OCTAVE) for step in range(-4 * STEPS_PER_OCTAVE, 16 * STEPS_PER_OCTAVE)]
    target = min(KEPT, len(logits))
    gain = next((gain for gain in gains if _number_kept(gain * logits, settings.score_threshold) >= target), gains[-1])
    for parameter in head.parameters():
        parameter.mul_(gain)


def _class_head(model: HuggingFaceModel, outputs: int) -> nn.Linear:
    """Return the last linear layer with an output for each label and for "no object"."""
    heads = [part for part in model.modules() if isinstance(part, nn.Linear) and part.out_features == outputs]
    return heads[-1]


def _number_kept(logits: Tensor, threshold: float) -> int:
    best = logits.softmax(-1).max(-1)
    return int(((best.values > threshold) & (best.indices < logits.shape[-1] - 1)).sum())
