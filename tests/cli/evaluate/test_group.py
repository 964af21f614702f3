"""`panformer evaluate`: help, which subcommand a command line calls, and errors about misplaced words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest

from panformer_cli.cli.evaluate import evaluate
from tests.data.coco.pair_files import write_pairs
from tests.helpers import run

NAMES = ["checkpoint", "predictions", "robustness", "compare", "tune", "check-submission"]
ARGUMENTS = dict(zip(NAMES, ["CHECKPOINT", "PRED.json", "CHECKPOINT", "A B", "CHECKPOINT", "FILE.zip"], strict=True))
OFFLINE = ["--predictions", "p", "--annotations", "g"]


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Requests of `panformer evaluate` in an empty folder; no model is run."""
    requests: list[Any] = []

    def keep(request: Any, *_: object) -> None:
        requests.append(request)
        raise click.UsageError("not run in this test")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("panformer_cli.engine.evaluation.evaluate.evaluate", keep)
    return requests


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one-line error of `panformer evaluate ARGUMENTS`, which exits with code 2."""
    capsys.readouterr()
    assert run("evaluate", *arguments) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(r"(Checkpoint: .*\n)?", out)
    err = re.sub(r"\ACheckpoint: .*\n", "", err)  # with --json, stdout has only the results
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    return err


def test_help_lists_the_subcommands_and_the_options_of_the_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("evaluate", "--help") == 0
    head, options = capsys.readouterr().out.split("Options of checkpoint, the default command:\n")
    listed = head.split("Commands:\n")[1].strip().splitlines()
    assert [line.split()[0] for line in listed] == NAMES
    for line in listed:
        assert line.endswith(".")
        assert not line.endswith("...")  # truncated
    for option in ("--data ROOT", "--metrics LIST", "--report DIR", "--gpus N", "-h, --help"):
        assert f"\n  {option} " in f"\n{options}"


@pytest.mark.parametrize("name", NAMES)
def test_every_subcommand_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", name, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: panformer evaluate {name} ")
    assert f"\n  panformer evaluate {name} " in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["checkpoint"]),
        (["r50", "--json"], ["checkpoint", "r50", "--json"]),
        (["--data", "d", "r50"], ["checkpoint", "--data", "d", "r50"]),
        (OFFLINE, ["predictions", "p", "--annotations", "g"]),
        (["--json", "--predictions=p", "--annotations=g"], ["predictions", "p", "--json", "--annotations=g"]),
        (["r50", *OFFLINE], ["predictions", "p", "r50", "--annotations", "g"]),
        (["r50", "--corruptions", "fog"], ["robustness", "r50", "--corruptions", "fog"]),
        (["r50", "--corruptions=fog"], ["robustness", "r50", "--corruptions=fog"]),
        (["tune", "--corruptions", "fog"], ["tune", "--corruptions", "fog"]),
        (["--", "--predictions"], ["checkpoint", "--", "--predictions"]),
        (["--help"], ["--help"]),
    ],
)
def test_the_subcommand_is_optional(words: list[str], expected: list[str]) -> None:
    assert evaluate.with_subcommand(words, ["--help"]) == expected


def test_both_spellings_of_predictions_print_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = write_pairs(tmp_path)
    prediction, truth = str(pairs.prediction.json), str(pairs.truth.json)
    printed = []
    for words in (
        ["--predictions", prediction, "--annotations", truth],
        [f"--predictions={prediction}", f"--annotations={truth}"],
        ["predictions", prediction, "--annotations", truth],
    ):
        assert run("evaluate", *words) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] == printed[2]
    assert "Panoptic quality of 3 images" in printed[0]


# --- a checkpoint with the name of a subcommand


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir], ids=["file", "folder"])
@pytest.mark.parametrize("name", NAMES)
def test_an_ambiguous_name_is_an_error(
    name: str, make: Any, evaluated: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    make(Path(name))
    for options in ([], ["--data", "d"], ["--out", "x", "--json"]):
        err = error_of(capsys, name, *options)
        assert f"{name} is both a subcommand and a path in this folder" in err
        assert f"`panformer evaluate ./{name}` to evaluate the checkpoint" in err
        assert f"`panformer evaluate {name} {ARGUMENTS[name]}` to run the subcommand" in err
    assert evaluated == []


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_may_have_the_name_of_a_subcommand(
    name: str, evaluated: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).touch()
    for words in (["checkpoint", name], [f"./{name}"], ["--json", name], ["--", name]):
        assert "not run in this test" in error_of(capsys, *words)
    assert [request.checkpoint for request in evaluated] == [Path(name)] * 4


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["checkpoint", "none"], "checkpoint none: no such file"),
        (["tune", "none"], "checkpoint none: no such file"),
        (["robustness", "none", "--severity", "2"], "checkpoint none: no such file"),
        (["compare", "a", "b"], "a does not exist; expected a folder"),
        (["compare", "a"], "Missing argument 'B'"),
        (["predictions", "none.json", "--annotations", "none.json"], "none.json"),
        (["check-submission", "none.zip", "--images", "none.json"], "none.json"),
    ],
)
def test_a_name_with_an_argument_is_a_subcommand(
    words: list[str], expected: str, evaluated: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(words[0]).mkdir()
    assert expected in error_of(capsys, *words)
    assert evaluated == []


def test_the_default_subcommand_is_never_ambiguous(evaluated: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("checkpoint", "tune"):
        Path(name).mkdir()
    assert "no checkpoint was given and there is no run" in error_of(capsys)
    assert run("evaluate", "tune", "--help") == 0
    assert capsys.readouterr().out.startswith("Usage: panformer evaluate tune ")


def test_without_such_a_path_a_subcommand_uses_the_newest_run(
    evaluated: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("checkpoint", "tune", "robustness"):
        assert "no checkpoint was given and there is no run" in error_of(capsys, name)


@pytest.mark.parametrize(("word", "meant"), [("comapre", "compare"), ("tun", "tune"), ("prediction", "predictions")])
def test_a_mistyped_subcommand(word: str, meant: str, evaluated: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    err = error_of(capsys, word, "a", "b")
    assert f"{word} is neither a checkpoint nor a subcommand. Did you mean '{meant}'? See `panformer evaluate -" in err
    Path(word).touch()
    assert "not run in this test" in error_of(capsys, word)


# --- options of another subcommand


@pytest.mark.parametrize(
    ("words", "option", "command", "owners"),
    [
        (["--annotations", "g"], "--annotations", "checkpoint", "predictions, compare"),
        (["--gt-folder", "g"], "--gt-folder", "checkpoint", "predictions, compare"),
        (["--images", "3"], "--images", "checkpoint", "robustness, check-submission"),
        (["--severity", "1-5"], "--severity", "checkpoint", "robustness"),
        (["checkpoint", *OFFLINE], "--predictions", "checkpoint", "predictions"),
        ([*OFFLINE, "--corruptions", "fog"], "--corruptions", "predictions", "robustness"),
        ([*OFFLINE, "--submission", "a_results.zip"], "--submission", "predictions", "checkpoint"),
        ([*OFFLINE, "--resume"], "--resume", "predictions", "checkpoint"),
        ([*OFFLINE, "--data", "d"], "--data", "predictions", "checkpoint, robustness, tune"),
        ([*OFFLINE, "--split", "val"], "--split", "predictions", "checkpoint, robustness, tune"),
        ([*OFFLINE, "--batch-size", "1"], "--batch-size", "predictions", "checkpoint, robustness, tune"),
        ([*OFFLINE, "--precision", "fp32"], "--precision", "predictions", "checkpoint, robustness, tune"),
        ([*OFFLINE, "--fast"], "--fast", "predictions", "checkpoint, robustness, tune"),
        ([*OFFLINE, "--device", "cpu"], "--device", "predictions", "checkpoint, robustness, tune"),
        ([*OFFLINE, "--sampling", "auto"], "--sampling", "predictions", "checkpoint, robustness, tune"),
        (["--corruptions", "fog", "--report", "r"], "--report", "robustness", "checkpoint, predictions, compare"),
        (["--corruptions", "fog", "--cross-check"], "--cross-check", "robustness", "checkpoint, predictions"),
        (["--corruptions", "fog", "--submission", "a.zip"], "--submission", "robustness", "checkpoint"),
        (["--corruptions", "fog", "--metrics", "all"], "--metrics", "robustness", "checkpoint, predictions"),
        (["tune", "--metrics", "all"], "--metrics", "tune", "checkpoint, predictions"),
        (["compare", "a", "b", "--data", "d"], "--data", "compare", "checkpoint, robustness, tune"),
    ],
)
def test_an_option_of_another_subcommand(
    words: list[str], option: str, command: str, owners: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, *words) == (
        f"Error: {option} is not an option of `panformer evaluate {command}`: leave it out, or use a subcommand that "
        f"has it ({owners}). See `panformer evaluate {command} --help`.\n"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--predictions", "p.json"], "Missing option '--annotations'. See `panformer evaluate predictions --help`."),
        (
            ["--annotations", "g.json", "--predictions"],
            "Option '--predictions' requires an argument: the panoptic JSON",
        ),
        (
            ["r50", *OFFLINE],
            "Unexpected argument 'r50': expected `panformer evaluate predictions [OPTIONS] PRED.json`.",
        ),
        (
            ["r50", "r101"],
            "Unexpected argument 'r101': expected `panformer evaluate checkpoint [OPTIONS] [CHECKPOINT]`.",
        ),
        (["compare", "a", "b", "c"], "Unexpected argument 'c': expected `panformer evaluate compare [OPTIONS] A B`."),
        (["compare", "a"], "Missing argument 'B'"),
        (
            [*OFFLINE, "--metrics", "panoptic,bbox"],
            "unknown 'bbox': expected all or some of panoptic,boundary,semantic (",
        ),
        ([*OFFLINE, "--metrics", "panoptic,bbox"], "(AP needs the instance scores of a model)"),
        ([*OFFLINE, "--metrics", "pq"], "unknown 'pq': expected all or some of panoptic,boundary,semantic. See"),
        ([*OFFLINE, "--bootstrap", "-1"], "-1 is not in the range x>=0"),
        (["r50", "--form", "coco"], "--form needs --submission FILE.zip"),
        (["--report", __file__], "is a file; expected a folder"),
        (["compare", "a", "b", "--seed", "-1"], "-1 is not in the range x>=0"),
        (["compare", "a", "b", "--gt-folder", "g"], "--gt-folder needs --annotations"),
        (["--dta", "d"], "No such option"),
    ],
)
def test_missing_and_unexpected_words(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in error_of(capsys, *words)
