"""Convert tensor names between official checkpoints and panformer (docs/model.md, "Official checkpoints")."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from panformer_cli.errors import CheckpointError
from panformer_cli.models.backbones.reference_names import BUFFERS, Pairs, Renaming, backbone_pairs, is_swin_state

UNUSED = ("bbox_head.reg_branches2.", "bbox_head.cls_thing_branches.")
"""Prefixes of branches whose losses the reference implementation multiplies by zero."""

OLD_NAMES = (
    ("bbox_head.mask_head.", "bbox_head.things_mask_head."),
    ("bbox_head.mask_head2.", "bbox_head.stuff_mask_head."),
    ("bbox_head.cls_branches2.", "bbox_head.cls_thing_branches."),
)


NECK: Pairs = [
    ("neck.extra_convs.0.conv.", "neck.levels.3.conv."),
    ("neck.extra_convs.0.gn.", "neck.levels.3.norm."),
    ("neck.convs.#.conv.", "neck.levels.#.conv."),
    ("neck.convs.#.gn.", "neck.levels.#.norm."),
]

FEEDFORWARD: Pairs = [("ffns.0.layers.0.0.", "feedforward.linear1."), ("ffns.0.layers.1.", "feedforward.linear2.")]

ENCODER_LAYER: Pairs = [
    ("attentions.0.", "attention."),
    *FEEDFORWARD,
    ("norms.0.", "norm1."),
    ("norms.1.", "norm2."),
]

DECODER_LAYER: Pairs = [
    ("attentions.0.attn.", "self_attention."),
    ("attentions.1.", "cross_attention."),
    *FEEDFORWARD,
    ("norms.0.", "norm1."),
    ("norms.1.", "norm2."),
    ("norms.2.", "norm3."),
]

MASK_ATTENTION: Pairs = [
    ("linear_l1.0.", "mask_head.levels.0."),
    ("linear_l2.0.", "mask_head.levels.1."),
    ("linear_l3.0.", "mask_head.levels.2."),
    ("linear.0.", "mask_head.output."),
    ("", ""),
]


def _inside(theirs: str, ours: str, pairs: Pairs) -> Pairs:
    """Return `pairs` with the prefixes `theirs` and `ours`."""
    return [(theirs + inner_theirs, ours + inner_ours) for inner_theirs, inner_ours in pairs]


MASK_DECODER: Pairs = [
    *_inside("attnen.", "tail.", MASK_ATTENTION),
    *_inside("blocks.#.attn.", "blocks.#.attention.", MASK_ATTENTION),
    ("blocks.#.head_norm1.", "blocks.#.norm1."),
    ("blocks.#.head_norm2.", "blocks.#.norm2."),
    ("blocks.#.norm3.", "blocks.#.norm3."),
    ("blocks.#.self_attention.", "blocks.#.self_attention."),
    ("blocks.#.mlp.fc1.", "blocks.#.mlp.0."),
    ("blocks.#.mlp.fc2.", "blocks.#.mlp.2."),
]

HEAD: Pairs = [
    ("bbox_head.transformer.level_embeds", "encoder.level_embedding"),
    *_inside("bbox_head.transformer.encoder.layers.#.", "encoder.layers.#.", ENCODER_LAYER),
    *_inside("bbox_head.transformer.decoder.layers.#.", "location_decoder.layers.#.", DECODER_LAYER),
    ("bbox_head.transformer.reference_points.", "location_decoder.reference_points."),
    ("bbox_head.query_embedding.", "location_decoder.query_embedding."),
    ("bbox_head.cls_branches.", "location_decoder.class_branches."),
    ("bbox_head.reg_branches.", "location_decoder.box_branches."),
    ("bbox_head.stuff_query.", "stuff_queries.embedding."),
    ("bbox_head.cls_stuff_branches.", "stuff_queries.class_branches."),
    *_inside("bbox_head.things_mask_head.", "thing_mask_decoder.", MASK_DECODER),
    *_inside("bbox_head.stuff_mask_head.", "stuff_mask_decoder.", MASK_DECODER),
]


# `backbone.norm1` means different layers in Swin and PVTv2.
_PAIRS = {is_swin: [*backbone_pairs(is_swin), *NECK, *HEAD] for is_swin in (False, True)}
_TO_OURS = {is_swin: Renaming(pairs) for is_swin, pairs in _PAIRS.items()}
_TO_THEIRS = {
    is_swin: Renaming([(ours, theirs) for theirs, ours in pairs])
    for is_swin, pairs in _PAIRS.items()
}  # fmt: skip


def own_name(official: str, is_swin: bool) -> str | None:
    """Return panformer's name of a tensor in an official checkpoint; None if it is not used.

    Unknown names are returned unchanged, except that `backbone.` becomes `backbone.body.`.
    """
    name = official.removeprefix("module.")
    for old, new in OLD_NAMES:
        if name.startswith(old):
            name = new + name.removeprefix(old)
    if name.startswith(UNUSED) or name.endswith(BUFFERS):
        return None
    return _TO_OURS[is_swin](name)


def official_name(own: str, is_swin: bool) -> str:
    """Return the official name of a tensor; the inverse of `own_name`."""
    return _TO_THEIRS[is_swin](own)


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an official state dict with panformer's names, without unused tensors.

    Raises:
        CheckpointError: a tensor is present under both its older and its newer name.
    """
    is_swin = is_swin_state(state)
    named: dict[str, Tensor] = {}
    for theirs, tensor in state.items():
        ours = own_name(theirs, is_swin)
        if ours is None:
            continue
        if ours in named:
            raise CheckpointError(f"the weights contain {official_name(ours, is_swin)} twice, once as {theirs}")
        named[ours] = tensor
    return named
