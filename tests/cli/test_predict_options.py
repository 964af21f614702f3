"""The options of `panformer predict`: what reaches the engine, and what is refused before it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click
import pytest

from panformer_cli.cli.predict import predict
from panformer_cli.engine.inference_changes import InferenceChanges
from panformer_cli.engine.outputs.names import USUAL
from panformer_cli.engine.outputs.options import OutputOptions
from panformer_cli.engine.outputs.registry import NAMES
from panformer_cli.errors import PanformerError
from tests.helpers import run


@pytest.fixture
def requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list of requests that reach the engine, which runs none of them."""
    seen: list[Any] = []

    def keep(request: Any, *_: object) -> None:
        seen.append(request)
        raise PanformerError("not run in this test")

    monkeypatch.setattr("panformer_cli.engine.predict.predict", keep)
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "model.safetensors"):
        Path(name).touch()
    return seen


GIVEN = ["predict", "a.jpg", "--checkpoint", "model.safetensors"]


@pytest.mark.parametrize(
    ("options", "output", "changes"),
    [
        ([], OutputOptions(), InferenceChanges()),
        (["--save", "masks, json,masks"], OutputOptions(save=("masks", "json")), InferenceChanges()),
        (
            ["--classes", "person,dog", "--classes", "17", "--min-area", "50"],
            OutputOptions(classes=("person,dog", "17"), min_area=50),
            InferenceChanges(),
        ),
        (
            ["--threshold", "0.5", "--overlap", "0", "--max-size", "640"],
            OutputOptions(),
            InferenceChanges(0.5, 0.0, 640),
        ),
        (
            ["--set", "inference.top_k=5", "--set", "inference.x=1"],
            OutputOptions(),
            InferenceChanges(overrides=("inference.top_k=5", "inference.x=1")),
        ),
    ],
)
def test_options_reach_the_engine(
    options: list[str], output: OutputOptions, changes: InferenceChanges, requests: list[Any]
) -> None:
    assert run(*GIVEN, "-o", "out", *options) == 2
    (request,) = requests
    assert (request.out, request.output, request.changes) == (Path("out"), output, changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--save", "mask"], "--save has no output 'mask'; did you mean masks?"),
        (["--save", ","], "--save names no output"),
        (["--threshold", "1.5"], "1.5 is not in the range 0<=x<=1"),
        (["--min-area", "-1"], "-1 is not in the range x>=0"),
        (["--max-size", "31"], "31 is not in the range x>=32"),
        (["--save", "json", "--submission", "panoptic_test-dev2017_a_results.zip"], "add them to --save"),
    ],
)
def test_invalid_options_are_refused(
    options: list[str], message: str, requests: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*GIVEN, "--out", "out", *options) == 2
    assert message in capsys.readouterr().err
    assert requests == [] and not Path("out").exists()


def test_the_help_names_all_outputs() -> None:
    (save,) = [parameter for parameter in predict.params if parameter.name == "save"]
    assert isinstance(save, click.Option) and save.help is not None
    assert save.default == ",".join(USUAL)
    assert save.help.removesuffix(".").rpartition("some of ")[2] == ", ".join(NAMES)


def test_inputs_reach_the_engine(
    requests: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard input is read once, and the images are those that were found before the checkpoint."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a.jpg\n")))
    Path("list.json").write_text('{"images": [{"id": 5, "file_name": "a.jpg"}]}')
    Path("elsewhere").mkdir()
    Path("elsewhere/a.jpg").touch()
    options = ["--checkpoint", "model.safetensors", "-o", "out", "--resume"]
    assert run("predict", "-", "list.json", "--images", "elsewhere", *options) == 2
    assert "not run in this test" in capsys.readouterr().err
    (request,) = requests
    assert request.resume
    assert [str(image) for image in request.find().images] == ["a.jpg", "elsewhere/a.jpg"]
    assert run("predict", "list.json", *options) == 2
    assert [image.id for image in requests[1].find().images] == [5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["-"], "the input - reads standard input, which is empty; pipe an image or a list"),
        (["ftp://host/a.jpg"], "addresses of the kind ftp:// cannot be read"),
        (["list.txt"], "list.txt has 1 name, and none of them exists"),
        (["a.jpg", "--images", "no"], "Directory 'no' does not exist"),
    ],
)
def test_inputs_that_are_refused(
    requests: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    Path("list.txt").write_text("no.jpg\n")
    assert run("predict", *given, "--out", "out") == 2
    assert message in capsys.readouterr().err
    assert not requests and not Path("out").exists()
