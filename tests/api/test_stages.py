"""Training, evaluation and preparation from Python: the engine's stages, with the commands' defaults."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

import panformer
from panformer_cli.api.evaluation import Evaluation, evaluate
from panformer_cli.api.model import load
from panformer_cli.api.preparation import CONVERTED, IN_PLACE, prepare
from panformer_cli.api.training import train
from panformer_cli.cli.evaluate.checkpoint import checkpoint as evaluate_command
from panformer_cli.cli.main import program
from panformer_cli.cli.predict import predict as predict_command
from panformer_cli.cli.train import TRACKERS
from panformer_cli.cli.train import train as train_command
from panformer_cli.engine.trackers.names import TRACKERS as KNOWN_TRACKERS
from panformer_cli.errors import DataError, PanformerError, RecipeError
from tests.engine.small import SMALL, small_scenes

SETTINGS: dict[str, Any] = {
    key: json.loads(text) if text[0] in "[0123456789" else text
    for key, text in (setting.split("=", 1) for setting in SMALL)
}


@pytest.mark.slow
def test_a_model_is_trained_resumed_evaluated_and_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The four stages in one test, because training takes seconds."""
    data, out = small_scenes(tmp_path / "scenes"), tmp_path / "run"
    run = train("tiny", out=out, device="cpu", verbose=False, **SETTINGS, data={"root": data}, train={"max_steps": 2})
    assert (run.folder, run.step, run.total_steps, run.finished) == (out, 2, 2, True)
    assert run.checkpoint is not None and run.pq is not None and 0 <= run.pq <= 100
    resumed = train(resume=out, device="cpu", verbose=False, train={"max_steps": 3})
    assert (resumed.step, resumed.finished) == (3, True)

    found = panformer.evaluate(out, data=data, split="val", device="cpu", out=tmp_path / "results", verbose=False)
    written = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert found.metrics == written
    assert found.pq == written["panoptic"]["all"]["pq"]
    assert (found.sq, found.rq) == (written["panoptic"]["all"]["sq"], written["panoptic"]["all"]["rq"])
    assert found.pq_things == written["panoptic"]["things"]["pq"]
    assert found.pq_stuff == written["panoptic"]["stuff"]["pq"]
    names = {row["name"] for row in written["categories"]}
    assert found.pq_per_class and set(found.pq_per_class) <= names
    assert "semantic" in written and "intervals" in written, "as by default on the command line"
    assert found.images == 4 and repr(found).startswith("Evaluation(4 images, PQ ")

    model = resumed.load(device="cpu")
    results = model(sorted((data / "images" / "val").iterdir()))
    assert [result.size for result in results] == [(64, 64)] * 4
    assert capsys.readouterr() == ("", "")


def defaults_of(command: click.Command) -> dict[str, Any]:
    """Return the defaults of a command's options by the name of the argument that it fills; None if it has none."""
    with click.Context(command) as context:
        defaults = {str(parameter.name): parameter.get_default(context) for parameter in command.params}
    return {name: value if isinstance(value, (bool, int, str)) else None for name, value in defaults.items()}


def test_the_defaults_are_those_of_the_commands() -> None:
    python = {name: item.default for name, item in inspect.signature(evaluate).parameters.items()}
    command = defaults_of(evaluate_command)
    assert python["metrics"] == tuple(command["metrics"].split(","))
    for name in ("bootstrap", "batch_size", "resume"):
        assert python[name] == command[name], name
    python = {name: item.default for name, item in inspect.signature(train).parameters.items()}
    command = defaults_of(train_command)
    for name in ("out", "resume", "init_from", "fit_memory", "time_limit", "profile"):
        assert (python[name] or None) == (command[name] or None), name
    python = {name: item.default for name, item in inspect.signature(load).parameters.items()}
    command = defaults_of(predict_command)
    assert python["min_area"] == command["min_area"]
    assert not any(python[name] for name in ("threshold", "overlap", "max_size", "classes"))
    assert TRACKERS == KNOWN_TRACKERS


