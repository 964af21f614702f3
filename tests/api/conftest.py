"""A model whose answer is an exact function of the pixels, and the import name `panformer` of this checkout."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from panformer_cli.api.model import Model, load
from panformer_cli.api.result import Result
from panformer_cli.models.families import FAMILIES
from tests.color_family import FAMILY, ColorFamily, color_checkpoint, street


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


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Return the path of an image of `street`."""
    path = tmp_path / "street.png"
    Image.fromarray(street()).save(path)
    return path


@pytest.fixture
def result(model: Model, photo: Path) -> Result:
    return model(photo)
