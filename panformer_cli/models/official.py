"""Checkpoints of reference implementations: which model a state dict belongs to, and its tensors by our names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from panformer_cli.wording import listing


@dataclass(frozen=True)
class OfficialModel:
    """What names and shapes say about a model; the names of its categories are not in them.

    Attributes:
        backbone: a value of `model.backbone`.
        recipe: the built-in recipe that describes it; None where there is none.
    """

    backbone: str
    recipe: str | None
    num_things: int
    num_stuff: int


class OfficialFormat(Protocol):
    """How the reference implementation of one family writes its checkpoints.

    Attributes:
        name: of the model, for people.
        example: name of a tensor that its checkpoints have, for people.
        optional: ends of the names of tensors that a file may lack or have.
    """

    @property
    def name(self) -> str: ...

    @property
    def example(self) -> str: ...

    @property
    def optional(self) -> tuple[str, ...]: ...

    def recognizes(self, names: Mapping[str, Tensor]) -> bool:
        """Return whether a state dict is one of this family's."""

    def mistaken(self, names: Mapping[str, Tensor], path: Path) -> str | None:
        """Return the rest of a sentence about a state dict of another model that users take for this family's.

        None if it is not known. It is asked only if no family recognizes the state dict.

        Args:
            names: of the tensors.
            path: of the file.
        """

    def describe(self, state: Mapping[str, Tensor], path: Path) -> OfficialModel:
        """Return the model that a recognized state dict belongs to.

        Args:
            path: of the file, for errors.

        Raises:
            CheckpointError: the tensors are of a variant that panformer does not have.
        """

    def own_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors under our names; those that no model needs are dropped.

        Raises:
            CheckpointError: two tensors have the same meaning.
        """

    def official_name(self, name: str, own: Mapping[str, Tensor]) -> str:
        """Return what the reference implementation calls a tensor of ours.

        Args:
            own: the state dict of our model, which tells the backbone.
        """


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


def unknown_checkpoint(state: Mapping[str, Tensor], path: Path, formats: Sequence[OfficialFormat]) -> str:
    """Return what a state dict that no family recognizes is, as far as its names show: the rest of a sentence.

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
            return f"{what}: its names are {names}; expected a checkpoint of {models}"
    if all(name.startswith("backbone.") for name in state):
        return f"{PREFIXED_BACKBONE}: its names are {names}; expected a checkpoint of {models}"
    examples = " or ".join(official.example for official in formats)
    return (
        f"holds tensors but is no checkpoint of {models}: its names are {names}; expected a file that "
        f"`panformer train` wrote, or one of the authors' with names such as {examples}"
    )
