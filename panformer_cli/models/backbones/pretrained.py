"""ImageNet weights for backbones: downloaded by timm, or from a file with any of three naming schemes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import timm
from torch import Tensor

from panformer_cli.errors import CheckpointError
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.backbones.known import BACKBONES, TIMM
from panformer_cli.models.backbones.reference_names import BUFFERS, Renaming, backbone_pairs, is_swin_state
from panformer_cli.storage.tensor_files import read_state
from panformer_cli.wording import listing

HEADS = ("bbox_head.", "model.location_decoder.")
"""Names in checkpoints of whole models, official ones and ours, that no backbone has."""
WRAPPED = "model."
"""What the names of some of timm's feature extractors begin with."""
_OF_AUTHORS = {is_swin: Renaming(backbone_pairs(is_swin)) for is_swin in (False, True)}


def load_backbone_weights(backbone: Backbone, source: str) -> None:
    """Fill the backbone with ImageNet weights.

    source: `imagenet` (through timm, which downloads and caches), `none` (nothing is loaded), or a file that
        `read_state` reads, of the same architecture, with the names of torchvision or timm or of the authors of PVTv2
        (`pvt_v2_b5_22k.pth`) and Swin (`swin_large_patch4_window7_224_22k.pth`).

    Raises:
        CheckpointError: the weights cannot be had or do not fit.
    """
    if source == "none":
        return
    state = _imagenet_state(backbone.name) if source == "imagenet" else read_state(Path(source))
    own = backbone.body.state_dict()
    state = in_our_names(state, own)
    problem = _misfit(own, state)
    if problem:
        raise CheckpointError(
            f"backbone weights {source}: the file {problem}; expected ImageNet weights of {backbone.name}"
        )
    backbone.body.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def in_our_names(state: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Return the tensors of an ImageNet model by the names `own` of `Backbone.body`."""
    if _is_of_authors(state):
        return {_of_authors(name, is_swin_state(state)): tensor for name, tensor in state.items()}
    parts = {name.partition(".")[0] for name in own}
    return {_by_feature_extractor(name, parts): tensor for name, tensor in state.items()}


def _is_of_authors(state: Mapping[str, Tensor]) -> bool:
    """Whether PVTv2 or Swin is named as by its authors, not as by timm.

    Both call Swin's stages `layers`; patch merging ends a stage of the authors' and begins the next one of timm's.
    """
    return any(name.startswith(("patch_embed1.", "layers.0.downsample.")) for name in state)


def _of_authors(name: str, is_swin: bool) -> str:
    """Return our name of a tensor in a reference implementation; buffers keep theirs."""
    if name.endswith(BUFFERS):
        return name
    return _OF_AUTHORS[is_swin](f"backbone.{name}").removeprefix("backbone.body.")


def _by_feature_extractor(name: str, parts: Collection[str]) -> str:
    """Return timm's name of a tensor in a feature extractor with these parts; `name` is that of the whole model.

    Extractors keep the names, turn `stages.0.` into `stages_0.`, or put `model.` in front.
    """
    head, _, rest = name.partition(".")
    index, _, tail = rest.partition(".")
    if f"{head}_{index}" in parts:
        return f"{head}_{index}.{tail}"
    return f"{WRAPPED}{name}" if parts == {WRAPPED[:-1]} and head not in parts else name


def _misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """Return why `given` are not the tensors of a model that has `own`; None if they are.

    A classifier's head may be there too. A deeper architecture has every tensor of ours and more in the same parts.
    """
    parts = {_part(name) for name in own}
    missing = [name for name in own if name not in given and not name.endswith(BUFFERS)]
    surplus = [name for name in given if name not in own and _part(name) in parts and not name.endswith(BUFFERS)]
    wrong = [name for name in own if name in given and own[name].shape != given[name].shape]
    if any(name.startswith(HEADS) for name in given):
        return "is a checkpoint of a whole model, which --init-from takes"
    if missing:
        return f"lacks {len(missing)} tensors ({listing(missing, 3)})"
    if wrong:
        return f"has {wrong[0]} of another shape"
    if surplus:
        return f"is of a larger model: {len(surplus)} tensors have no place ({listing(surplus, 3)})"
    return None


def _part(name: str) -> str:
    return name.removeprefix(WRAPPED).partition(".")[0]


def _imagenet_state(name: str) -> dict[str, Tensor]:
    pretrained = BACKBONES[name].pretrained if name in BACKBONES else name.removeprefix(TIMM)
    if not timm.is_model_pretrained(pretrained):
        raise CheckpointError(
            f"timm has no pretrained weights for {pretrained}: use a local file with "
            "--set model.backbone_weights=FILE, or start from random weights with --set model.backbone_weights=none"
        )
    # The hub reports every retry; one sentence at the end is enough.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        model = timm.create_model(pretrained, pretrained=True)
    except Exception as error:  # timm, huggingface_hub and the network each raise their own
        raise CheckpointError(
            f"ImageNet weights {pretrained} could not be downloaded ({type(error).__name__}): connect to the "
            "internet, or use a local file with --set model.backbone_weights=FILE, or start from random weights with "
            "--set model.backbone_weights=none"
        ) from error
    state: dict[str, Tensor] = model.state_dict()
    return state