@pytest.mark.parametrize("form", [*CONVERTED, *IN_PLACE, "scenes"])
def test_every_form_is_a_subcommand_of_prepare_data(form: str) -> None:
    group = program.get_command(click.Context(program), "prepare-data")
    assert isinstance(group, click.Group)
    assert form in group.commands
    with pytest.raises(PanformerError, match=f"the form {form} has no option colour"):
        prepare("root", "out", form=form, colour="red")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": "panoptic"}, "metrics has 'panoptic'; expected a list"),
        ({"metrics": ["pq"]}, "metrics has 'pq'; expected a list with some of panoptic, boundary"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"checkpoint": "nothing"}, "nothing: no such file"),
    ],
)
def test_invalid_arguments_of_evaluate_are_reported(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PanformerError, match=message):
        evaluate(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, PanformerError, "no recipe was given"),
        ({"recipe": "tinny"}, RecipeError, "did you mean tiny"),
        ({"recipe": "tiny", "log": ["tensorbord"]}, PanformerError, "log has tensorbord; expected a list"),
        ({"recipe": "tiny", "train": {"lrr": 1}}, RecipeError, "train.lrr.*did you mean"),
        ({"recipe": "tiny", "train": {"lr": "fast"}}, RecipeError, "train.lr is 'fast': expected a number"),
        ({"recipe": "tiny", "epochs": 3}, RecipeError, "epochs"),
        ({"resume": "nowhere"}, PanformerError, "nowhere"),
    ],
)
def test_invalid_arguments_of_train_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        train(device="cpu", **arguments)
    assert list(tmp_path.iterdir()) == []


def labelme(folder: Path) -> Path:
    """Write two images with a polygon each, as labelme does."""
    from PIL import Image

    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(folder / f"{name}.png")
        shape = {"label": "cat", "points": [[5, 5], [20, 5], [20, 20]], "shape_type": "polygon"}
        content = {"imagePath": f"{name}.png", "imageHeight": 30, "imageWidth": 40, "shapes": [shape]}
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("form", ["auto", "labelme"])
def test_a_data_set_is_converted(tmp_path: Path, form: str) -> None:
    root = labelme(tmp_path / "photos")
    prepared = prepare(root, tmp_path / "out", form=form, workers=1, stuff=["cat"], verbose=False)
    assert prepared.folder == tmp_path / "out"
    assert list(prepared.splits) == ["train"]
    summary = prepared.splits["train"]
    assert (summary.images, summary.stuff, summary.things) == (2, 2, 0)
    assert (tmp_path / "out" / "annotations" / "panoptic_train.json").is_file()
    assert repr(prepared) == f"Prepared({tmp_path / 'out'}, train: 2 images)"


@pytest.mark.slow
def test_a_panoptic_data_set_is_checked_in_place(tmp_path: Path) -> None:
    data = small_scenes(tmp_path / "scenes")
    prepared = prepare(data, workers=1, verbose=False)
    assert {name: summary.images for name, summary in prepared.splits.items()} == {"train": 8, "val": 4}
    with pytest.raises(DataError, match="needs no conversion.*use it as it is"):
        prepare(data, verbose=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "root is missing"),
        ({"form": "scenes"}, "out is missing"),
        ({"root": "empty"}, "no labels in a known form"),
        ({"root": "empty", "form": "labelm"}, "form is 'labelm'; expected auto, .*did you mean labelme"),
        ({"root": "empty", "form": "masks", "out": "out"}, "the form masks needs classes"),
        ({"root": "photos", "form": "labelme"}, "out is missing"),
    ],
)
def test_invalid_arguments_of_prepare_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    labelme(tmp_path / "photos")
    with pytest.raises(PanformerError, match=message):
        prepare(**arguments)
    assert not Path("out").exists()


def test_an_evaluation_shows_its_metrics_by_name() -> None:
    groups = {name: {"pq": value, "sq": 80.0, "rq": 70.0} for name, value in (("all", 1), ("things", 2), ("stuff", 3))}
    panoptic = {**groups, "per_class": {"5": {"pq": 40.0}}}
    metrics = {"images": 3, "panoptic": panoptic, "categories": [{"id": 5, "name": "sky"}, {"id": 6, "name": "sea"}]}
    found = Evaluation(Path("results"), metrics)
    assert (found.pq, found.sq, found.rq, found.pq_things, found.pq_stuff) == (1, 80, 70, 2, 3)
    assert found.pq_per_class == {"sky": 40.0}
    assert {item.name for item in fields(Evaluation)} == {"folder", "metrics"}
