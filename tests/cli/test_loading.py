"""The line that is printed before PyTorch is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


def stderr_of(*words: str) -> str:
    command = [sys.executable, "-m", "panformer_cli", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False).stderr


@pytest.mark.slow
def test_the_first_line_of_a_command_that_needs_pytorch() -> None:
    first, *rest = stderr_of("predict", "no-such-image.jpg", "--out", "nowhere").splitlines()
    assert first == "Loading PyTorch ..."
    assert "Loading PyTorch ..." not in rest
    assert rest[-1].startswith("Error: ")


@pytest.mark.slow
def test_commands_without_pytorch_print_no_such_line() -> None:
    assert stderr_of("--version") == ""
    assert stderr_of("predict", "--help") == ""
    assert "Loading" not in stderr_of("prepare-data", "verify", "no-such-folder")
