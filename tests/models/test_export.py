"""`torch.export` of the forward pass with dynamic batch, height and width, against eager mode at other sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from panformer_cli.models.base import PanopticModel
from panformer_cli.models.build import build_model
from panformer_cli.models.layers.deformable_attention import DeformableAttention
from panformer_cli.models.layers.sampling.portable import gather_sampling
from panformer_cli.recipe_io import load_recipe
from tests.golden.release import COCO_SIZED
from tests.models.knet.small import small_knet
from tests.models.panoptic_segformer.small import images_of, no_padding, scramble, small_model

TRACED = (2, 96, 128)
OTHERS = ((1, 160, 224), (3, 75, 101))
"""Images, height, width: other values of each, odd ones too."""
BATCH, HEIGHT, WIDTH = Dim("batch", max=64), Dim("height", min=65, max=4096), Dim("width", min=65, max=4096)
TOLERANCE = 1e-4


def inputs(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Noise; the last image of a batch is padded at the bottom and on the right."""
    images = images_of(batch, (height, width), seed=height)
    padding = no_padding(images)
    if batch > 1:
        padding[-1, -height // 4 :] = True
        padding[-1, :, -width // 3 :] = True
    return images, padding


def exported(model: PanopticModel) -> ExportedProgram:
    shapes = {"images": {0: BATCH, 2: HEIGHT, 3: WIDTH}, "padding_mask": {0: BATCH, 1: HEIGHT, 2: WIDTH}}
    with torch.no_grad():
        return torch.export.export(model.inference_module(), inputs(*TRACED), dynamic_shapes=shapes)


def assert_equal_to_eager(model: PanopticModel, program: ExportedProgram, size: tuple[int, int, int]) -> None:
    images, padding = inputs(*size)
    with torch.no_grad():
        expected, actual = model.infer(images, padding), program.module()(images, padding)
    assert len(actual) == len(expected)
    for name, ours, eager in zip(expected._fields, actual, expected, strict=True):  # type: ignore[attr-defined]
        assert ours.shape == eager.shape, name
        assert ours.dtype == eager.dtype, name
        assert eager.float().abs().max() > 0, name
        difference = float((ours.float() - eager.float()).abs().max() / eager.float().abs().max())
        assert difference <= TOLERANCE, f"{name} at {size}: {difference:.1e}"


def shorten_stages(backbone: nn.Module, blocks: int) -> None:
    """Keep the first `blocks` blocks of each stage: further ones are traced like them."""
    stages = [module for name, module in backbone.named_modules() if name.endswith("blocks") or ".layer" in name]
    for stage in stages:
        if isinstance(stage, nn.Sequential | nn.ModuleList) and len(stage) > blocks:
            del stage[blocks:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "blocks"),
    [("pvt_v2_b0", 1), ("swin_tiny", 2), ("timm/convnext_atto", 1), ("timm/tf_efficientnet_lite0", 9)],
)
def test_an_exported_backbone_takes_other_sizes(backbone: str, blocks: int) -> None:
    """Without encoder and decoders, which take most of the time.

    Swin pads its maps to whole windows, of which every second block shifts them; for ConvNeXt, images are padded to a
    multiple of 32. The convolutions of `tf_efficientnet_lite0` pad their input by what its size needs.
    """
    model = small_model(backbone=backbone).eval()
    shorten_stages(model.backbone, blocks)
    scramble(model)
    levels = nn.Sequential(model.backbone, model.neck)
    with torch.no_grad():
        program = torch.export.export(
            levels, inputs(*TRACED)[:1], dynamic_shapes={"input": {0: BATCH, 2: HEIGHT, 3: WIDTH}}
        )
        for size in (TRACED, *OTHERS):
            images, _ = inputs(*size)
            for ours, eager in zip(program.module()(images), levels(images), strict=True):
                torch.testing.assert_close(ours, eager, rtol=0, atol=TOLERANCE * float(eager.abs().max()))


@pytest.mark.slow
def test_the_published_model_can_be_exported_and_takes_other_sizes() -> None:
    """Two layers of each kind, since further layers are traced like the second. One of the two samples with "gather",
    the other with "portable"."""
    recipe = load_recipe(
        "r50", [f"model.{part}_layers=2" for part in ("encoder", "location", "thing_mask", "stuff_mask")]
    )
    torch.manual_seed(0)
    model = build_model(recipe.model, recipe.inference, COCO_SIZED, pretrained=False, sampling="portable").eval()
    attentions = [module for module in model.modules() if isinstance(module, DeformableAttention)]
    assert len(attentions) == 4
    for attention in attentions[::2]:
        attention.sampling = gather_sampling
    shorten_stages(model.get_submodule("backbone"), 3)
    scramble(model.get_submodule("location_decoder"))
    program = exported(model)
    for size in (TRACED, *OTHERS):
        assert_equal_to_eager(model, program, size)


@pytest.mark.slow
def test_the_inference_module_shares_the_weights_and_returns_what_infer_returns() -> None:
    model = small_model().eval()
    module = model.inference_module()
    assert {id(parameter) for parameter in module.parameters()} == {id(parameter) for parameter in model.parameters()}
    with torch.no_grad():
        for ours, expected in zip(module(*inputs(*TRACED)), model.infer(*inputs(*TRACED)), strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.slow
def test_an_exported_k_net_takes_other_sizes() -> None:
    """Images are padded to multiples of 32 inside the program."""
    model = small_knet(stages=1)
    shorten_stages(model.backbone, 1)
    program = exported(model)
    for size in (TRACED, (3, 75, 101)):
        assert_equal_to_eager(model, program, size)
