"""Input normalization of pretrained timm models that were not trained with ImageNet's mean and standard deviation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from panformer_cli.data.transforms import MEAN, STD
from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.known import BACKBONES, TIMM
from panformer_cli.models.backbones.timm_import import timm

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of R, G and B, 0..255."""


class Renormalization(nn.Module):
    """Changes images from the data pipeline's normalization to another one. It has no tensors in checkpoints.

    Args:
        statistics: of the other normalization.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, statistics: Statistics) -> None:
        super().__init__()
        mean, std, our_mean, our_std = (torch.tensor(values) for values in (*statistics, MEAN, STD))
        self.register_buffer("scale", (our_std / std)[:, None, None], persistent=False)
        self.register_buffer("shift", ((our_mean - mean) / std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W)."""
        return images * self.scale + self.shift


def pretrained_statistics(name: str) -> Statistics:
    """Return the statistics with which timm's weights of a backbone were trained.

    Args:
        name: as in `model.backbone`.

    Raises:
        PanformerError: timm has no weights for the model, so it is unknown.
    """
    model = BACKBONES[name].pretrained if name in BACKBONES else name.removeprefix(TIMM)
    if not timm.is_model_pretrained(model):
        raise PanformerError(
            f"model.backbone_normalization is pretrained, but timm has no pretrained weights for {name}; set it to "
            "imagenet"
        )
    config: Any = timm.get_pretrained_cfg(model)
    return tuple(255 * value for value in config.mean), tuple(255 * value for value in config.std)


def differs_from_ours(statistics: Statistics) -> bool:
    """Return whether statistics differ from those of the data pipeline, which are ImageNet's."""
    ours = (*MEAN, *STD)
    return any(abs(one - other) > 0.5 for one, other in zip(ours, (*statistics[0], *statistics[1]), strict=True))
