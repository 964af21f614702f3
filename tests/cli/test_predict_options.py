"""The options of `panformer predict`: what reaches the engine, and what is refused before it."""

from __future__ import annotations

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
