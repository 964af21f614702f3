"""Recognize official checkpoints by names and shapes (docs/knet.md, "Official checkpoints")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from panformer_cli.errors import CheckpointError
from panformer_cli.models.backbones.reference_names import BUFFERS, is_swin_state
from panformer_cli.models.knet.official.names import from_official, official_name
from panformer_cli.models.official import OfficialModel

MARK = re.compile(
    r"rpn_head\.(init_kernels|localization_fpn)\.|roi_head\.mask_head\.\d+\.(kernel_update_conv|fc_mask|mask_fcs)\."
)
"""Names of tensors that only K-Net's detectors have: for panoptic and for instance segmentation."""
SEMANTIC = re.compile(r"decode_head\..*kernel")
"""Names of tensors of K-Net for semantic segmentation."""
DEFORMABLE = re.compile(r"backbone\..*\.conv_offset\.")
BLOCK = re.compile(r"backbone\.(layer|stages\.)(\d+)\.(?:blocks\.)?(\d+)\.")
STEMS = {"layer": "backbone.conv1.weight", "stages.": "backbone.patch_embed.projection.weight"}
"""Names of the first weights of ResNets and Swins, whose first dimension is the width."""

INSTANCE_CLASSES = 80
"""Classes of the instance segmentation models: COCO's things."""
PANOPTIC_CLASSES = 133
"""Classes of the published models; assumed if a file lacks all tensors of classes, which loading then lists."""

VARIANTS: dict[tuple[str, int, tuple[int, ...]], str] = {
    ("layer", 64, (3, 4, 6, 3)): "resnet50",
    ("layer", 64, (3, 4, 23, 3)): "resnet101",
    ("stages.", 192, (2, 2, 18, 2)): "swin_large",
}
"""Backbones by kind, width and numbers of blocks."""
RECIPES = {"resnet50": "knet_r50", "resnet101": "knet_r101", "swin_large": "knet_swinl"}
"""Built-in recipes for the official checkpoints, by backbone. (knet_r50_1x is the same model as knet_r50.)"""


class OfficialKNet:
    """The format of the official checkpoints: implements `models.official.OfficialFormat`."""

    name = "K-Net"
    example = "rpn_head.init_kernels.weight"
    optional = BUFFERS

    def recognizes(self, names: Mapping[str, Tensor]) -> bool:
        """Return whether there is a name that only K-Net's detectors have."""
        return any(map(MARK.match, names))

    def mistaken(self, names: Mapping[str, Tensor], path: Path) -> str | None:
        """Return the sentence about K-Net for semantic segmentation."""
        del path
        if not any(map(SEMANTIC.match, names)):
            return None
        return (
            "is a K-Net for semantic segmentation, which finds no objects; use a panoptic one, named "
            "knet_s3_*_coco-panoptic_*.pth"
        )

    def describe(self, state: Mapping[str, Tensor], path: Path) -> OfficialModel:
        """Return backbone and number of classes; see `OfficialFormat.describe`."""
        if offset := next(filter(DEFORMABLE.match, state), None):
            raise CheckpointError(
                f"checkpoint {path} is a K-Net with deformable convolutions in its backbone ({offset}), which "
                "panformer does not support; use one without, such as knet_r101"
            )
        classes = next(_class_counts(state), PANOPTIC_CLASSES)
        if classes == INSTANCE_CLASSES:
            raise CheckpointError(
                f"checkpoint {path} is a K-Net for instance segmentation: it has {classes} classes, COCO's things, and "
                "no stuff; use a panoptic one, named knet_s3_*_coco-panoptic_*.pth"
            )
        backbone = _backbone(state, path)
        return OfficialModel(backbone, RECIPES[backbone], classes)

    def own_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with panformer's names."""
        return from_official(state)

    def official_name(self, name: str, own: Mapping[str, Tensor]) -> str:
        """Return the official name of a tensor."""
        return official_name(name, is_swin_state(own))


def _class_counts(state: Mapping[str, Tensor]) -> Iterator[int]:
    """Yield the rows of every tensor with one row per class; complete files have the same number in all of them."""
    for name, tensor in state.items():
        if re.match(r"roi_head\.mask_head\.\d+\.fc_cls\.|rpn_head\.conv_seg\.", name) and tensor.dim():
            yield tensor.shape[0]


def _backbone(state: Mapping[str, Tensor], path: Path) -> str:
    blocks = {match.groups() for match in map(BLOCK.match, state) if match}
    for kind, stem in STEMS.items():
        stages = sorted({stage for of, stage, _ in blocks if of == kind})
        depths = tuple(len({block for of, at, block in blocks if (of, at) == (kind, stage)}) for stage in stages)
        if depths:
            width = state[stem].shape[0] if stem in state and state[stem].dim() else None
            return _variant(kind, width, depths, path)
    raise CheckpointError(
        f"checkpoint {path} is a K-Net without a backbone; expected tensors of a ResNet (backbone.layer1.0. ...) or a "
        "Swin (backbone.stages.0.blocks.0. ...)"
    )


def _variant(kind: str, width: int | None, depths: tuple[int, ...], path: Path) -> str:
    """Return the backbone that is nearest, if a file with a few missing or surplus tensors could be of it.

    Which tensors are missing or unexpected is reported when the weights are loaded.
    """
    near = {
        name: sum(abs(own - other) for own, other in zip(depths, known, strict=False))
        for (of, wide, known), name in VARIANTS.items()
        if of == kind and width in (None, wide) and len(depths) in range(len(known) - 1, len(known) + 2)
    }
    best = min(near, key=near.__getitem__, default=None)
    if best is None or near[best] > 2:
        raise CheckpointError(
            f"checkpoint {path} is a K-Net with a {'ResNet' if kind == 'layer' else 'Swin'} of width {width} and "
            f"{', '.join(map(str, depths))} blocks, which panformer does not support; expected one of "
            f"{', '.join(VARIANTS.values())}"
        )
    return best
