"""The files that `weights push` publishes."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open

from panformer_cli import __version__
from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.engine.checkpoints.checkpoint import (
    TrainingState,
    TrainProgress,
    load_model,
    read_checkpoint,
    save_checkpoint,
)
from panformer_cli.engine.publishing.publication import without_folders
from panformer_cli.engine.publishing.push import PushRequest, write_folder
from panformer_cli.errors import PanformerError
from panformer_cli.models.build import build_model
from panformer_cli.recipe_io import load_recipe
from panformer_cli.reporting import SilentReporter
from panformer_cli.setting_types import PathText, _marks
from tests.engine.publishing.conftest import SHA, change
from tests.engine.small import SMALL, StopAfter


def published(run: Path, out: Path, **more: Any) -> Path:
    """Write the files of the run's best checkpoint and return their folder."""
    checkpoint = run / "best.safetensors" if run.is_dir() else run
    write_folder(PushRequest(checkpoint, "user/model", "mit", **more), out, SilentReporter())
    return out


def front_matter(folder: Path) -> dict[str, Any]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    return dict(yaml.safe_load(re.match(r"---\n(.*?)\n---\n\n# model\n", text, re.S)[1]))  # type: ignore[index]


def test_the_files(run: Path, tmp_path: Path) -> None:
    folder = published(run, tmp_path / "out", data_name="Street *scenes*")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["format"], config["license"], config["trained_with"]) == ("panformer 1", "mit", "0.2.0")
    assert [row["name"] for row in config["categories"]] == ["red", "green", "sky"]
    assert config["recipe"]["model"]["family"] == "color"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert 'panformer.load("hub:user/model")' in card
    assert "2 thing classes and 1 stuff class, trained on Street \\*scenes\\* with" in card
    assert f"| annotations of the training split | 99 | `{SHA}` |" in card
    assert "Recipe colors, 12 optimizer steps." in card
    assert "Trained with panformer 0.1.9, python 3.11.4, torch 2.7.0, timm 1.0.22." in card


@pytest.mark.parametrize("step", [0, 5])
def test_a_file_that_is_not_of_a_run(step: int, run: Path, tmp_path: Path) -> None:
    """Imported weights were not trained by panformer; those of an average were, with versions that are not known."""
    checkpoint = read_checkpoint(run / "best.safetensors")
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, load_model(checkpoint), checkpoint.recipe, checkpoint.categories, TrainProgress(step=step))
    card = (published(path, tmp_path / "out") / "README.md").read_text(encoding="utf-8")
    sections = card.partition("## Training")[2]
    assert "python" not in sections.partition("## Versions")[2]
    if step:
        assert "1 stuff class, trained with panformer: `color`" in card
        assert "The run does not record which data it was trained on." in card
        assert f"Trained with panformer {__version__}. Published with panformer {__version__}." in card
    else:
        assert "2 thing classes and 1 stuff class: `color` with" in card
        assert "panformer did not train these weights. It runs them by the recipe colors." in card
        assert "rained with panformer" not in card and "which data" not in card and "optimizer step" not in card


def test_metrics_have_their_intervals(run: Path, tmp_path: Path) -> None:
    folder = published(run, tmp_path / "out", data_name="Streets")
    front = front_matter(folder)
    assert (front["license"], front["library_name"]) == ("mit", "panformer")
    assert front["tags"] == ["panformer", "panoptic-segmentation", "color"]
    ((result,),) = (model["results"] for model in front["model-index"])
    assert result["dataset"] == {"type": "panoptic", "name": "Streets", "split": "val"}
    assert result["metrics"][0] == {
        "type": "pq",
        "name": "PQ",
        "value": 41.26,
        "args": {"interval_95_percent": [39.26, 42.76], "bootstrap_over_images": 250},
    }
    assert [row["type"] for row in result["metrics"]] == [
        *("pq", "sq", "rq", "pq_things", "sq_things", "rq_things", "pq_stuff", "sq_stuff", "rq_stuff", "segm_ap")
    ]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| PQ of stuff | 50.5 | 48.5 to 52.0 |\n" in card
    assert "| Mask AP of things | 22.2 |  |\n" in card
    assert "on 250 images, split val of Streets (SHA-256 of the annotation: `" in card
    assert "with precision bf16, tile 512. The intervals are from a bootstrap over the images." in card


