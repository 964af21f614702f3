"""A model whose answer is an exact function of the pixels, and the import name `panformer` of this checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from panformer_cli.api.model import Model, load
from panformer_cli.models.families import FAMILIES
from tests.color_family import FAMILY, ColorFamily, color_checkpoint


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the family of the model."""
    monkeypatch.setitem(FAMILIES, FAMILY, ColorFamily())


@pytest.fixture
def run(tmp_path: Path, family: None) -> Path:
    """Return the folder of a run with the model."""
    return color_checkpoint(tmp_path / "runs" / "colors" / "model.safetensors").parent


@pytest.fixture
def model(run: Path) -> Model:
    return load(run, device="cpu")
