"""The supported architectures of transformers, and how the original project of each one treats an image.

The numbers are those of the original repositories (docs/hugging_face_rules.md), not those of transformers' processors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Rounding = Literal["shortest edge", "shortest edge of DETR", "square"]
"""How the sides of a resized image are rounded; see `input_image.py`."""

ArchitectureName = Literal["maskformer", "mask2former", "oneformer", "eomt", "eomt_dinov3", "detr"]

DETECTRON2_SIDES = {"": (800, 1333), "ADE20K": (640, 2560), "Cityscapes": (1024, 2048)}
ONEFORMER_SIDES = {**DETECTRON2_SIDES, "ADE20K": (512, 2048)}


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        title: display name.
        network: class in transformers.
        processor: class in transformers with its own post-processing.
        outputs: names of the class logits and the mask logits in the network's output.
        stages: modules that `benchmark` times, by name; empty for the network as a whole.
        rounding: how the resized sides are computed.
        multiple: the input is padded on the right and at the bottom to a multiple of this.
        score_threshold: class score above which a query is kept.
        rule: how masks become segments and instances: `merging.py` and `instances.best_pairs`, or DETR's own.
        paints_outside: whether a segment also gets pixels at which its mask is below one half.
        instances: number of instances per image, by the common rule.
        sides: short and long side of the input by data set, in pixels; "" is for any other data set.
    """

    title: str
    network: str
    processor: str
    outputs: tuple[str, str] = ("class_queries_logits", "masks_queries_logits")
    stages: Mapping[str, str] = field(default_factory=dict)
    rounding: Rounding = "shortest edge"
    multiple: int = 1
    score_threshold: float = 0.8
    rule: Literal["common", "detr"] = "common"
    paints_outside: bool = False
    instances: int = 100
    sides: Mapping[str, tuple[int, int]] = field(default_factory=lambda: DETECTRON2_SIDES)


_PIXEL_DECODER_STAGES = {
    "backbone": "model.pixel_level_module.encoder",
    "pixel_decoder": "model.pixel_level_module.decoder",
    "transformer_decoder": "model.transformer_module",
}

ARCHITECTURES: dict[ArchitectureName, Architecture] = {
    "maskformer": Architecture(
        "MaskFormer",
        "MaskFormerForInstanceSegmentation",
        "MaskFormerImageProcessor",
        stages=_PIXEL_DECODER_STAGES,
        paints_outside=True,
    ),
    "mask2former": Architecture(
        "Mask2Former",
        "Mask2FormerForUniversalSegmentation",
        "Mask2FormerImageProcessor",
        stages=_PIXEL_DECODER_STAGES,
        multiple=32,
    ),
    "oneformer": Architecture(
        "OneFormer",
        "OneFormerForUniversalSegmentation",
        "OneFormerImageProcessor",
        stages=_PIXEL_DECODER_STAGES,
        multiple=32,
        instances=150,
        sides=ONEFORMER_SIDES,
    ),
    "eomt": Architecture("EoMT", "EomtForUniversalSegmentation", "EomtImageProcessor", rounding="square"),
    "eomt_dinov3": Architecture(
        "EoMT-DINOv3", "EomtDinov3ForUniversalSegmentation", "EomtImageProcessor", rounding="square"
    ),
    "detr": Architecture(
        "DETR",
        "DetrForSegmentation",
        "DetrImageProcessor",
        outputs=("logits", "pred_masks"),
        stages={"backbone": "detr.model.backbone", "encoder": "detr.model.encoder", "decoder": "detr.model.decoder"},
        rounding="shortest edge of DETR",
        score_threshold=0.85,
        rule="detr",
        sides={"": (800, 1333)},
    ),
}
"""By `model_type` in a config.json."""
