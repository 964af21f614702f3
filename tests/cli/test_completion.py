"""Completion in shells, as docs/command_line.md describes it."""

from __future__ import annotations

import re
import shutil

import pytest

from panformer_cli.cli.groups import COMMANDS
from tests.conftest import REPOSITORY
from tests.helpers import run

PAGE = REPOSITORY / "docs" / "command_line.md"
SHELLS = ("bash", "zsh", "fish")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_printed(shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("needs bash, whose version is checked")
    monkeypatch.setenv("_PANFORMER_COMPLETE", f"{shell}_source")
    assert run() == 0
    out, err = capsys.readouterr()
    assert f"_PANFORMER_COMPLETE={shell}_complete" in out
    assert err == ""


def completed(words: str, index: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> set[str]:
    monkeypatch.setenv("_PANFORMER_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(index))
    run()
    return {line.partition(",")[2] for line in capsys.readouterr().out.splitlines()}


def test_commands_and_options_are_completed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert completed("panformer ", 1, monkeypatch, capsys) == set(COMMANDS)
    assert completed("panformer pre", 1, monkeypatch, capsys) == {"predict", "prepare-data"}
    assert "verify" in completed("panformer prepare-data ve", 2, monkeypatch, capsys)
    assert {"--gpus"} == completed("panformer train r50 --gp", 3, monkeypatch, capsys)
    assert "compare" in completed("panformer evaluate ", 2, monkeypatch, capsys)
    assert completed("panformer evaluate tu", 2, monkeypatch, capsys) == {"tune"}
    assert "triton" in completed("panformer train r50 --sampling tr", 4, monkeypatch, capsys)


def test_the_page_has_a_line_for_each_shell() -> None:
    assert tuple(re.findall(r"_PANFORMER_COMPLETE=(\w+)_source panformer", PAGE.read_text("utf-8"))) == SHELLS
