"""Pretrained weights for backbones: those of timm, or loaded from a file with any of three naming schemes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from panformer_cli.errors import CheckpointError
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.backbones.reference_names import BUFFERS, Renaming, backbone_pairs, is_swin_state
from panformer_cli.models.backbones.timm_import import timm
from panformer_cli.models.backbones.timm_weights import (
    ALTERNATIVES,
    cached_file,
    is_one_file,
    pretrained_name,
    weights_file,
)
from panformer_cli.storage.tensor_files import read_state
from panformer_cli.wording import counted, listing

HEADS = ("bbox_head.", "model.location_decoder.")
"""Prefixes of tensor names in checkpoints of complete models, official and panformer's, that no backbone has."""
WRAPPED = "model."
"""Prefix of the tensor names in some of timm's feature extractors."""
Value = TypeVar("Value")

_FROM_REFERENCE = {is_swin: Renaming(backbone_pairs(is_swin)) for is_swin in (False, True)}


def load_backbone_weights(backbone: Backbone, source: str) -> None:
    """Load pretrained weights into the backbone.

    Args:
        source: `imagenet` (those of timm, which `fetch_weights` has downloaded), `none` (nothing is loaded), or the
            path of a file that `read_state` reads. The file must have the same architecture and the tensor names of
            torchvision, of timm, or of the reference implementations of PVTv2 (`pvt_v2_b5_22k.pth`) and Swin
            (`swin_large_patch4_window7_224_22k.pth`).

    Raises:
        CheckpointError: the weights cannot be loaded or do not fit.
    """
    if source == "none":
        return
    state = _pretrained_state(backbone.name) if source == "imagenet" else read_state(Path(source))
    own = backbone.body.state_dict()
    state = in_our_names(state, own)
    problem = _misfit(own, state)
    if problem:
        raise CheckpointError(
            f"backbone weights {source}: the file {problem}; expected ImageNet weights of {backbone.name}"
        )
    backbone.body.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def in_our_names(state: Mapping[str, Value], own: Collection[str]) -> dict[str, Value]:
    """Return the tensors of an ImageNet model (or anything else by name), renamed to those `own` in `Backbone.body`."""
    if _has_reference_names(state):
        return {_from_reference(name, is_swin_state(state)): tensor for name, tensor in state.items()}
    parts = {name.partition(".")[0] for name in own}
    return {_by_feature_extractor(name, parts): tensor for name, tensor in state.items()}


def _has_reference_names(state: Mapping[str, Any]) -> bool:
    """Return whether PVTv2 or Swin has the names of its reference implementation, not those of timm.

    Both call Swin's stages `layers`. Patch merging ends a stage in the reference implementation and begins one in timm.
    """
    return any(name.startswith(("patch_embed1.", "layers.0.downsample.")) for name in state)


def _from_reference(name: str, is_swin: bool) -> str:
    """Return our name of a tensor in a reference implementation; buffers keep their names."""
    if name.endswith(BUFFERS):
        return name
    return _FROM_REFERENCE[is_swin](f"backbone.{name}").removeprefix("backbone.body.")


def _by_feature_extractor(name: str, parts: Collection[str]) -> str:
    """Return the name in timm's feature extractor, which has these `parts`, of the tensor `name` of the complete model.

    Feature extractors keep the names, change `stages.0.` to `stages_0.`, or add the prefix `model.`.
    """
    head, _, rest = name.partition(".")
    index, _, tail = rest.partition(".")
    if f"{head}_{index}" in parts:
        return f"{head}_{index}.{tail}"
    return f"{WRAPPED}{name}" if parts == {WRAPPED[:-1]} and head not in parts else name


def _misfit(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> str | None:
    """Return why the tensors `loaded` do not fit a model with the tensors `own`; None if they fit.

    A classification head is allowed too. A deeper architecture has all of our tensors and more in the same parts.
    """
    parts = {_part(name) for name in own}
    missing = [name for name in own if name not in loaded and not name.endswith(BUFFERS)]
    surplus = [name for name in loaded if name not in own and _part(name) in parts and not name.endswith(BUFFERS)]
    wrong = [name for name in own if name in loaded and own[name].shape != loaded[name].shape]
    if any(name.startswith(HEADS) for name in loaded):
        return "is a checkpoint of a complete model, which --init-from can use"
    if missing:
        return f"lacks {counted(len(missing), 'tensor')} ({listing(missing, 3)})"
    if wrong:
        return f"has {wrong[0]} with a different shape"
    if surplus:
        return f"is of a larger model: it has {counted(len(surplus), 'more tensor')} ({listing(surplus, 3)})"
    return None


def _part(name: str) -> str:
    return name.removeprefix(WRAPPED).partition(".")[0]


def _pretrained_state(backbone: str) -> dict[str, Tensor]:
    """Return the tensors of timm's pretrained weights, with the names of the complete model."""
    pretrained = pretrained_name(backbone)
    if not is_one_file(pretrained):
        return _downloaded_by_timm(pretrained)
    path = cached_file(pretrained)
    if path is None:
        raise CheckpointError(f"the weights {pretrained} are not at {weights_file(pretrained)}: {ALTERNATIVES}")
    again = "delete the file to download it again"
    try:
        stored = read_state(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}, or {again}") from error
    try:
        model = timm.create_model(pretrained, pretrained=True, pretrained_cfg_overlay={"state_dict": stored})
    except Exception as error:  # each of timm's models raises its own
        raise CheckpointError(f"weights {path}: the file does not have the weights {pretrained}; {again}") from error
    state: dict[str, Tensor] = model.state_dict()
    return state


def _downloaded_by_timm(pretrained: str) -> dict[str, Tensor]:
    """Return weights of other owners on the hub, whose files have various names; timm finds and caches them."""
    # The hub reports every retry. One message at the end is enough.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        model = timm.create_model(pretrained, pretrained=True)
    except Exception as error:  # timm, huggingface_hub and the network raise many types
        raise CheckpointError(
            f"pretrained weights {pretrained} could not be downloaded ({type(error).__name__}): connect to the "
            f"internet, or {ALTERNATIVES}"
        ) from error
    state: dict[str, Tensor] = model.state_dict()
    return state
