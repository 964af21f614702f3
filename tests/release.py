"""The authors' model with made-up weights, in our names: what the recorded numbers were computed with.

The recordings, the list of names and the rule for the weights lie outside of the project (fixture `shared`).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.models.build import build_model
from panformer_cli.models.panoptic_segformer import PanopticSegFormer
from panformer_cli.models.release_names import from_release
from panformer_cli.recipe import BackboneName, ModelRecipe

THINGS, STUFF = 80, 53
COCO_SIZED = CategoryTable(
    [Category(1 + label, f"thing {label}", True) for label in range(THINGS)]
    + [Category(101 + label, f"stuff {label}", False) for label in range(STUFF)]
)
"""As many categories as COCO has; the ids are made up."""


@dataclass(frozen=True)
class Variant:
    """A published model. parameters, trainable: counts of the spec, section 1, the unused branches included."""

    backbone: BackboneName
    frozen_stages: int
    parameters: int
    trainable: int | None


VARIANTS = {
    "r50": Variant("resnet50", 2, 51_271_900, 50_996_380),
    "r101": Variant("resnet101", 2, 70_264_028, 69_936_284),
    "pvtv2b5": Variant("pvt_v2_b5", 0, 104_996_188, None),
    "swinl": Variant("swin_large", 0, 221_352_624, None),
}


def release_keys(shared: Path, variant: str) -> list[tuple[str, list[int], str]]:
    """Name, shape and type of every tensor of a published checkpoint."""
    rows: list[tuple[str, list[int], str]] = json.loads((shared / "spec" / f"keys_{variant}.json").read_text())
    return rows


def unfilled_model(variant: str) -> PanopticSegFormer:
    """A published model without dropout, as random as it comes."""
    recipe = ModelRecipe(
        backbone=VARIANTS[variant].backbone, frozen_stages=VARIANTS[variant].frozen_stages, dropout=0.0
    )
    return build_model(recipe, COCO_SIZED, pretrained=False)


def filled_model(shared: Path, variant: str, train: bool) -> PanopticSegFormer:
    """A published model with the weights of the recordings; `train` chooses those of the training recordings."""
    model = unfilled_model(variant)
    state = from_release(release_state(shared, variant, train))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return model.train(train)


def release_state(shared: Path, variant: str, train: bool) -> dict[str, Tensor]:
    """A state dict as in a published checkpoint, filled by rule."""
    fill, salt = fill_rule(shared / "golden" / "fill.py")
    state = {}
    for name, shape, _ in release_keys(shared, variant):
        values = fill(name, shape, salt[variant], train)
        state[name] = torch.zeros(shape, dtype=torch.int64) if values is None else torch.from_numpy(values)
    return state


@cache
def fill_rule(path: Path) -> tuple[Callable[..., np.ndarray | None], dict[str, str]]:
    """The function that makes up a tensor, and the salt of every variant."""
    spec = importlib.util.spec_from_file_location("golden_fill", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill, module.SALT


class Recording:
    """One pair of `<name>.npz` and `<name>.json`."""

    def __init__(self, shared: Path, name: str) -> None:
        self.arrays = np.load(shared / "golden" / f"{name}.npz")
        self.notes: dict[str, Any] = json.loads((shared / "golden" / f"{name}.json").read_text())

    def distance(self, name: str, ours: Tensor) -> float:
        """The largest difference, as a share of the largest recorded value."""
        theirs = self.arrays[name].reshape(-1)
        note = self.notes[name]
        assert list(ours.squeeze().shape) == [side for side in note["shape"] if side != 1], name
        mine = ours.detach().reshape(-1)[:: note.get("stride", 1)].double().numpy()
        return float(np.abs(mine - theirs).max() / max(np.abs(theirs).max(), 1e-12))


def recorded_inputs(shared: Path) -> dict[str, Tensor]:
    """Two normalised images, (3, H, W)."""
    arrays = np.load(shared / "golden" / "inputs.npz")
    return {name: torch.from_numpy(arrays[f"{name}.input"]) for name in ("a", "b_small")}
