"""A small K-Net goes through every command that uses a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import panformer
from panformer_cli.engine.checkpoints.checkpoint import TrainProgress, read_checkpoint, save_checkpoint
from panformer_cli.engine.inference import Predictor
from panformer_cli.models.build import build_model
from panformer_cli.recipe_io import load_recipe
from tests.engine.small import ALONE, categories_of, run_command, small_scenes
from tests.helpers import run

RECIPE = """\
name: small_knet
model: {family: knet, backbone: resnet18, backbone_weights: none, frozen_stages: 0, embed_dim: 32, heads: 4,
        feedforward_dim: 48, stages: 2, thing_kernels: 7}
data: {train_split: train, val_split: val, short_side: 70, long_side: 70, workers: 0}
inference: {score_threshold: 0.1, won_threshold: 0.1}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_scenes(tmp_path_factory.mktemp("scenes"), train_images=2, val_images=3)


@pytest.fixture(scope="module")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(str(folder / "recipe.yaml"), [f"data.root={data}"])
    torch.manual_seed(0)
    categories = categories_of(data)
    model = build_model(recipe.model, recipe.inference, categories, pretrained=False)
    save_checkpoint(folder / "model.safetensors", model, recipe, categories, TrainProgress())
    return folder / "model.safetensors"


@pytest.mark.slow
def test_every_command_runs_k_net(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = data / "images" / "val"
    run_command("evaluate", checkpoint, "--metrics", "all", "--out", tmp_path / "evaluation", "--device", "cpu")
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert metrics["images"] == 3
    assert metrics["panoptic"]["all"]["pq"] >= 0
    assert set(metrics["bbox"]) == set(metrics["segm"])

    run_command("evaluate", "tune", checkpoint, "--out", tmp_path / "tuning", "--device", "cpu")
    tuning = json.loads((tmp_path / "tuning" / "tune.json").read_text())
    assert tuning["before"] == {"score_threshold": 0.1, "won_threshold": 0.1}
    assert tuning["searched"]["settings"] >= 12 + 8  # one threshold after the other

    results = tmp_path / "predictions"
    run_command("predict", images, "--checkpoint", checkpoint, "--out", results, "--device", "cpu")
    predictions = json.loads((results / "panoptic.json").read_text())
    assert len(predictions["annotations"]) == 3
    assert any(row["segments_info"] for row in predictions["annotations"])
    truth = data / "annotations" / "panoptic_val.json"
    run_command(
        "evaluate", "predictions", results / "panoptic.json", "--annotations", truth, "--out", tmp_path / "again"
    )
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again["panoptic"]["all"]["pq"] == pytest.approx(metrics["panoptic"]["all"]["pq"])
    run_command("visualize", "--predictions", results / "panoptic.json", "--images", images, "--out", tmp_path / "page")
    assert (tmp_path / "page" / "index.html").is_file()

    compared = tmp_path / "comparison"
    run_command("evaluate", "compare", tmp_path / "evaluation", tmp_path / "again", "--report", compared)
    capsys.readouterr()
    recipe = checkpoint.with_name("recipe.yaml")
    run_command("benchmark", recipe, "--size", "64x64", "--repeat", "1", "--device", "cpu", "--json")
    stages = json.loads(capsys.readouterr().out)["stages"]
    names = ["backbone", "pyramid", "fusion", "initial_kernels", "update_1", "update_2"]
    assert list(stages) == ["decode", "prepare", *names, "network_rest", "merging", "writing"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (["--tile", "64"], "--tile"),
        (["--tta", "flip"], "--tta"),
        (["--overlap", "0.5"], "--overlap: models of the family knet have no such threshold"),
    ],
)
def test_what_k_net_does_not_have_is_refused(
    option: list[str], expected: str, checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", data / "images" / "val", "--checkpoint", checkpoint, "--out", tmp_path / "out", *option]
    assert run(*map(str, words), "--device", "cpu") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert expected in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.slow
def test_the_python_interface(checkpoint: Path, data: Path) -> None:
    model = panformer.load(checkpoint, device="cpu", threshold=0.0)
    image = np.array(Image.open(next((data / "images" / "val").iterdir())))
    whole, cut = model(image), model(image[:50, :64])
    assert (whole.size, cut.size) == ((64, 64), (50, 64))


@pytest.mark.slow
def test_images_of_one_size_share_a_batch(checkpoint: Path, data: Path) -> None:
    predictor = Predictor.of(read_checkpoint(checkpoint), ALONE)
    images = [np.array(Image.open(path)) for path in sorted((data / "images" / "val").iterdir())]
    together = predictor.predict_all([*images, images[0][:40]])
    for image, prediction in zip([*images, images[0][:40]], together, strict=True):
        alone = predictor(image).panoptic
        assert prediction.panoptic.ids.shape == alone.ids.shape
        assert (prediction.panoptic.ids != alone.ids).mean() < 0.01
