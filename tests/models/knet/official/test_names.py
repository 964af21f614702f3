"""Names and tensors of K-Net's official checkpoints, against the list of names of each published model."""

from __future__ import annotations

import pytest
import torch
from timm.models.swin_transformer import PatchMerging
from torch import Tensor

from panformer_cli.errors import CheckpointError
from panformer_cli.models.knet.official.names import from_official, in_our_order, official_name
from tests.golden.knet_release import KNET_VARIANTS, knet_keys, unfilled_knet
from tests.release_files import stub_state


@pytest.mark.slow
@pytest.mark.parametrize("variant", KNET_VARIANTS)
def test_every_tensor_of_a_model_has_one_official_tensor_of_its_shape(variant: str) -> None:
    own = from_official(stub_state(f"knet_{variant}"))
    with torch.device("meta"):
        model = unfilled_knet(variant).state_dict()
    needed = {name: tensor.shape for name, tensor in model.items() if not name.endswith("num_batches_tracked")}
    assert {name: tensor.shape for name, tensor in own.items()} == needed
    names = {name for name, _, kind in knet_keys(variant) if kind == "float32"}
    assert {official_name(name, variant == "swinl") for name in own} == names


def test_patch_merging_computes_the_same_with_permuted_inputs() -> None:
    """Against a plain loop over the cells with the official order, by channel, then row, then column."""
    channels = 3
    merging = PatchMerging(channels)
    norm, bias = torch.randn(4 * channels), torch.randn(4 * channels)
    reduction = torch.randn(2 * channels, 4 * channels)
    weights = {"norm.weight": norm, "norm.bias": bias, "reduction.weight": reduction}
    merging.load_state_dict({name: in_our_order(tensor) for name, tensor in weights.items()})
    image = torch.randn(1, 4, 6, channels)
    with torch.no_grad():
        ours = merging(image)
    for y in range(2):
        for x in range(3):
            cell = torch.empty(4 * channels)
            for channel in range(channels):
                for dy in range(2):
                    for dx in range(2):
                        cell[channel * 4 + 2 * dy + dx] = image[0, 2 * y + dy, 2 * x + dx, channel]
            normal = (cell - cell.mean()) / (cell.var(unbiased=False) + 1e-5).sqrt() * norm + bias
            torch.testing.assert_close(ours[0, y, x], reduction @ normal, rtol=1e-4, atol=1e-5)


def test_only_patch_merging_is_permuted() -> None:
    values = torch.arange(8.0)
    state = {
        "backbone.stages.0.downsample.norm.weight": values,
        "backbone.stages.0.blocks.0.norm1.weight": values,
        "backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table": values,
    }
    own = from_official(state)
    assert own["backbone.body.layers_1.downsample.norm.weight"].tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    assert own["backbone.body.layers_0.blocks.0.norm1.weight"].tolist() == values.tolist()


@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 6)])
def test_a_tensor_of_another_form_is_left_for_the_comparison_of_shapes(shape: tuple[int, ...]) -> None:
    tensor = torch.zeros(shape)
    assert in_our_order(tensor).shape == shape


def test_buffers_are_left_out_and_unknown_names_kept() -> None:
    names = ["backbone.bn1.num_batches_tracked", "strange.weight", "backbone.layer9.0.conv1.weight"]
    own = from_official({name: torch.zeros(1) for name in names})
    assert [*own] == ["strange.weight", "backbone.body.layer9.0.conv1.weight"]
    assert [official_name(name, False) for name in own] == names[1:]


@pytest.mark.parametrize(
    "name",
    ["backbone.stages.3.downsample.norm.weight", "backbone.stages.4.blocks.0.norm1.weight", "backbone.norm4.bias"],
)
def test_surplus_tensors_of_swin_keep_their_official_names(name: str) -> None:
    state = {"backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table": torch.zeros(1)}
    own = from_official({**state, name: torch.zeros(4)})
    assert len(own) == 2
    assert official_name([*own][1], True) == name


def test_a_tensor_under_two_names_is_refused() -> None:
    state: dict[str, Tensor] = {"fusion.location_head.norm.bias": torch.zeros(1)}
    state["rpn_head.localization_fpn.conv_pred.gn.bias"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="contain rpn_head.localization_fpn.conv_pred.gn.bias twice"):
        from_official(state)


def test_the_release_counts_its_tensors() -> None:
    """By the specification of the published models."""
    assert [len(knet_keys(variant)) for variant in KNET_VARIANTS] == [502, 808, 541]
