"""The output of the network at inference."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class KNetOutput(NamedTuple):
    """Classes and masks of the last stage.

    Attributes:
        class_logits: (B, N, K) of all kernels, thing kernels first, for all classes.
        masks: (B, N, h, w) mask logits at stride 8 of the padded images, whose sides are multiples of 32.
        padding_mask: (B, H, W) bool, True outside of each image: its size is that of the image without padding.
    """

    class_logits: Tensor
    masks: Tensor
    padding_mask: Tensor
