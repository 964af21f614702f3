"""The line that a command prints before it imports large packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from panformer_cli.cli import loading
from panformer_cli.cli.loading import TorchAnnouncer, announce_model
from panformer_cli.verbosity import configure, restored
from tests.cli.test_every_command import all_commands
from tests.conftest import REPOSITORY


def stderr_of(*words: str) -> str:
    command = [sys.executable, "-m", "panformer_cli", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False).stderr


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was announced yet."""
    monkeypatch.setattr(sys, "meta_path", [TorchAnnouncer(), *sys.meta_path])


def announced(name: str, capsys: pytest.CaptureFixture[str], **parameters: object) -> str:
    context = click.Context(click.Command(name))
    context.params = parameters
    announce_model(context)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("predict", {"checkpoint": Path("swinl")}, "swinl"),
        ("checkpoint", {"checkpoint": Path("runs/a/best.safetensors")}, "runs/a/best.safetensors"),
        ("train", {"recipe": "tiny", "resume": False, "init_from": None}, "tiny"),
        ("train", {"recipe": "r50", "resume": False, "init_from": Path("r50.pth")}, "r50.pth"),
        ("train", {"recipe": None, "resume": "runs/a"}, "runs/a"),
        ("train", {"recipe": "r50", "resume": True}, "r50"),
        ("benchmark", {"model": "tiny"}, "tiny"),
        ("import", {"file": Path("r50")}, "r50"),
        ("visualize", {"data": Path("data/coco"), "predictions": None}, "data/coco"),
    ],
)
def test_the_line_names_what_is_loaded(
    name: str, parameters: dict[str, object], expected: str, waiting: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert announced(name, capsys, **parameters) == f"Loading {expected} ...\n"
    assert announced(name, capsys, **parameters) == "", "it is printed once"


@pytest.mark.parametrize("name", ["show", "list"])
def test_commands_that_load_no_model_print_no_line(
    name: str, waiting: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert announced(name, capsys, recipe="r50") == ""


def test_without_a_checkpoint_the_newest_run_is_named(
    waiting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    best = Path("runs/tiny/a/best.safetensors")
    best.parent.mkdir(parents=True)
    best.touch()
    assert announced("checkpoint", capsys, checkpoint=None) == f"Loading {best} (newest run) ...\n"


@pytest.mark.parametrize(("name", "expected"), [("predict", "r50"), ("checkpoint", "PyTorch")])
def test_without_a_run_the_default_is_named(
    name: str,
    expected: str,
    waiting: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert announced(name, capsys, checkpoint=None) == f"Loading {expected} ...\n"


def test_a_quiet_command_prints_no_line(waiting: None, capsys: pytest.CaptureFixture[str]) -> None:
    with restored():
        configure(quiet=True)
        assert announced("predict", capsys, checkpoint=Path("r50")) == ""
        assert TorchAnnouncer().find_spec("torch", None) is None
    assert capsys.readouterr().err == ""


def test_every_command_in_the_table_exists() -> None:
    known = {name.split()[-1]: {p.name for p in command.params} for name, command in all_commands()}
    for name, parameters in loading._MODELS.items():
        assert set(parameters) <= known[name]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs wait4")
def test_the_first_line_takes_less_than_half_a_second_of_processor_time(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "panformer_cli", "predict", "a.jpg", "--out", str(tmp_path / "out")]
    seconds = []
    for _ in range(2):
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        with process.stderr:
            assert process.stderr.readline().startswith("Loading ")
            process.kill()
            _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        seconds.append(usage.ru_utime + usage.ru_stime)
    assert min(seconds) < 0.5


@pytest.mark.slow
def test_the_first_line_of_a_command_that_needs_pytorch() -> None:
    first, *rest = stderr_of("predict", "no-such-image.jpg", "--out", "nowhere", "--checkpoint", "r101").splitlines()
    assert first == "Loading r101 ..."
    assert not [line for line in rest if line.startswith("Loading")]
    assert rest[-1].startswith("Error: ")


@pytest.mark.slow
def test_commands_without_pytorch_print_no_such_line() -> None:
    assert stderr_of("--version") == ""
    assert stderr_of("predict", "--help") == ""
    assert "Loading" not in stderr_of("prepare-data", "verify", "no-such-folder")
