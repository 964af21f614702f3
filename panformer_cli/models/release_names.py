"""The authors' checkpoints in our names (spec, section 10)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

UNUSED = re.compile(r"bbox_head\.(reg_branches2|cls_thing_branches)\.|.*(num_batches_tracked|relative_position_index)$")
"""Branches whose losses the release multiplies by zero, and buffers that hold no knowledge."""

OLD_NAMES = ((r"\.mask_head\.", ".things_mask_head."), (r"\.mask_head2\.", ".stuff_mask_head."))

BACKBONE = (
    # ResNet: the same names below `backbone.`. PVTv2: one list a kind and stage -> one module a stage.
    (r"^backbone\.patch_embed1\.", "backbone.patch_embed."),
    (r"^backbone\.patch_embed(\d)\.", lambda m: f"backbone.stages_{int(m[1]) - 1}.downsample."),
    (r"^backbone\.block(\d)\.", lambda m: f"backbone.stages_{int(m[1]) - 1}.blocks."),
    (r"\.dwconv\.dwconv\.", ".dwconv."),
    # Swin: patch merging sits at the start of timm's next stage.
    (r"^backbone\.layers\.(\d)\.downsample\.", lambda m: f"backbone.layers_{int(m[1]) + 1}.downsample."),
    (r"^backbone\.layers\.(\d)\.", r"backbone.layers_\1."),
)
PVT_NORM = (r"^backbone\.norm(\d)\.", lambda m: f"backbone.stages_{int(m[1]) - 1}.norm.")
SWIN_NORM = (r"^backbone\.norm(\d)\.", lambda m: f"backbone_norms.{int(m[1]) - 1}.")

HEAD = (
    (r"^backbone\.", "backbone.body."),
    (r"^backbone_norms\.", "backbone.norms."),
    (r"^neck\.convs\.(\d)\.", r"neck.levels.\1."),
    (r"^neck\.extra_convs\.0\.", "neck.levels.3."),
    (r"^(neck\..*)\.gn\.", r"\1.norm."),
    (r"^bbox_head\.transformer\.level_embeds$", "encoder.level_embedding"),
    (r"^bbox_head\.transformer\.encoder\.(layers\.\d)\.attentions\.0\.", r"encoder.\1.attention."),
    (r"^bbox_head\.transformer\.encoder\.(layers\.\d)\.", r"encoder.\1."),
    (r"^bbox_head\.transformer\.decoder\.(layers\.\d)\.attentions\.0\.attn\.", r"location_decoder.\1.self_attention."),
    (r"^bbox_head\.transformer\.decoder\.(layers\.\d)\.attentions\.1\.", r"location_decoder.\1.cross_attention."),
    (r"^bbox_head\.transformer\.decoder\.(layers\.\d)\.", r"location_decoder.\1."),
    (r"\.ffns\.0\.layers\.0\.0\.", ".feedforward.linear1."),
    (r"\.ffns\.0\.layers\.1\.", ".feedforward.linear2."),
    (r"(er\.layers\.\d)\.norms\.(\d)\.", lambda m: f"{m[1]}.norm{int(m[2]) + 1}."),
    (r"^bbox_head\.transformer\.reference_points\.", "location_decoder.reference_points."),
    (r"^bbox_head\.query_embedding\.", "location_decoder.query_embedding."),
    (r"^bbox_head\.cls_branches\.", "location_decoder.class_branches."),
    (r"^bbox_head\.reg_branches\.", "location_decoder.box_branches."),
    (r"^bbox_head\.stuff_query\.", "stuff_queries.embedding."),
    (r"^bbox_head\.cls_stuff_branches\.", "stuff_queries.class_branches."),
    (r"^bbox_head\.things_mask_head\.", "thing_mask_decoder."),
    (r"^bbox_head\.stuff_mask_head\.", "stuff_mask_decoder."),
    (r"^(\w+_mask_decoder)\.attnen\.", r"\1.tail."),
    (r"^(\w+_mask_decoder\.blocks\.\d)\.attn\.", r"\1.attention."),
    (r"^(\w+_mask_decoder\..*)\.linear_l(\d)\.0\.", lambda m: f"{m[1]}.mask_head.levels.{int(m[2]) - 1}."),
    (r"^(\w+_mask_decoder\..*)\.linear\.0\.", r"\1.mask_head.output."),
    (r"^(\w+_mask_decoder\..*)\.head_norm(\d)\.", r"\1.norm\2."),
    (r"^(\w+_mask_decoder\..*)\.mlp\.fc1\.", r"\1.mlp.0."),
    (r"^(\w+_mask_decoder\..*)\.mlp\.fc2\.", r"\1.mlp.2."),
)


def own_name(release_name: str, is_swin: bool) -> str | None:
    """Our name of a tensor of the release's state dict; None where we have no use for it.

    is_swin: Swin and PVTv2 call different things `backbone.norm1`.
    """
    name = release_name.removeprefix("module.")
    for pattern, replacement in OLD_NAMES:
        name = re.sub(pattern, replacement, name)
    name = name.replace(".cls_branches2.", ".cls_thing_branches.")
    if UNUSED.match(name):
        return None
    norm = SWIN_NORM if is_swin else PVT_NORM
    for pattern, replace in (norm, *BACKBONE, *HEAD):
        name = re.sub(pattern, replace, name)
    return name


def from_release(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A release state dict under our names, unused tensors dropped."""
    is_swin = any("relative_position_bias_table" in name for name in state)
    named = {own_name(name, is_swin): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in named.items() if name is not None}
