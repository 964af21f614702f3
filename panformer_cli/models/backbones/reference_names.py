"""Names of backbone tensors in the reference implementations of PVTv2 and Swin, in ours, and back.

The reference implementations of Panoptic SegFormer and of MMDetection's models keep these names below `backbone.`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

Pairs = list[tuple[str, str]]
"""Prefixes of names, theirs and ours; `#` is a number that both have."""

BUFFERS = ("num_batches_tracked", "relative_position_index", "attn_mask")
"""Ends of names that hold no knowledge; files have them or not."""


def _pvt_stage(stage: int) -> Pairs:
    """Theirs has one list of stages for each kind of layer, ours one module a stage."""
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

# ResNet has the same names, and so has all that is not said above.
BACKBONE: Pairs = [("backbone.", "backbone.body.")]


def backbone_pairs(is_swin: bool) -> Pairs:
    """Return the prefixes of a backbone: Swin and PVTv2 call different things `backbone.norm1`."""
    return [*(SWIN if is_swin else PVT), *BACKBONE]


class Renaming:
    """Replaces the beginning of a name; the first pair that fits counts."""

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


def is_swin_state(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict, by anybody's names, has the position biases that only Swin has."""
    return any(name.endswith("relative_position_bias_table") for name in state)
