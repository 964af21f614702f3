"""A run with an evaluation, whose recipe and records name folders, a user and a host."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from panformer_cli.engine.checkpoints.checkpoint import TrainProgress, save_checkpoint
from panformer_cli.models.build import build_model
from panformer_cli.models.families import FAMILIES
from panformer_cli.recipe import Recipe
from panformer_cli.settings import DataSettings
from panformer_cli.storage.files import file_stamp, sha256_of
from tests.color_family import FAMILY, TABLE, ColorFamily, ColorSettings, ColorThresholds

SHA = "ab" * 32


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the family of the model."""
    monkeypatch.setitem(FAMILIES, FAMILY, ColorFamily())


@pytest.fixture
def run(tmp_path: Path, family: None) -> Path:
    """Return the folder of a run that was trained by the user alice on the host secret-host."""
    folder = tmp_path / "alice" / "colors"
    folder.mkdir(parents=True)
    settings = ColorSettings(backbone_weights="/home/alice/weights.pth")
    recipe = Recipe("colors", model=settings, data=DataSettings(root="/home/alice"), inference=ColorThresholds())
    model = build_model(recipe.model, recipe.inference, TABLE, pretrained=False)
    save_checkpoint(folder / "best.safetensors", model, recipe, TABLE, TrainProgress(step=12))
    annotation = tmp_path / "alice" / "panoptic_val.json"
    annotation.write_text("{}")
    files = {"train": SHA, "val": sha256_of(annotation)}
    start = {
        "host": "secret-host",
        "command": ["panformer", "train", "/home/alice"],
        "panformer": "0.1.9",
        "python": "3.11.4",
        "torch": "2.7.0",
        "libraries": {"timm": "1.0.22"},
        "files": {
            role: {"path": f"/home/alice/{role}.json", "bytes": 99, "sha256": sha} for role, sha in files.items()
        },
    }
    (folder / "environment.json").write_text(json.dumps([start]))
    write_evaluation(folder / "evaluation", folder / "best.safetensors", annotation)
    return folder


def write_evaluation(folder: Path, checkpoint: Path, annotation: Path) -> None:
    """Write an evaluation with PQ 41.26, 30 for things and 50.5 for stuff."""
    folder.mkdir(exist_ok=True)
    groups = {"all": (41.26, 80.0, 50.0), "things": (30.0, 75.0, 40.0), "stuff": (50.5, 85.0, 60.0)}
    quality = {name: dict(zip(("pq", "sq", "rq"), row, strict=True)) | {"n": 2} for name, row in groups.items()}
    content = {
        "checkpoint": str(checkpoint),
        "annotation": str(annotation),
        "images": 250,
        "panoptic": quality,
        "intervals": {name: {key: [row[0] - 2, row[0] + 1.5] for key in ("pq",)} for name, row in groups.items()},
        "segm": {"AP": 22.2, "AP50": 40.0},
        "settings": {
            "checkpoint": file_stamp(checkpoint),
            "annotation": file_stamp(annotation),
            "precision": "bf16",
            "metrics": ["panoptic", "segm"],
            "inference": {"tile": 512},
        },
    }
    (folder / "metrics.json").write_text(json.dumps(content))


def change(checkpoint: Path) -> None:
    """Write the checkpoint again, with other progress."""
    recipe = Recipe("colors", model=ColorSettings(), inference=ColorThresholds())
    model = build_model(recipe.model, recipe.inference, TABLE, pretrained=False)
    save_checkpoint(checkpoint, model, replace(recipe, name="other-colors"), TABLE, TrainProgress(step=13))
