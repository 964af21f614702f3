"""Answers to the option names of other tools: they name options and settings that exist, and reach the user."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from panformer_cli.cli.evaluate.checkpoint import checkpoint
from panformer_cli.cli.main import program
from panformer_cli.cli.other_names import COMMANDS as OTHERS
from panformer_cli.cli.other_names import answer_to, answers
from panformer_cli.engine.outputs.registry import NAMES
from panformer_cli.recipe_io import _settings
from tests.helpers import run

COMMANDS = ("predict", "train", "evaluate checkpoint")


def options_of(name: str) -> set[str]:
    """Return the options of a command."""
    command = checkpoint if name == "evaluate checkpoint" else program.get_command(click.Context(program), name)
    assert command is not None
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_answers_name_options_and_settings_that_exist(name: str) -> None:
    known, settings = options_of(name), _settings("panoptic_segformer")
    found = list(answers(f"panformer {name}"))
    assert len(found) > 30
    assert len({word for word, _ in found}) == len(found), "one answer per name"
    for word, answer in found:
        assert re.fullmatch(r"[a-z][a-z0-9-]*", word)
        used = set(re.findall(r"--[a-z-]+", answer))
        assert used <= known, answer
        keys = re.findall(r"\b(?:data|train|model)\.[a-z_]+", answer)
        assert set(keys) <= settings.keys(), answer
        assert used or keys or "without an option" in answer or "panformer evaluate" in answer, answer
        outputs = re.findall(r"--save (\w+)", answer)
        assert set(outputs) <= set(NAMES), answer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["predict", "--conf", "0.5"],
            "panformer predict has no --conf; the minimum score of a segment is --threshold.",
        ),
        (["predict", "a.jpg", "--conf-thres=0.5"], "predict has no --conf-thres; the minimum score of a segment is"),
        (["predict", "a.jpg", "--score_thr", "0.5"], "predict has no --score_thr; the minimum score of a segment is"),
        (["predict", "--source", "x"], "no --source; images, folders and patterns are given without an option."),
        (["predict", "--SAVE-TXT"], "the labels as text are --save segments"),
        (["predict", "a.jpg", "source=b.jpg", "conf=3"], "panformer predict has no source=; images, folders and"),
        (["predict", "--half"], "no --half; half precision is --precision fp16 or bf16, or --fast."),
        (["predict", "--imgsz", "640"], "the longest side of the images that the network receives is --max-size."),
        (
            ["train", "tiny", "--epochs", "3"],
            "panformer train has no --epochs; the number of epochs is --set train.epoc",
        ),
        (["evaluate", "--weights", "a"], "panformer evaluate checkpoint has no --weights; the checkpoint is given"),
        (["predict", "--confg"], "No such option '--confg'"),
        (["weights", "list", "--conf"], "No such option '--conf'"),
    ],
)
def test_an_option_of_another_tool_is_answered(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message.lower() in error.lower() and error.count("\n") == 1
    assert f"See `panformer {arguments[0]}" in error


@pytest.mark.slow
def test_every_command_with_a_folder_of_results_has_the_short_name() -> None:
    def commands(command: click.Command) -> Iterator[click.Command]:
        yield command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from commands(found)

    options = [parameter.opts for command in commands(program) for parameter in command.params]
    with_out = [names for names in options if "--out" in names]
    assert len(with_out) > 15
    assert [names for names in with_out if "-o" not in names] == []


@pytest.mark.parametrize(("word", "command"), [("val", "evaluate"), ("Detect", "predict"), ("checks", "doctor")])
def test_a_command_of_another_tool_is_answered(word: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(word) == 2
    error = f"No such command '{word}'. Did you mean '{command}'? See `panformer --help`."
    assert capsys.readouterr().err == f"Error: {error}\n"


def test_commands_of_other_tools_are_those_of_the_program() -> None:
    names = program.list_commands(click.Context(program))
    assert OTHERS.keys() <= set(names)
    words = [word for words in OTHERS.values() for word in words.split()]
    assert len(set(words)) == len(words) and not set(words) & set(names)


def test_only_known_names_are_answered() -> None:
    assert answer_to("panformer predict", "--unheard-of") is None
    assert answer_to("panformer weights", "--conf") is None
