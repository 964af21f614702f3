"""Recognize official checkpoints by names and shapes (docs/model.md, "Backbones" and "Official checkpoints")."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from panformer_cli.errors import CheckpointError
from panformer_cli.models.backbones.reference_names import BUFFERS, is_swin_state
from panformer_cli.models.official import OfficialModel
from panformer_cli.models.panoptic_segformer.official.names import from_official, official_name

MARKS = (
    "bbox_head.stuff_query.",
    "bbox_head.cls_stuff_branches.",
    "bbox_head.stuff_mask_head.",
    "bbox_head.mask_head2.",
)
"""Prefixes of tensor names that only Panoptic SegFormer has."""


@dataclass(frozen=True)
class BackboneKind:
    """Backbones of one type, which differ in width and depth.

    Attributes:
        name: display name.
        stem: name of the first weight, whose first dimension is the width.
        block: pattern of the prefix of a block, with the numbers of stage and block as groups.
    """

    name: str
    stem: str
    block: re.Pattern[str]


RESNET = BackboneKind("ResNet", "backbone.conv1.weight", re.compile(r"backbone\.layer(\d+)\.(\d+)\."))
PVT = BackboneKind("PVTv2", "backbone.patch_embed1.proj.weight", re.compile(r"backbone\.block(\d+)\.(\d+)\."))
SWIN = BackboneKind("Swin", "backbone.patch_embed.proj.weight", re.compile(r"backbone\.layers\.(\d+)\.blocks\.(\d+)\."))

VARIANTS: dict[tuple[BackboneKind, int, int], str] = {
    (RESNET, 64, 6): "resnet50",
    (RESNET, 64, 23): "resnet101",
    (PVT, 32, 2): "pvt_v2_b0",
    (PVT, 64, 6): "pvt_v2_b2",
    (PVT, 64, 40): "pvt_v2_b5",
    (SWIN, 96, 6): "swin_tiny",
    (SWIN, 192, 18): "swin_large",
}
"""Backbones by width and number of blocks in the third stage. Other differences are found when weights are loaded."""

RECIPES: dict[str, str] = {
    "resnet50": "r50",
    "resnet101": "r101",
    "pvt_v2_b0": "pvtv2b0",
    "pvt_v2_b2": "pvtv2b2",
    "pvt_v2_b5": "pvtv2b5",
    "swin_large": "swinl",
}
"""Built-in recipes for the official checkpoints, by backbone. (r50_1x is r50 with half the epochs.)"""


class OfficialPanopticSegFormer:
    """The format of the official checkpoints: implements `models.official.OfficialFormat`."""

    name = "Panoptic SegFormer"
    example = "bbox_head.stuff_query.weight"
    optional = BUFFERS

    def recognizes(self, names: Mapping[str, Tensor]) -> bool:
        """Return whether there is a name that only Panoptic SegFormer has."""
        return any(name.startswith(MARKS) for name in names)

    def mistaken(self, names: Mapping[str, Tensor], path: Path) -> str | None:
        """Return None: no other model is mistaken for this one."""
        del names, path
        return None

    def describe(self, state: Mapping[str, Tensor], path: Path) -> OfficialModel:
        """Return backbone and numbers of classes; see `OfficialFormat.describe`."""
        backbone = _backbone(state, path)
        things = _first_side(state, "bbox_head.cls_branches.0.weight", path)
        stuff = _first_side(state, "bbox_head.stuff_query.weight", path)
        return OfficialModel(backbone, RECIPES.get(backbone), things + stuff, things)

    def own_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with panformer's names."""
        return from_official(state)

    def official_name(self, name: str, own: Mapping[str, Tensor]) -> str:
        """Return the official name of a tensor."""
        return official_name(name, is_swin_state(own))


def _backbone(state: Mapping[str, Tensor], path: Path) -> str:
    for kind in (RESNET, PVT, SWIN):
        depths = _depths(kind, state)
        if depths:
            width = _first_side(state, kind.stem, path)
            known = _variant(kind, width, depths)
            if known is None:
                raise CheckpointError(
                    f"checkpoint {path} is a Panoptic SegFormer with a {kind.name} of width {width} and "
                    f"{', '.join(map(str, depths))} blocks, which panformer does not support; expected one of "
                    f"{', '.join(VARIANTS.values())}"
                )
            return known
    raise CheckpointError(
        f"checkpoint {path} is a Panoptic SegFormer without a backbone; expected tensors of a ResNet "
        "(backbone.layer1.0. ...), a PVTv2 (backbone.block1.0. ...) or a Swin (backbone.layers.0.blocks.0. ...)"
    )


def _variant(kind: BackboneKind, width: int, depths: tuple[int, ...]) -> str | None:
    """Return the backbone with this width and third stage, allowing one block more or less."""
    near = [
        name
        for (of, wide, blocks), name in VARIANTS.items()
        if (of, wide) == (kind, width) and len(depths) > 2 and abs(blocks - depths[2]) <= 1
    ]
    return near[0] if near else None


def _depths(kind: BackboneKind, names: Iterable[str]) -> tuple[int, ...]:
    """Return the number of blocks in each stage; empty if there is no such backbone."""
    found = {match.groups() for match in map(kind.block.match, names) if match}
    stages = sorted({stage for stage, _ in found})
    return tuple(sum(stage == of for of, _ in found) for stage in stages)


def _first_side(state: Mapping[str, Tensor], name: str, path: Path) -> int:
    if name not in state or state[name].dim() < 2:
        raise CheckpointError(
            f"checkpoint {path} is a Panoptic SegFormer, but {name} is missing or has fewer than two dimensions; "
            "use a complete file, such as an official checkpoint"
        )
    return state[name].shape[0]