def test_huggingface_hub_reads_the_metrics(run: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub (pip install 'panformer[hub]')")
    data = hub.ModelCard.load(published(run, tmp_path / "out") / "README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "panformer", "image-segmentation")
    assert [(row.metric_type, row.metric_value) for row in data.eval_results][:2] == [("pq", 41.26), ("sq", 80.0)]


def test_other_evaluated_data_does_not_get_the_name_of_the_training_data(run: Path, tmp_path: Path) -> None:
    records = json.loads((run / "environment.json").read_text())
    records[0]["files"]["val"]["sha256"] = "cd" * 32
    (run / "environment.json").write_text(json.dumps(records))
    folder = published(run, tmp_path / "out", data_name="Streets")
    dataset = front_matter(folder)["model-index"][0]["results"][0]["dataset"]
    assert (dataset["name"], dataset["split"]) == ("unnamed data set", "val")


def test_nothing_names_this_machine(run: Path, tmp_path: Path) -> None:
    for path in published(run, tmp_path / "out").iterdir():
        content = path.read_bytes()
        for private in (b"alice", b"secret-host", str(tmp_path).encode(), b"/home/"):
            assert private not in content, f"{path.name} has {private!r}"


def test_no_recipe_keeps_a_folder() -> None:
    recipe = without_folders(
        load_recipe("tiny", ["data.root=/home/alice/coco", r"model.backbone_weights=C:\Users\alice\a.pth"])
    )
    paths = [
        getattr(section, field)
        for section in (getattr(recipe, of.name) for of in fields(recipe) if of.name not in ("name", "published_pq"))
        for field, marks in _marks(section.__class__).items()
        if any(isinstance(mark, PathText) for mark in marks)
    ]
    assert paths == ["a.pth", ""]  # a new setting with a path must be in `without_folders`, too


def test_without_an_evaluation_there_are_no_metrics(run: Path, tmp_path: Path) -> None:
    (run / "evaluation" / "metrics.json").unlink()
    folder = published(run, tmp_path / "out")
    assert "model-index" not in front_matter(folder)
    assert "These weights were not evaluated before they were published." in (folder / "README.md").read_text()


def test_an_evaluation_of_other_weights_is_not_published(run: Path, tmp_path: Path) -> None:
    change(run / "best.safetensors")
    request, reporter = PushRequest(run / "best.safetensors", "user/model", "mit"), StopAfter()
    write_folder(request, tmp_path / "out", reporter)
    assert "model-index" not in front_matter(tmp_path / "out")
    (warning,) = reporter.warnings
    assert "has the results of other weights than" in warning
    with pytest.raises(PanformerError, match="has the results of other weights than .*; evaluate it first"):
        published(run, tmp_path / "other", evaluation=run / "evaluation")
    with pytest.raises(PanformerError, match=r"--evaluation .* has no metrics.json"):
        published(run, tmp_path / "other", evaluation=tmp_path)
    assert not (tmp_path / "other").exists()


def test_a_corrupt_evaluation_is_refused(run: Path, tmp_path: Path) -> None:
    path = run / "evaluation" / "metrics.json"
    path.write_text(json.dumps({"settings": json.loads(path.read_text())["settings"]}))
    with pytest.raises(PanformerError, match="metrics.json has no panoptic metrics; evaluate the checkpoint again"):
        published(run, tmp_path / "out")


@pytest.mark.slow
def test_weights_are_the_averaged_ones_without_the_optimizer(tmp_path: Path) -> None:
    recipe = load_recipe("tiny", SMALL)
    table = CategoryTable([Category(1, "a|b\n<script>", True), Category(2, "grass", False)])
    model = build_model(recipe.model, recipe.inference, table)
    averaged = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    state = TrainingState({"x.exp_avg": torch.ones(3)}, {"0.cpu": torch.ones(2)}, averaged)
    save_checkpoint(tmp_path / "last.safetensors", model, recipe, table, TrainProgress(), state)
    folder = published(tmp_path / "last.safetensors", tmp_path / "out")
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert {name.partition(".")[0] for name in file.keys()} == {"model"}  # noqa: SIM118 (it is no dict)
    loaded = load_model(read_checkpoint(folder / "model.safetensors")).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in averaged.items())
    assert "Things: a\\|b \\<script\\>.\n" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    recipe, table = load_recipe("tiny", SMALL), CategoryTable([Category(1, "a", True)])
    model = build_model(recipe.model, recipe.inference, table)
    next(model.parameters()).data[:] = torch.nan
    save_checkpoint(tmp_path / "nan.safetensors", model, recipe, table, TrainProgress())
    with pytest.raises(PanformerError, match="has non-finite values"):
        published(tmp_path / "nan.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"repository": "model"}, "expected OWNER/NAME"),
        ({"repository": "user/model/more"}, "expected OWNER/NAME"),
        ({"repository": "../model"}, "expected OWNER/NAME"),
        ({"repository": "user/model@v1"}, "without a revision"),
        ({"repository": "user/model@main"}, "without a revision"),
        ({"repository": "https://user:hf_abcdefghijkl@huggingface.co/a"}, "has a token in it, which is not shown here"),
        ({"license": "Apache 2.0"}, "expected an identifier of the Hub in lower case, such as apache-2.0"),
        ({"license": ""}, "--license is ''"),
        ({"data_name": " "}, "--data-name is ' '"),
        ({"data_name": "a\nb"}, "in one line"),
    ],
)
def test_names_are_checked(change: dict[str, str], problem: str) -> None:
    names = {"repository": "user/model", "license": "mit"} | change
    with pytest.raises(PanformerError, match=problem) as raised:
        PushRequest(Path("best.safetensors"), **names)  # type: ignore[arg-type]
    assert "hf_abc" not in str(raised.value)


@pytest.mark.parametrize("missing", ["annotation", "images", "panoptic.all", "panoptic.all.pq", "settings.annotation"])
def test_an_evaluation_that_lacks_a_part(missing: str, run: Path, tmp_path: Path) -> None:
    path = run / "evaluation" / "metrics.json"
    content = part = json.loads(path.read_text())
    *outer, last = missing.split(".")
    for key in outer:
        part = part[key]
    del part[last]
    path.write_text(json.dumps(content))
    with pytest.raises(
        PanformerError, match=rf"metrics.json lacks a part, .*'{last}'.*; evaluate the checkpoint again"
    ):
        published(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
