"""Results as objects of other packages."""

from __future__ import annotations

import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panformer_cli.api.model import Model, load
from panformer_cli.api.result import Result
from panformer_cli.errors import PanformerError
from tests.color_family import street


def needs(package: str) -> pytest.MarkDecorator:
    reason = f"needs {package}: pip install 'panformer[{package}]'"
    return pytest.mark.skipif(find_spec(package) is None, reason=reason)


@pytest.fixture
def nothing(run: Path) -> Result:
    """Return a result without a segment."""
    return load(run, device="cpu", inference={"min_score": 2.0})(street())


@needs("pandas")
@pytest.mark.slow
def test_a_table_has_a_row_for_each_segment(result: Result, nothing: Result) -> None:
    table = result.to_df()
    assert list(table.columns) == [
        *("source", "id", "name", "category_id", "is_thing", "score", "area", "x1", "y1", "x2", "y2")
    ]
    assert table["name"].tolist() == ["red", "sky"]
    assert table[["area", "x1", "y1", "x2", "y2"]].values.tolist() == [[768, 16, 24, 48, 48], [2304, 0, 0, 64, 48]]
    assert table["source"].tolist() == [result.source] * 2
    assert table["is_thing"].tolist() == [True, False]
    assert nothing.to_df().shape == (0, 11)


@needs("supervision")
@pytest.mark.slow
def test_supervision_draws_and_filters_the_segments(result: Result, nothing: Result) -> None:
    import supervision

    found = result.to_supervision()
    assert found.xyxy.tolist() == [[16, 24, 48, 48], [0, 0, 64, 48]]
    assert [(mask.sum(), name) for mask, name in zip(found.mask, found.data["class_name"], strict=True)] == [
        (768, "red"),
        (2304, "sky"),
    ]
    assert found.class_id.tolist() == [1, 5]
    assert found.area.tolist() == [768, 2304]
    assert found[found.data["is_thing"]].class_id.tolist() == [1]
    assert len(result.to_supervision(things_only=True)) == 1
    drawn = supervision.MaskAnnotator().annotate(result.image[..., ::-1].copy(), found)
    assert drawn.shape == result.image.shape
    assert len(nothing.to_supervision()) == 0
    assert supervision.Detections.merge([found, found]).mask.shape == (4, 48, 64)


class Recorded:
    """A fiftyone label: it keeps what it is made with, as fiftyone's do."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


@pytest.fixture
def fiftyone(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("Detection", "Detections", "Segmentation", "Sample")
    module = types.SimpleNamespace(**{name: type(name, (Recorded,), {}) for name in names})
    monkeypatch.setitem(sys.modules, "fiftyone", module)


def test_a_sample_of_fiftyone_has_its_form(result: Result, photo: Path, fiftyone: None) -> None:
    """fiftyone is heavy: its documented form is checked. Boxes are relative; a mask has the pixels of its box."""
    sample = result.to_fiftyone()
    assert sample.filepath == str(photo)
    red, sky = sample.segments.detections
    assert (red.label, red.bounding_box) == ("red", [16 / 64, 24 / 48, 32 / 64, 24 / 48])
    assert red.mask.shape == (24, 32) and red.mask.dtype == bool and red.mask.all()
    assert red.confidence == pytest.approx(210 / 255, abs=1e-5) and red.is_thing and not sky.is_thing
    assert sky.mask.sum() == 2304
    assert np.array_equal(sample.semantic.mask, result.semantic())


def test_an_image_in_memory_needs_a_file_for_fiftyone(model: Model, photo: Path, fiftyone: None) -> None:
    result = model(street())
    with pytest.raises(PanformerError, match="an image in memory is none; write it to a file"):
        result.to_fiftyone()
    assert result.to_fiftyone(photo).filepath == str(photo)


@pytest.mark.parametrize("package", ["pandas", "supervision", "fiftyone"])
def test_a_missing_package_is_named_with_its_command(
    result: Result, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # the import fails
    convert = {"pandas": "to_df"}.get(package, f"to_{package}")
    with pytest.raises(PanformerError, match=rf"needs the package {package}.*pip install 'panformer\[{package}\]'"):
        getattr(result, convert)()
