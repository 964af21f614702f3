"""Optimizing a model for inference does not change its outputs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from panformer_cli.models.layers.batch_norm_folding import fold_batch_norms
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from tests.models.panoptic_segformer.small import scramble, small_model


def with_statistics(model: nn.Module) -> None:
    """Set running means and variances like those after training."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)


def outputs(model: PanopticSegFormer, images: Tensor) -> list[Tensor]:
    """Return boxes and logits of all queries, and masks of the first ones, as rounding can change the best ones."""
    padding = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
    with torch.inference_mode():
        memory = model.encode(images, padding)
        location = model.location_decoder(memory)
        things, stuff, _ = model.decode_masks(memory, location.queries[:, :5], every_mask=False)
    return [location.boxes, location.class_logits, things.masks[-1], stuff.masks[-1]]


def optimized(model: PanopticSegFormer) -> PanopticSegFormer:
    model.optimize_for_inference()
    return model


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "pvt_v2_b0", "swin_tiny"])
def test_the_outputs_do_not_change(backbone: str) -> None:
    model = small_model(backbone=backbone).eval()
    scramble(model)
    with_statistics(model)
    images = torch.randn(2, 3, 70, 90, generator=torch.Generator().manual_seed(1))
    before = outputs(model, images)
    after = outputs(optimized(copy.deepcopy(model)), images.contiguous(memory_format=torch.channels_last))
    for one, other in zip(before, after, strict=True):
        assert one.abs().max() > 0.1
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "count"), [("resnet18", 20), ("resnet50", 53), ("pvt_v2_b0", 0)])
def test_every_batch_norm_is_folded(backbone: str, count: int) -> None:
    model = small_model(backbone=backbone).eval()
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == count
    assert fold_batch_norms(model) == count
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_convolutions_use_channels_last() -> None:
    model: Any = optimized(small_model())
    assert model.backbone.body.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


class NormalizeFirst(nn.Module):
    """As in timm's DPN: a BatchNorm before its convolution, with the usual name."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, channels, 3)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.conv(self.bn(images))
        return output


@pytest.mark.parametrize("channels", [3, 8])
def test_a_batch_norm_before_its_convolution_is_not_folded(channels: int) -> None:
    torch.manual_seed(0)
    module = NormalizeFirst(channels).eval()
    with_statistics(module)
    images = torch.randn(1, 3, 8, 8)
    before = module(images)
    assert fold_batch_norms(module) == 0
    assert torch.equal(module(images), before)
