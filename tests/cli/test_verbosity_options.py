"""`--quiet`, `--verbose` and `--log-file` of every command."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from panformer_cli.cli.groups import LazyGroup
from panformer_cli.cli.verbosity_options import with_verbosity
from panformer_cli.console import RichReporter, print_table
from panformer_cli.errors import PanformerError
from panformer_cli.verbosity import current
from tests.helpers import run
from tests.test_log_file import lines_of


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Return a function that lets `panformer train` call a function."""

    def use(function: Callable[[], object]) -> None:
        made = with_verbosity(click.Command("train", callback=function))
        monkeypatch.setattr(LazyGroup, "get_command", lambda *_: made)

    return use


def work() -> None:
    """Print one line of every kind."""
    reporter = RichReporter()
    reporter.message("a message")
    reporter.warn("a warning")
    with reporter.progress("work", 3) as progress:
        progress.advance(3)
    logging.getLogger("panformer_cli.engine").debug("a detail")
    logging.getLogger("another_library").debug("too much")
    logging.getLogger("another_library").warning("careful")
    warnings.warn("outdated", DeprecationWarning, stacklevel=1)
    print_table("Results", ("PQ",), [(49.6,)])
    click.echo("the result")


@pytest.mark.filterwarnings("ignore:outdated")
def test_quiet_leaves_warnings_and_results(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "lastResort", None)  # Python's own; not ours to silence
    command(work)
    assert run("train", "-q") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "the result"
    assert [line for line in err.splitlines() if line] == ["Warning: a warning"]
    assert run("train") == 0
    assert "a message" in capsys.readouterr().err, "the next command is not quiet"


def test_quiet_leaves_errors(command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise PanformerError("no such file")

    command(fail)
    assert run("train", "--quiet") == 2
    assert capsys.readouterr() == ("", "Error: no such file\n")


def test_verbose_adds_details_with_times_and_hidden_warnings(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(work)
    assert run("train", "--verbose") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "the result"
    lines = err.splitlines()
    assert any(line.endswith(" s] a detail") for line in lines)
    assert any(line.endswith("Command: panformer train --verbose") for line in lines)
    assert any(" s] work: 3 of 3, " in line for line in lines)
    assert any("DeprecationWarning: outdated" in line for line in lines)
    assert any(line.endswith("another_library: careful") for line in lines)
    assert "too much" not in err


def test_the_log_file_has_everything_that_verbose_prints(
    command: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(work)
    log = tmp_path / "log.txt"
    assert run("train", "-q", "--log-file", str(log)) == 0
    lines = lines_of(log)
    for line in (
        ("INFO", "a message"),
        ("WARNING", "a warning"),
        ("DEBUG", "a detail"),
        ("WARNING", "another_library: careful"),
        ("RESULT", "the result"),
    ):
        assert line in lines
    assert any(text.startswith("work: 100 %, 3/3") for _, text in lines)
    assert any("DeprecationWarning: outdated" in text for _, text in lines)
    assert any(text.split() == ["49.6"] for _, text in lines)
    assert lines[-1][1].startswith("Exit code 0 after ")
    out, err = capsys.readouterr()
    assert "the result" in out
    assert "outdated" not in err
    assert "a detail" not in err


def test_errors_and_tracebacks_are_logged(command: Callable[..., None], tmp_path: Path) -> None:
    def fail() -> None:
        raise PanformerError("no such file")

    command(fail)
    run("train", "--log-file", str(tmp_path / "log.txt"))
    assert ("ERROR", "no such file") in lines_of(tmp_path / "log.txt")

    def break_down() -> None:
        raise ZeroDivisionError("a bug")

    command(break_down)
    with pytest.raises(ZeroDivisionError):
        run("train", "--log-file", str(tmp_path / "bug.txt"))
    assert ("ERROR", "ZeroDivisionError: a bug") in lines_of(tmp_path / "bug.txt")


def test_everything_is_restored_afterwards(command: Callable[..., None], tmp_path: Path) -> None:
    def state() -> tuple[object, ...]:
        root, own = logging.getLogger(), logging.getLogger("panformer_cli")
        return sys.stdout, list(root.handlers), own.level, list(warnings.filters), warnings.showwarning, current()

    command(work)
    before = state()
    run("train", "-v", "--log-file", str(tmp_path / "log.txt"))
    assert state() == before


def test_quiet_and_verbose_contradict_each_other(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(work)
    assert run("train", "-q", "-v") == 2
    assert capsys.readouterr().err == "Error: --quiet and --verbose cannot be used together: use one of them\n"


def test_a_log_file_that_cannot_be_written(
    command: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(work)
    (tmp_path / "file").touch()
    assert run("train", "--log-file", str(tmp_path / "file" / "log")) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert run("train", "--log-file", str(tmp_path)) == 2
    assert "is a directory" in capsys.readouterr().err


def test_a_result_of_a_command_is_the_same_with_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    run("recipes", "list")
    usual = capsys.readouterr().out
    run("recipes", "list", "--quiet")
    assert capsys.readouterr().out == usual


@pytest.mark.slow
def test_every_process_of_a_command_writes_to_the_log(tmp_path: Path) -> None:
    import subprocess

    from tests.conftest import REPOSITORY

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    command = [sys.executable, "-m", "panformer_cli", "evaluate", "no-such.safetensors", "--cpu-processes", "2"]
    done = subprocess.run(
        [*command, "--log-file", str(tmp_path / "log.txt"), "-q"], cwd=REPOSITORY, capture_output=True
    )
    assert done.returncode == 2
    texts = [text for _, text in lines_of(tmp_path / "log.txt")]
    assert any(text.startswith("rank 0 of 2 on cpu") for text in texts)
    assert any(text.startswith("rank 1 of 2 on cpu") for text in texts)
    assert sum("no-such.safetensors: no such file" in text for text in texts) == 1
