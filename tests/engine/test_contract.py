"""A second model family works with the whole engine: train, resume, evaluate, tune, predict, draw, benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.engine.checkpoints.checkpoint import TrainProgress, load_model, read_checkpoint, save_checkpoint
from panformer_cli.engine.checkpoints.transfer import start_from
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.models.build import build_model
from panformer_cli.models.families import FAMILIES
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import load_recipe
from panformer_cli.reporting import SilentReporter
from tests.engine.small import run_command, small_scenes
from tests.models.panoptic_segformer.test_merge_cache import sample_of, without_boxes
from tests.pixel_family import PixelClassifier, PixelFamily, PixelPrediction, PixelSettings, PixelThresholds

RECIPE = """\
name: pixels
model: {family: per_pixel, backbone: resnet18, backbone_weights: none, frozen_stages: 0, hidden_dim: 8}
data: {train_split: train, val_split: val, short_side: 64, long_side: 64, train_short_sides: [64], workers: 0}
train: {epochs: 6, evaluate_every: 6, batch_size: 2, lr: 1.0e-2, clip_norm: 1.0, drop_epochs: [], log_every: 1}
inference: {min_score: 0.0}
"""


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> PixelFamily:
    family = PixelFamily()
    monkeypatch.setitem(FAMILIES, "per_pixel", family)
    return family


@pytest.mark.slow
def test_the_whole_engine_runs_another_family(
    tmp_path: Path, family: PixelFamily, capsys: pytest.CaptureFixture[str]
) -> None:
    data, recipe, folder = small_scenes(tmp_path / "scenes"), tmp_path / "pixels.yaml", tmp_path / "run"
    recipe.write_text(RECIPE)
    on = ("--set", f"data.root={data}", "--out", folder, "--device", "cpu")

    run_command("train", recipe, *on, "--set", "train.max_steps=3")
    run_command("train", recipe, *on, "--resume", "--set", "train.max_steps=null")
    checkpoint = read_checkpoint(folder / "last.safetensors")
    assert checkpoint.progress.step == 24
    assert checkpoint.recipe.model == PixelSettings(
        backbone="resnet18", backbone_weights="none", frozen_stages=0, hidden_dim=8
    )
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) == 24
    assert sum(losses[-6:]) < 0.95 * sum(losses[:6])

    run_command("evaluate", folder, "--metrics", "all", "--out", tmp_path / "evaluation", "--device", "cpu")
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert metrics["images"] == 4
    assert metrics["semantic"]["accuracy"] > 0

    run_command("evaluate", "tune", folder, "--out", tmp_path / "tuning", "--device", "cpu")
    tuning = json.loads((tmp_path / "tuning" / "tune.json").read_text())
    assert tuning["before"] == {"min_score": 0.0}
    assert tuning["searched"]["settings"] == 4
    assert family.calls["load_tuning_cache"] > 4

    images = data / "images" / "val"
    run_command("predict", images, "--checkpoint", folder, "--out", tmp_path / "predictions", "--device", "cpu")
    predictions = json.loads((tmp_path / "predictions" / "panoptic.json").read_text())
    assert len(predictions["annotations"]) == 4
    assert all(row["segments_info"] for row in predictions["annotations"])

    saved = tmp_path / "predictions" / "panoptic.json"
    run_command("visualize", "--predictions", saved, "--images", images, "--run", folder, "--out", tmp_path / "page")
    assert (tmp_path / "page" / "index.html").is_file()

    capsys.readouterr()
    run_command("benchmark", recipe, "--size", "64x64", "--repeat", "1", "--device", "cpu", "--json")
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert list(stages) == ["decode", "prepare", "backbone", "classifier", "network_rest", "merging", "writing"]


def test_tuning_gives_the_same_results_as_predicting_with_the_settings() -> None:
    table, sample = CategoryTable([Category(n, f"c{n}", n < 4) for n in (3, 4, 10, 11)]), sample_of(0)
    logits = torch.randn(4, *sample.annotation.ids.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for threshold in (0.0, 0.5, 0.55, 1.0):
        settings = PixelThresholds(threshold)
        prediction = PixelPrediction(logits.softmax(0), table, settings)
        live = compare(prediction.panoptic, sample.annotation, sample.image_id, sample.file_name)
        cached = PixelFamily().tuning_cache(prediction, sample).overlap(settings, table)
        assert without_boxes(cached) == without_boxes(live)
        found.append(len(live.predictions))
    assert found[0] == 4
    assert found[-1] == 0


@pytest.mark.slow
def test_fine_tuning_copies_rows_by_name(tmp_path: Path) -> None:
    known = CategoryTable([Category(1, "cat", True), Category(2, "dog", True), Category(3, "sky", False)])
    wanted = CategoryTable([Category(1, "Dog", True), Category(2, "sky", True), Category(9, "sky", False)])
    recipe = Recipe(
        name="pixels", model=PixelSettings(backbone="resnet18", frozen_stages=0), inference=PixelThresholds()
    )
    before = build_model(recipe.model, recipe.inference, known, pretrained=False)
    save_checkpoint(tmp_path / "a.safetensors", before, recipe, known, TrainProgress())
    after = build_model(recipe.model, recipe.inference, wanted, pretrained=False)
    assert isinstance(before, PixelClassifier)
    assert isinstance(after, PixelClassifier)
    untouched = after.classifier.weight[1].clone()
    start_from(after, read_checkpoint(tmp_path / "a.safetensors"), SilentReporter())
    assert torch.equal(after.classifier.weight[0], before.classifier.weight[1])  # dog
    assert torch.equal(after.classifier.weight[1], untouched)  # a thing called sky is new
    assert torch.equal(after.classifier.weight[2], before.classifier.weight[2])  # sky
    assert torch.equal(after.hidden.weight, before.hidden.weight)


@pytest.mark.slow
def test_a_checkpoint_states_its_family(tmp_path: Path) -> None:
    table = CategoryTable([Category(1, "cat", True)])
    (tmp_path / "pixels.yaml").write_text(RECIPE)
    recipe = load_recipe(str(tmp_path / "pixels.yaml"), ["inference.min_score=0.3"])
    model = build_model(recipe.model, recipe.inference, table)
    save_checkpoint(tmp_path / "a.safetensors", model, recipe, table, TrainProgress())
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.recipe == recipe
    assert checkpoint.recipe.inference == PixelThresholds(0.3)
    loaded = load_model(checkpoint)
    assert isinstance(loaded, PixelClassifier)
    for name, tensor in loaded.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), model.state_dict()[name].numpy())
