"""The network of K-Net: padding, batches, reduced precision and fewer stages. tests/golden compares its values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from panformer_cli.data.structures import Batch
from panformer_cli.errors import PanformerError, RecipeError
from panformer_cli.models.base import LossCounts
from panformer_cli.models.knet.fusion import with_position
from panformer_cli.models.knet.initial_kernels import gathered
from panformer_cli.models.knet.model import KNet, with_whole_cells
from panformer_cli.models.knet.output import KNetOutput
from panformer_cli.models.knet.settings import KNetSettings
from panformer_cli.settings import TrainSettings
from tests.models.knet.small import small_knet
from tests.models.panoptic_segformer.small import images_of, no_padding


@pytest.fixture(scope="module")
def model() -> KNet:
    return small_knet()


@torch.inference_mode()
def infer(model: KNet, images: Tensor) -> KNetOutput:
    return model.infer(images, no_padding(images))


def test_kernels_of_things_and_stuff_at_stride_8_of_the_padded_image(model: KNet) -> None:
    output = infer(model, images_of(2, (75, 101)))
    assert output.class_logits.shape == (2, 7 + 2, 3 + 2)
    assert output.masks.shape == (2, 7 + 2, 96 // 8, 128 // 8)
    assert output.padding_mask.shape == (2, 75, 101)


def test_padding_is_zeros_up_to_multiples_of_32_and_part_of_the_result(model: KNet) -> None:
    images = images_of(1, (75, 101))
    padded = torch.zeros(1, 3, 96, 128)
    padded[:, :, :75, :101] = images
    assert torch.equal(with_whole_cells(images), padded)
    assert torch.equal(infer(model, images).masks, infer(model, padded).masks)
    assert with_whole_cells(padded).shape == padded.shape


@pytest.mark.slow
def test_images_of_one_size_in_a_batch_get_the_results_that_they_get_alone(model: KNet) -> None:
    images = images_of(3, (64, 96))
    together = infer(model, images)
    for number in range(3):
        alone = infer(model, images[[number]])
        for ours, single in ((together.masks, alone.masks), (together.class_logits, alone.class_logits)):
            torch.testing.assert_close(ours[[number]], single, rtol=1e-4, atol=1e-4 * float(single.abs().max()))


def test_the_sum_over_a_mask_is_a_sum_where_its_logit_is_positive() -> None:
    features = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]], [[10.0, 20.0], [40.0, 80.0]]]])
    masks = torch.tensor([[[[0.1, -1.0], [5.0, 0.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    assert gathered(masks, features).tolist() == [[[5.0, 50.0], [0.0, 0.0]]]
    # Sums of up to some 10,000 pixels are exact in float32 only.
    many, ones = torch.ones(1, 1, 100, 101, dtype=torch.bfloat16), torch.ones(1, 1, 100, 101, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert gathered(many, ones).tolist() == [[[10100.0]]]


def test_the_position_encoding_counts_cells_from_1_without_an_offset() -> None:
    position = with_position(torch.zeros(1, 8, 2, 4))[0]
    # By hand: y of the first row is 1 / 2 of 2 pi, x of the first column is 1 / 4 of it; the wavelengths are 1 and 100.
    angles = torch.tensor([torch.pi, torch.pi / 100])
    expected_y = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten()
    expected_x = torch.stack([(angles / 2).sin(), (angles / 2).cos()], dim=-1).flatten()
    torch.testing.assert_close(position[:, 0, 0], torch.cat([expected_y, expected_x]), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_reduced_precision_keeps_kernels_in_float32(model: KNet) -> None:
    images = images_of(1, (64, 96))
    exact = infer(model, images)
    with torch.autocast("cpu", torch.bfloat16):
        output = infer(model, images)
    assert (output.masks.dtype, output.class_logits.dtype) == (torch.bfloat16, torch.float32)
    assert output.masks.float().isfinite().all()
    assert float((output.masks.float() - exact.masks).abs().mean()) < 0.3 * float(exact.masks.abs().mean())


@pytest.mark.slow
def test_fewer_mask_layers_are_the_first_stages(model: KNet) -> None:
    images, short = images_of(1, (64, 64)), small_knet()
    masks: list[Tensor] = []
    model.updates[0].register_forward_hook(lambda _module, _inputs, output: masks.append(output[0].masks))
    infer(model, images)
    short.use_mask_layers(1)
    assert len(short.updates) == 1
    torch.testing.assert_close(infer(short, images).masks, masks[0])
    with pytest.raises(PanformerError, match="--mask-layers is 2, but this model has 1 stage; expected 1 to 1"):
        short.use_mask_layers(2)


@pytest.mark.slow
def test_the_optimized_model_computes_the_same() -> None:
    model, images = small_knet(seed=3), images_of(1, (64, 96))
    before = infer(model, images)
    model.optimize_for_inference()
    after = infer(model, images)
    torch.testing.assert_close(after.class_logits, before.class_logits, rtol=1e-4, atol=1e-5)


def test_it_is_inference_only(model: KNet) -> None:
    images = images_of(1, (64, 64))
    with pytest.raises(PanformerError, match="inference only"):
        model(Batch(images, no_padding(images), []), LossCounts(1, 1))
    with pytest.raises(PanformerError, match="inference only"):
        model.parameter_groups(TrainSettings())
    with pytest.raises(PanformerError, match="inference only"):
        model.class_rows()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"backbone": "timm/convnext_tiny", "frozen_stages": 0}, "since K-Net also needs a feature map at stride 4"),
        ({"backbone": "resnet51"}, "expected one of resnet18"),
        ({"embed_dim": 48}, "model.embed_dim is 48: expected a multiple of 32"),
        ({"heads": 7}, r"of model.heads \(7\)"),
    ],
)
def test_settings_that_no_model_has(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        replace(KNetSettings(), **changes)  # type: ignore[arg-type]
