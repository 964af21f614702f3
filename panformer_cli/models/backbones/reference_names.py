"""Convert tensor names of PVTv2 and Swin backbones between the reference implementations and panformer.

The reference implementation of Panoptic SegFormer and MMDetection's models use these names with the prefix `backbone.`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Pairs = list[tuple[str, str]]
"""Prefixes of names, theirs and ours. `#` is a number that both have."""

BUFFERS = ("num_batches_tracked", "relative_position_index", "attn_mask")
"""Suffixes of the names of buffers that are not learned. Files may lack them."""


def _pvt_stage(stage: int) -> Pairs:
    """Theirs has a list of stages per type of layer, ours has one module per stage."""
    ours = f"backbone.body.stages_{stage - 1}"
    return [
        (f"backbone.patch_embed{stage}.", f"{ours}.downsample."),
        (f"backbone.block{stage}.#.mlp.dwconv.dwconv.", f"{ours}.blocks.#.mlp.dwconv."),
        (f"backbone.block{stage}.", f"{ours}.blocks."),
        (f"backbone.norm{stage}.", f"{ours}.norm."),
    ]


PVT: Pairs = [
    ("backbone.patch_embed1.", "backbone.body.patch_embed."),
    *(pair for stage in range(1, 5) for pair in _pvt_stage(stage)),
]

# Swin: patch merging ends a stage of theirs and begins the next one of ours.
SWIN: Pairs = [
    *((f"backbone.layers.{stage}.downsample.", f"backbone.body.layers_{stage + 1}.downsample.") for stage in range(3)),
    *((f"backbone.layers.{stage}.", f"backbone.body.layers_{stage}.") for stage in range(4)),
    *((f"backbone.norm{stage}.", f"backbone.norms.{stage - 1}.") for stage in range(1, 4)),
]

# ResNet and everything not listed above have the same names.
BACKBONE: Pairs = [("backbone.", "backbone.body.")]


def backbone_pairs(is_swin: bool) -> Pairs:
    """Return the prefixes of a backbone. `backbone.norm1` means different layers in Swin and PVTv2."""
    return [*(SWIN if is_swin else PVT), *BACKBONE]


class Renaming:
    """A function that replaces the prefix of a name. The first matching pair is used."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._rules = [(re.compile(_pattern(old)), new) for old, new in pairs]

    def __call__(self, name: str) -> str:
        for pattern, new in self._rules:
            found = pattern.match(name)
            if found:
                return new.replace("#", "{}").format(*found.groups()) + name[found.end() :]
        return name


def _pattern(beginning: str) -> str:
    return re.escape(beginning).replace(r"\#", r"(\d+)")


def is_swin_state(state: Mapping[str, Any]) -> bool:
    """Return whether a state dict has relative position biases, which only Swin has, in any naming scheme."""
    return any(name.endswith("relative_position_bias_table") for name in state)
