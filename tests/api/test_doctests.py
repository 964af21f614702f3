"""The examples in the docstrings of the Python interface do what they show."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from tests.color_family import street
from tests.conftest import REPOSITORY

MODULES = sorted(path.stem for path in (REPOSITORY / "panformer_cli" / "api").glob("[!_]*.py"))

WITH_EXAMPLES = {"arrays", "model", "options", "preparation", "result"}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They use the folder `runs/colors` and the file `street.png`."""
    assert run == tmp_path / "runs" / "colors"
    Image.fromarray(street()).save(tmp_path / "street.png")
    monkeypatch.chdir(tmp_path)
    module = import_module(f"panformer_cli.api.{name}")
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0
    assert results.attempted > 0 or name not in WITH_EXAMPLES
