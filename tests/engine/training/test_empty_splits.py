"""Training on splits without segments or with mostly void."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.errors import DataError
from tests.data.coco.coco_files import colors
from tests.engine.small import ALONE, StopAfter, small_recipe, small_scenes

PAIRS = ("train.batch_size=2", "train.images_per_forward=2")
"""Settings for a training split of two images."""


def make_void(root: Path, split: str) -> Path:
    """Remove all segments of a split and return its JSON."""
    path = root / "annotations" / f"panoptic_{split}.json"
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        row["segments_info"] = []
        Image.fromarray(colors(np.zeros((64, 64), np.int32))).save(path.with_suffix("") / row["file_name"])
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_a_training_split_without_segments_is_refused_unless_allowed(tmp_path: Path) -> None:
    root = small_scenes(tmp_path / "data", 2, 1)
    annotation, validation = make_void(root, "train"), make_void(root, "val")
    with pytest.raises(DataError, match="none of the 2 images has a segment.*data.allow_no_segments=true") as caught:
        train(small_recipe(root, *PAIRS, "train.max_steps=1"), TrainOptions(tmp_path / "run"), ALONE, StopAfter())
    assert str(annotation) in str(caught.value)
    reporter = StopAfter()
    recipe = small_recipe(root, *PAIRS, "train.max_steps=1", "data.allow_no_segments=true")
    assert train(recipe, TrainOptions(tmp_path / "run2"), ALONE, reporter).ended
    assert [warning.partition(",")[0] for warning in reporter.warnings] == [
        f"{validation}: the image has no segment",
        f"{annotation}: none of the 2 images has a segment",
    ]
    assert "Step 1: PQ – (things –, stuff –), SQ –, RQ –" in reporter.messages


@pytest.mark.slow
def test_a_validation_split_of_void_is_reported(tmp_path: Path) -> None:
    root = small_scenes(tmp_path / "data", 2, 1)
    path = root / "annotations" / "panoptic_val.json"
    content = json.loads(path.read_text())
    (row,) = content["annotations"]
    row["segments_info"] = [{**row["segments_info"][0], "area": 64 * 64 // 2 - 1}]
    path.write_text(json.dumps(content))
    png = path.with_suffix("") / row["file_name"]
    kept = colors(np.array([[row["segments_info"][0]["id"]]], np.int32))
    pixels = np.asarray(Image.open(png))
    Image.fromarray(np.where((pixels == kept).all(axis=-1, keepdims=True), pixels, 0).astype(np.uint8)).save(png)
    reporter = StopAfter()
    train(small_recipe(root, *PAIRS, "train.max_steps=1"), TrainOptions(tmp_path / "run"), ALONE, reporter)
    assert [warning.partition(";")[0] for warning in reporter.warnings] == [f"{path}: 50.0 % of all pixels are void"]
