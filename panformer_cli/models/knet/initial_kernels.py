"""The first kernels and masks of things and stuff (docs/knet.md, "First kernels and masks").

Letters in shapes: N kernels, things first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panformer_cli.models.knet.fusion import ConvUnit
from panformer_cli.models.layers.autocast import in_float32


class Kernels(NamedTuple):
    """The kernels and their masks.

    Attributes:
        kernels: (B, N, C) float32.
        masks: (B, N, h, w) mask logits at stride 8.
    """

    kernels: Tensor
    masks: Tensor


class InitialKernels(nn.Module):
    """Learned kernels of things, which get the features of their masks, and the semantic segmentation's of stuff.

    Args:
        dim: number of channels (C).
        thing_kernels: number of thing kernels.
        num_things: number of thing classes.
        num_stuff: number of stuff classes: as many stuff kernels.
    """

    def __init__(self, dim: int, thing_kernels: int, num_things: int, num_stuff: int) -> None:
        super().__init__()
        self.num_things = num_things
        self.location = ConvUnit(dim, 1)
        self.semantic = ConvUnit(dim, 1)
        self.things = nn.Conv2d(dim, thing_kernels, 1, bias=False)
        self.classes = nn.Conv2d(dim, num_things + num_stuff, 1)  # those of things are only used in training

    def forward(self, location: Tensor, semantic: Tensor) -> tuple[Kernels, Tensor]:
        """Return the first kernels with their masks, and the features that all later stages read, (B, C, h, w).

        Args:
            location: map for objects, (B, C, h, w).
            semantic: map for classes, (B, C, h, w).
        """
        location, semantic = self.location(location), self.semantic(semantic)
        features = semantic + location
        thing_masks = self.things(location)
        assert self.classes.bias is not None
        stuff = self.classes.weight[self.num_things :]
        stuff_masks = F.conv2d(semantic, stuff, self.classes.bias[self.num_things :])
        with in_float32(features):
            things = self.things.weight.flatten(1) + gathered(thing_masks, features)
            kernels = torch.cat([things, stuff.flatten(1).expand(things.shape[0], -1, -1)], dim=1)
        return Kernels(kernels, torch.cat([thing_masks, stuff_masks], dim=1)), features


def gathered(masks: Tensor, features: Tensor) -> Tensor:
    """Return for each mask the sum, not the mean, of the features where its logit is positive, (B, N, C) float32.

    The sums have up to some 10,000 pixels, so they are computed in float32.

    Args:
        masks: (B, N, h, w) logits.
        features: (B, C, h, w).
    """
    with in_float32(features):
        inside = (masks > 0).float().flatten(2)
        return inside @ features.float().flatten(2).transpose(1, 2)
