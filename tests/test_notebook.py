"""The notebook of the documentation runs: its code cells in order, in one namespace, as in Jupyter but without it."""

from __future__ import annotations

import ast
import json
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

NOTEBOOK = REPOSITORY / "docs" / "notebooks" / "python.ipynb"
CONTENT: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
SMALLER = "TRAIN_IMAGES, VAL_IMAGES = 4, 2\nSTEPS = 2"
"""Instead of the cell with the tag `parameters`."""


def test_it_has_the_form_of_a_notebook() -> None:
    """Of version 4.5: every cell has an id of its own, and no output, which would be out of date."""
    assert (CONTENT["nbformat"], CONTENT["nbformat_minor"]) == (4, 5)
    assert CONTENT["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in CONTENT["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in CONTENT["cells"]:
        assert cell["cell_type"] in ("code", "markdown")
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            ast.parse("".join(cell["source"]))


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell and return the value of its last line, which Jupyter would show; None if it is a statement."""
    tree = ast.parse(source)
    last = tree.body.pop()
    if not isinstance(last, ast.Expr):
        return exec(compile(source, "cell", "exec"), names)
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


class Table:
    """A table in the place of pandas, which need not be installed for this test."""

    def __init__(self, rows: list[Any], columns: list[str]) -> None:
        self.rows, self.columns = rows, columns


@pytest.mark.slow
def test_its_cells_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pandas = types.ModuleType("pandas")
    pandas.__spec__ = ModuleSpec("pandas", None)  # other packages look whether it is installed
    pandas.DataFrame = Table  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    names: dict[str, Any] = {}
    shown: dict[str, Any] = {}
    for cell in CONTENT["cells"]:
        if cell["cell_type"] == "code":
            is_parameters = "parameters" in cell["metadata"].get("tags", ())
            shown[cell["id"]] = run_cell(SMALLER if is_parameters else "".join(cell["source"]), names)
    assert shown["train"].finished and shown["train"].total_steps == 2
    assert shown["bgr"] is True
    assert shown["predict"]._repr_png_().startswith(b"\x89PNG")
    assert len(shown["table"].rows) == len(names["result"])
    assert all(path.is_file() for path in shown["save"]) and len(shown["save"]) >= 3
