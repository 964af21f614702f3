"""Checkpoints of reference implementations: recognize their models and rename their tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from panformer_cli.wording import listing


@dataclass(frozen=True)
class OfficialModel:
    """A model as described by the names and shapes of its tensors. They do not contain category names.

    Attributes:
        backbone: value of `model.backbone`.
        recipe: name of the built-in recipe for this model; None if there is none.
        num_classes: number of classes.
        num_things: number of thing classes; None if the tensors do not show it.
    """

    backbone: str
    recipe: str | None
    num_classes: int
    num_things: int | None = None


class OfficialFormat(Protocol):
    """The checkpoint format of one family's reference implementation.

    Attributes:
        name: display name of the model.
        example: name of a tensor in its checkpoints, shown in messages.
        optional: suffixes of the names of tensors that a file may lack.
    """

    @property
    def name(self) -> str: ...

    @property
    def example(self) -> str: ...

    @property
    def optional(self) -> tuple[str, ...]: ...

    def recognizes(self, names: Mapping[str, Tensor]) -> bool:
        """Return whether a state dict belongs to this family."""

    def mistaken(self, names: Mapping[str, Tensor], path: Path) -> str | None:
        """Return why a state dict that users often mistake for this family's cannot be used; None for others.

        Called only if no family recognizes the state dict. The result completes "checkpoint PATH ...".

        Args:
            names: of the tensors.
            path: of the file.
        """

    def describe(self, state: Mapping[str, Tensor], path: Path) -> OfficialModel:
        """Return the model of a recognized state dict.

        Args:
            path: path of the file, for errors.

        Raises:
            CheckpointError: the tensors belong to a variant that panformer does not support.
        """

    def own_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors with panformer's names, without unused tensors.

        Raises:
            CheckpointError: two tensors get the same name.
        """

    def official_name(self, name: str, own: Mapping[str, Tensor]) -> str:
        """Return the reference implementation's name of a tensor.

        Args:
            name: panformer's name of the tensor.
            own: state dict of panformer's model, which identifies the backbone.
        """


OTHER_MODELS = (
    (("panoptic_head.", "sem_seg_head.", "panoptic_fusion_head.", "model.pixel_level_module."),
     "is a checkpoint of another model, such as Mask2Former or Panoptic FPN"),
    (("class_embed.", "query_embed.", "transformer.encoder.", "transformer.decoder.", "detr."),
     "is a checkpoint of another model, such as DETR"),
    (("bbox_head.", "rpn_head.", "roi_head.", "mask_head.", "decode_head."),
     "is a checkpoint of another model in the format of MMDetection"),
    (("layer1.0.", "block1.0.", "layers.0.blocks.0.", "stages.0."),
     "contains only backbone weights, such as ImageNet weights; to train from them, use "
     "--set model.backbone_weights=FILE"),
)  # fmt: skip
"""Prefixes of tensor names in other files, and the message for each."""


PREFIXED_BACKBONE = (
    "contains only backbone weights; remove `backbone.` from their names and train from them with "
    "--set model.backbone_weights=FILE"
)


def unknown_checkpoint(state: Mapping[str, Tensor], path: Path, formats: Sequence[OfficialFormat]) -> str:
    """Return why no family recognizes a state dict, based on its tensor names. Completes "checkpoint PATH ...".

    Args:
        state: the tensors.
        path: of the file.
        formats: those of all families.
    """
    for official in formats:
        if mistaken := official.mistaken(state, path):
            return mistaken
    names, models = listing(state, 3), " or ".join(official.name for official in formats)
    for beginnings, what in OTHER_MODELS:
        if any(name.startswith(beginnings) for name in state):
            return f"{what}: its tensors are {names}; expected a checkpoint of {models}"
    if all(name.startswith("backbone.") for name in state):
        return f"{PREFIXED_BACKBONE}: its tensors are {names}; expected a checkpoint of {models}"
    examples = " or ".join(official.example for official in formats)
    return (
        f"is not a checkpoint of {models}: its tensors are {names}; expected a file written by `panformer train`, "
        f"or an official checkpoint with tensors such as {examples}"
    )
