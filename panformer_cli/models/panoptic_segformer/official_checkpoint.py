"""Recognising a checkpoint of the authors' release by the names and shapes in it (spec, sections 3 and 10)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from panformer_cli.errors import CheckpointError
from panformer_cli.recipe import BackboneName
from panformer_cli.wording import listing

MARKS = (
    "bbox_head.stuff_query.",
    "bbox_head.cls_stuff_branches.",
    "bbox_head.stuff_mask_head.",
    "bbox_head.mask_head2.",
)
"""Names that Panoptic SegFormer has and no other model."""


@dataclass(frozen=True)
class Family:
    """Backbones of one kind, which differ in width and depth.

    stem: name of their first weight; its first side is the width. block: what the name of a block begins with; its
    groups are the numbers of stage and block.
    """

    name: str
    stem: str
    block: re.Pattern[str]


RESNET = Family("ResNet", "backbone.conv1.weight", re.compile(r"backbone\.layer(\d+)\.(\d+)\."))
PVT = Family("PVTv2", "backbone.patch_embed1.proj.weight", re.compile(r"backbone\.block(\d+)\.(\d+)\."))
SWIN = Family("Swin", "backbone.patch_embed.proj.weight", re.compile(r"backbone\.layers\.(\d+)\.blocks\.(\d+)\."))

VARIANTS: dict[tuple[Family, int, int], BackboneName] = {
    (RESNET, 64, 6): "resnet50",
    (RESNET, 64, 23): "resnet101",
    (PVT, 32, 2): "pvt_v2_b0",
    (PVT, 64, 6): "pvt_v2_b2",
    (PVT, 64, 40): "pvt_v2_b5",
    (SWIN, 96, 6): "swin_tiny",
    (SWIN, 192, 18): "swin_large",
}
"""Width, and blocks of the third stage, which tell them apart; what else is amiss shows when the weights are loaded."""

RECIPES: dict[str, str] = {
    "resnet50": "r50",
    "resnet101": "r101",
    "pvt_v2_b0": "pvtv2b0",
    "pvt_v2_b2": "pvtv2b2",
    "pvt_v2_b5": "pvtv2b5",
    "swin_large": "swinl",
}
"""The built-in recipe that describes a published model with this backbone. (r50_1x is r50 after half the epochs.)"""

KNET = (
    "is a checkpoint of K-Net, which is another model (some copies of the results table link to its files, named "
    "knet_s3_*); give one of Panoptic SegFormer's, named panoptic_segformer_*.pth"
)
KNET_NAME = re.compile(r"(rpn_head|roi_head|decode_head)\..*kernel|roi_head\.mask_head\.\d+\.(fc_mask|mask_fcs)\.")

OTHER_MODELS = (
    (("panoptic_head.", "sem_seg_head.", "panoptic_fusion_head.", "model.pixel_level_module."),
     "is a checkpoint of another model, of the kind of Mask2Former or Panoptic FPN"),
    (("class_embed.", "query_embed.", "transformer.encoder.", "transformer.decoder.", "detr."),
     "is a checkpoint of another model, of the kind of DETR"),
    (("bbox_head.", "rpn_head.", "roi_head.", "mask_head.", "decode_head."),
     "is a checkpoint of another model of MMDetection or its relatives"),
    (("layer1.0.", "block1.0.", "layers.0.blocks.0.", "stages.0."),
     "holds the weights of a backbone alone, such as ImageNet weights; train from them with "
     "--set model.backbone_weights=FILE"),
)  # fmt: skip
"""Beginnings of names of what else may be given, and what to say of it."""


PREFIXED_BACKBONE = (
    "holds the weights of a backbone alone; take `backbone.` off its names and train from them with "
    "--set model.backbone_weights=FILE"
)


@dataclass(frozen=True)
class ReleasedModel:
    """What a state dict of the release tells of its model; the names of its categories are not in it."""

    backbone: BackboneName
    num_things: int
    num_stuff: int


def recognise(state: Mapping[str, Tensor], path: Path) -> ReleasedModel:
    """The model that a state dict of the release belongs to.

    path: of the file, for errors.

    Raises:
        CheckpointError: the tensors are of another model; the sentence says of which, as far as that can be told.
    """
    if not any(name.startswith(MARKS) for name in state):
        raise CheckpointError(f"checkpoint {path} {_what_else(state, path)}")
    return ReleasedModel(
        _backbone(state, path),
        _first_side(state, "bbox_head.cls_branches.0.weight", path),
        _first_side(state, "bbox_head.stuff_query.weight", path),
    )


def _backbone(state: Mapping[str, Tensor], path: Path) -> BackboneName:
    for family in (RESNET, PVT, SWIN):
        depths = _depths(family, state)
        if depths:
            width = _first_side(state, family.stem, path)
            known = _variant(family, width, depths)
            if known is None:
                raise CheckpointError(
                    f"checkpoint {path} is a Panoptic SegFormer with a {family.name} of width {width} and "
                    f"{', '.join(map(str, depths))} blocks, which panformer does not have; known backbones are "
                    f"{', '.join(VARIANTS.values())}"
                )
            return known
    raise CheckpointError(
        f"checkpoint {path} is a Panoptic SegFormer without the blocks of a backbone; expected the names of a ResNet "
        "(backbone.layer1.0. ...), a PVTv2 (backbone.block1.0. ...) or a Swin (backbone.layers.0.blocks.0. ...)"
    )


def _variant(family: Family, width: int, depths: tuple[int, ...]) -> BackboneName | None:
    """The backbone of this kind and width with such a third stage, give or take one block."""
    near = [
        name
        for (of, wide, blocks), name in VARIANTS.items()
        if (of, wide) == (family, width) and len(depths) > 2 and abs(blocks - depths[2]) <= 1
    ]
    return near[0] if near else None


def _depths(family: Family, names: Iterable[str]) -> tuple[int, ...]:
    """How many blocks each stage has; empty where no name is of this family."""
    found = {match.groups() for match in map(family.block.match, names) if match}
    stages = sorted({stage for stage, _ in found})
    return tuple(sum(stage == of for of, _ in found) for stage in stages)


def _first_side(state: Mapping[str, Tensor], name: str, path: Path) -> int:
    if name not in state or state[name].dim() < 2:
        raise CheckpointError(
            f"checkpoint {path} is a Panoptic SegFormer that lacks {name}, or has it in fewer than two "
            "dimensions; use a whole file, such as the authors' own"
        )
    return state[name].shape[0]


def _what_else(state: Mapping[str, Tensor], path: Path) -> str:
    if any(KNET_NAME.match(name) for name in state) or path.name.startswith("knet_"):
        return KNET
    names = listing(state, 3)
    for beginnings, what in OTHER_MODELS:
        if any(name.startswith(beginnings) for name in state):
            return f"{what}: its names are {names}; expected a checkpoint of Panoptic SegFormer"
    if all(name.startswith("backbone.") for name in state):
        return f"{PREFIXED_BACKBONE}: its names are {names}; expected a checkpoint of Panoptic SegFormer"
    return (
        f"holds tensors but is no checkpoint of Panoptic SegFormer: its names are {names}; expected a file that "
        "`panformer train` wrote, or one of the authors' with names such as bbox_head.stuff_query.weight"
    )
