"""The tensors of the official checkpoints map one-to-one to our model, with the published sizes."""

from __future__ import annotations

import re

import pytest
import torch

from panformer_cli.errors import CheckpointError
from panformer_cli.models.panoptic_segformer.official.names import from_official, official_name, own_name
from tests.golden.release import VARIANTS, release_keys, unfilled_model

UNUSED_BRANCHES = ("bbox_head.reg_branches2.", "bbox_head.cls_thing_branches.")
COUNTERS = ("num_batches_tracked", "relative_position_index")

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def is_unused(name: str) -> bool:
    return name.startswith(UNUSED_BRANCHES)


@pytest.mark.slow
@every_variant
def test_official_and_own_tensors_match_one_to_one(variant: str) -> None:
    with torch.device("meta"):
        own = {name: tuple(tensor.shape) for name, tensor in unfilled_model(variant).state_dict().items()}
    is_swin = variant == "swinl"
    given: dict[str, tuple[int, ...]] = {}
    for name, shape, _ in release_keys(variant):
        ours = own_name(name, is_swin)
        if is_unused(name) or name.endswith(COUNTERS):
            assert ours is None, name
        else:
            assert ours is not None, name
            assert ours not in given, f"two tensors are renamed to {ours}"
            given[ours] = tuple(shape)
    assert given == {name: shape for name, shape in own.items() if not name.endswith(COUNTERS)}


@every_variant
def test_renaming_round_trips(variant: str) -> None:
    is_swin = variant == "swinl"
    for theirs, _, _ in release_keys(variant):
        ours = own_name(theirs, is_swin)
        assert ours is None or official_name(ours, is_swin) == theirs


@pytest.mark.slow
@every_variant
def test_parameter_counts_are_the_published_ones(variant: str) -> None:
    with torch.device("meta"):
        parameters = list(unfilled_model(variant).parameters())
    rows = release_keys(variant)
    unused = sum(torch.Size(shape).numel() for name, shape, _ in rows if is_unused(name))
    published = VARIANTS[variant]
    assert unused > 0
    assert sum(parameter.numel() for parameter in parameters) + unused == published.parameters
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad) + unused
    assert trainable == (published.trainable or published.parameters)


@every_variant
def test_all_used_tensors_are_float32(variant: str) -> None:
    dtypes = {dtype for name, _, dtype in release_keys(variant) if own_name(name, variant == "swinl")}
    assert dtypes == {"float32"}


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("bbox_head.mask_head.blocks.0.attn.q.weight", "bbox_head.things_mask_head.blocks.0.attn.q.weight"),
        ("bbox_head.mask_head2.attnen.linear.0.bias", "bbox_head.stuff_mask_head.attnen.linear.0.bias"),
        ("module.neck.convs.1.gn.bias", "neck.convs.1.gn.bias"),
    ],
)
def test_older_names_and_prefixes_are_equivalent(older: str, newer: str) -> None:
    assert own_name(older, False) == own_name(newer, False)
    assert own_name(newer, False) is not None


def test_the_older_name_of_an_unused_branch_is_unused() -> None:
    assert own_name("bbox_head.cls_branches2.3.weight", False) is None


def test_norm1_depends_on_the_backbone() -> None:
    state = {"backbone.norm1.weight": torch.ones(1)}
    swin = {**state, "backbone.layers.0.blocks.0.attn.relative_position_bias_table": torch.ones(1)}
    assert set(from_official(state)) == {"backbone.body.stages_0.norm.weight"}
    assert "backbone.norms.0.weight" in from_official(swin)


def test_numbers_beyond_nine_are_kept() -> None:
    theirs = "bbox_head.transformer.encoder.layers.12.attentions.0.value_proj.bias"
    assert own_name(theirs, False) == "encoder.layers.12.attention.value_proj.bias"


def test_a_tensor_under_both_its_older_and_newer_name_is_an_error() -> None:
    both = ("bbox_head.mask_head.attnen.q.bias", "bbox_head.things_mask_head.attnen.q.bias")
    with pytest.raises(CheckpointError, match=rf"contain {re.escape(both[1])} twice, once as {re.escape(both[1])}"):
        from_official({name: torch.ones(1) for name in both})


def test_no_official_name_remains() -> None:
    for variant in VARIANTS:
        for name, _, _ in release_keys(variant):
            ours = own_name(name, variant == "swinl") or ""
            assert not re.search(r"bbox_head|attentions|ffns|_convs|convs|attnen|linear_l\d|mask_head\.\d", ours), ours
