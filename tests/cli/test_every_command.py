"""What all commands have in common: options for their output, an example in the help, and results as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from panformer_cli.cli.main import program
from panformer_cli.recipe_io import built_in_recipes
from tests.helpers import run

OPTIONS = ("quiet", "verbose", "log_file")
WITHOUT_JSON = {
    "prepare-data auto": "passes its options to the command that it finds",
    "prepare-data coco-instances": "its --json is the input; summary.json in the output folder has what it prints",
    "recipes copy": "prints the name of the file that it was asked to write",
}
"""Commands without `--json` that prints the results, and the reasons."""


def all_commands(groups: bool = False) -> list[tuple[str, click.Command]]:
    """Return all commands, with the words that call them, without `panformer`.

    groups: Whether to include the program itself and groups.
    """
    return [(name, command) for name, command in _walk(program, "") if groups or not isinstance(command, click.Group)]


def _walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from _walk(found, f"{name} {inner}".strip())


def test_every_command_has_the_options_of_the_output_once() -> None:
    found = all_commands()
    assert len(found) > 30
    for name, command in found:
        names = [parameter.name for parameter in command.params]
        assert [names.count(option) for option in OPTIONS] == [1, 1, 1], name


@pytest.mark.parametrize("name", [name for name, _ in all_commands(groups=True)])
def test_every_help_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*name.split(), "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    words = " ".join(["panformer", *name.split()]).removesuffix(" checkpoint")
    assert [line for line in lines if re.match(rf"  {words}( |$)", line)], (
        "an indented line that starts with the command"
    )


def test_every_command_that_prints_results_has_json() -> None:
    without = set()
    for name, command in all_commands():
        options = [parameter for parameter in command.params if "--json" in parameter.opts]
        if not any(isinstance(option, click.Option) and option.is_flag for option in options):
            without.add(name)
    assert without == set(WITHOUT_JSON)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> object:
    """Return what `panformer WORDS --json` prints on stdout, which is nothing but JSON."""
    assert run(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_recipes_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = printed(capsys, "recipes", "list")
    assert isinstance(rows, list)
    assert [row["name"] for row in rows] == list(built_in_recipes())
    r50 = next(row for row in rows if row["name"] == "r50")
    assert (r50["backbone"], r50["published_pq"], r50["parameters_millions"]) == ("resnet50", 49.6, 50.7)
    shown = printed(capsys, "recipes", "show", "tiny", "--set", "train.lr=1e-3")
    assert isinstance(shown, dict)
    assert shown["train"]["lr"] == 0.001
    checked = printed(capsys, "recipes", "check", "tiny", "--set", "train.lr=1e-3")
    assert checked == {
        "valid": True,
        "against": "tiny",
        "differences": {"train.lr": {"value": 0.001, "before": 0.0007}},
        "warnings": [],
    }


@pytest.mark.slow
def test_train_visualize_and_average_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.engine.small import SMALL, small_scenes

    monkeypatch.chdir(tmp_path)
    scenes, run_folder = small_scenes(tmp_path / "scenes"), tmp_path / "run"
    settings = [word for setting in (*SMALL, f"data.root={scenes}", "train.max_steps=1") for word in ("--set", setting)]
    content = printed(capsys, "train", "tiny", *settings, "--out", str(run_folder), "--device", "cpu")
    assert content == {
        "run": str(run_folder),
        "checkpoint": str(run_folder / "best.safetensors"),
        "ended": True,
        "saved_step": 1,
        "total_steps": 1,
    }
    tried = printed(capsys, "train", "tiny", *settings, "--dry-run", "--device", "cpu")
    assert isinstance(tried, dict)
    assert (tried["training_images"], tried["total_steps"], tried["device"]) == (8, 1, "cpu")
    drawn = printed(capsys, "visualize", "--run", str(run_folder), "--out", str(tmp_path / "page"))
    assert isinstance(drawn, dict)
    assert (drawn["page"], drawn["checkpoint"]) == (
        str(tmp_path / "page" / "index.html"),
        str(run_folder / "best.safetensors"),
    )
    both = [str(run_folder / "best.safetensors"), str(run_folder / "last.safetensors")]
    averaged = printed(capsys, "weights", "average", *both, "--out", str(tmp_path / "mean.safetensors"))
    assert averaged == {"checkpoint": str(tmp_path / "mean.safetensors")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "photos", "--out", ""], "An argument after --out is empty"),
        (["predict", ""], "An argument after predict is empty"),
        ([""], "An argument is empty"),
    ],
)
def test_an_empty_argument_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert f"{message}; is a variable of the shell not set?" in capsys.readouterr().err
