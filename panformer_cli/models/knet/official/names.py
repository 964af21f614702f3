"""Convert tensors between official checkpoints and panformer (docs/knet.md, "Official checkpoints")."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from panformer_cli.errors import CheckpointError
from panformer_cli.models.backbones.reference_names import BACKBONE, BUFFERS, Pairs, Renaming, is_swin_state

SWIN: Pairs = [
    ("backbone.patch_embed.projection.", "backbone.body.patch_embed.proj."),
    # Patch merging ends a stage of theirs and begins the next one of ours.
    *((f"backbone.stages.{stage}.downsample.", f"backbone.body.layers_{stage + 1}.downsample.") for stage in range(4)),
    ("backbone.stages.#.blocks.#.attn.w_msa.", "backbone.body.layers_#.blocks.#.attn."),
    ("backbone.stages.#.blocks.#.ffn.layers.0.0.", "backbone.body.layers_#.blocks.#.mlp.fc1."),
    ("backbone.stages.#.blocks.#.ffn.layers.1.", "backbone.body.layers_#.blocks.#.mlp.fc2."),
    ("backbone.stages.#.", "backbone.body.layers_#."),
    ("backbone.norm#.", "backbone.norms.#."),
]

UNIT: Pairs = [("conv.", "conv."), ("gn.", "norm.")]

UPDATE: Pairs = [
    ("dynamic_layer.", "features."),
    ("input_layer.", "kernels."),
    ("update_gate.", "feature_gate.linear."),
    ("norm_in.", "feature_gate.norm."),
    ("input_gate.", "kernel_gate.linear."),
    ("input_norm_in.", "kernel_gate.norm."),
    ("norm_out.", "feature_norm."),
    ("input_norm_out.", "kernel_norm."),
    ("fc_layer.", "output."),
    ("fc_norm.", "norm."),
]

STAGE: Pairs = [
    ("feat_transform.conv.", "features."),
    *((f"kernel_update_conv.{theirs}", f"update.{ours}") for theirs, ours in UPDATE),
    ("attention.attn.", "attention."),
    ("attention_norm.", "attention_norm."),
    ("ffn.layers.0.0.", "feedforward.linear1."),
    ("ffn.layers.1.", "feedforward.linear2."),
    ("ffn_norm.", "feedforward_norm."),
    ("cls_fcs.0.", "classes.hidden."),
    ("cls_fcs.1.", "classes.norm."),
    ("fc_cls.", "classes.output."),
    ("mask_fcs.0.", "mask_kernels.hidden."),
    ("mask_fcs.1.", "mask_kernels.norm."),
    ("fc_mask.", "mask_kernels.output."),
]


def _units(theirs: str, ours: str) -> Pairs:
    """Return the pairs of a convolution with GroupNorm."""
    return [(theirs + inner_theirs, ours + inner_ours) for inner_theirs, inner_ours in UNIT]


HEAD: Pairs = [
    ("neck.lateral_convs.#.conv.", "pyramid.lateral.#."),
    ("neck.fpn_convs.#.conv.", "pyramid.smooth.#."),
    *_units("rpn_head.localization_fpn.convs_all_levels.#.conv#.", "fusion.levels.#.units.#."),
    *_units("rpn_head.localization_fpn.conv_pred.", "fusion.location_head."),
    *_units("rpn_head.localization_fpn.aux_convs.0.", "fusion.semantic_head."),
    *_units("rpn_head.loc_convs.0.", "initial_kernels.location."),
    *_units("rpn_head.seg_convs.0.", "initial_kernels.semantic."),
    ("rpn_head.init_kernels.", "initial_kernels.things."),
    ("rpn_head.conv_seg.", "initial_kernels.classes."),
    *((f"roi_head.mask_head.#.{theirs}", f"updates.#.{ours}") for theirs, ours in STAGE),
]

_PAIRS = {is_swin: [*(SWIN if is_swin else []), *BACKBONE, *HEAD] for is_swin in (False, True)}
_TO_OURS = {is_swin: Renaming(pairs) for is_swin, pairs in _PAIRS.items()}
_TO_THEIRS = {is_swin: Renaming([(ours, theirs) for theirs, ours in pairs]) for is_swin, pairs in _PAIRS.items()}
_MERGED = re.compile(r"backbone\.stages\.\d+\.downsample\.(norm|reduction)\.")
"""Patch merging of Swin, whose inputs have another order in the official checkpoints."""


def official_name(own: str, is_swin: bool) -> str:
    """Return the official name of one of panformer's tensors."""
    return _TO_THEIRS[is_swin](own)


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an official state dict with panformer's names, and the order of channels of our patch merging.

    Unknown names are returned unchanged, except that `backbone.` becomes `backbone.body.`. Buffers are left out.

    Raises:
        CheckpointError: two tensors get the same name.
    """
    is_swin = is_swin_state(state)
    named: dict[str, Tensor] = {}
    for theirs, tensor in state.items():
        if theirs.endswith(BUFFERS):
            continue
        ours = _TO_OURS[is_swin](theirs)
        if ours in named:
            raise CheckpointError(f"the weights contain {official_name(ours, is_swin)} twice, once as {theirs}")
        named[ours] = in_our_order(tensor) if _MERGED.match(theirs) else tensor
    return named


def in_our_order(tensor: Tensor) -> Tensor:
    """Return a tensor whose last dimension are the inputs of patch merging, (..., 4 C), with our order of inputs.

    Cell (dy, dx) of the 2 x 2 cells and channel c are at c * 4 + 2 * dy + dx in the official checkpoints, and at
    (2 * dx + dy) * C + c in the original Swin and in timm. A tensor of any other form is returned unchanged.
    """
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.dim() == 0 or tensor.shape[-1] % 4:
        return tensor
    cells: Tensor = tensor.unflatten(-1, (tensor.shape[-1] // 4, 2, 2))  # c, dy, dx
    return cells.movedim((-1, -2), (-3, -2)).flatten(-3)  # dx, dy, c
