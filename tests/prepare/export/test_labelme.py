"""Export to labelme's JSON, read back by Pillow and by `prepare-data labelme`."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.prepare.annotation_tools.labelme import open_labelme
from panformer_cli.prepare.export.export import export
from panformer_cli.prepare.export.inputs import open_predictions
from panformer_cli.prepare.export.label_format import LabelReport, ShapeKind
from panformer_cli.prepare.export.labelme import LabelmeFormat
from panformer_cli.reporting import SilentReporter
from tests.prepare.export.labeled import (
    CATEGORIES,
    HEIGHT,
    OPTIONS,
    WIDTH,
    converted_back,
    disc,
    exported,
    filled,
    masks_of,
    truth,
    write_set,
)

KINDS: tuple[ShapeKind, ...] = ("masks", "polygons")


def drawn(shape: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """Return the pixels of a shape; a mask is at the box from its first to its last pixel."""
    if shape["shape_type"] == "polygon":
        assert shape["mask"] is None
        return filled(shape["points"])
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    (left, top), (right, bottom) = shape["points"]
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
        mask[top : bottom + 1, left : right + 1] = np.asarray(image) > 0
    return mask


def objects(content: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield label and mask of each object that is not a crowd."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for number, shape in enumerate(content["shapes"]):
        if not shape["flags"].get("iscrowd"):
            group = f"shape {number}" if shape["group_id"] is None else shape["group_id"]
            groups.setdefault(group, []).append(shape)
    for shapes in groups.values():
        (label,) = {shape["label"] for shape in shapes}
        yield label, np.any([drawn(shape) for shape in shapes], axis=0).tobytes()


@pytest.mark.parametrize("shapes", KINDS)
def test_plain_reading_finds_the_same_segments(tmp_path: Path, shapes: ShapeKind) -> None:
    exported(LabelmeFormat(shapes), tmp_path)
    for number, name in enumerate(("a", "b/c d")):
        path = tmp_path / f"out/val/{name}.json"
        content = json.loads(path.read_text())
        assert (path.parent / content["imagePath"]).is_file()
        assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (HEIGHT, WIDTH, None)
        found = list(objects(content))
        for category in CATEGORIES:
            assert sorted(mask for label, mask in found if label == category["name"]) == truth(category["name"], number)
    names = (tmp_path / "out/labels.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(names) == sorted(category["name"] for category in CATEGORIES)


@pytest.mark.parametrize("shapes", KINDS)
def test_converted_back_it_is_the_same_data_set(tmp_path: Path, shapes: ShapeKind) -> None:
    """With its crowds, which labelme marks with a flag."""
    exported(LabelmeFormat(shapes), tmp_path)
    source = open_labelme(tmp_path / "out", tmp_path / "out/classes.csv", (), "error")
    assert converted_back(source, tmp_path) == masks_of(tmp_path / "in")
    assert CocoPanoptic(tmp_path / "back", "val").categories == CocoPanoptic(tmp_path / "in", "val").categories


def test_only_segments_with_holes_are_masks(tmp_path: Path) -> None:
    report = exported(LabelmeFormat(), tmp_path, names=["a.png"]).report
    assert report.sentences() == ["2 segments with holes written as masks, because polygons in labelme have no holes"]
    assert (report.segments, dict(report.shapes)) == (10, {"mask": 2, "polygon": 10})


def test_simplified_polygons_have_fewer_points_and_their_changes_are_counted() -> None:
    image, exact, fewer = disc(), LabelReport(), LabelReport()
    (outline,) = LabelmeFormat().labels(image, exact)
    (simple,) = LabelmeFormat(tolerance=1.0).labels(image, fewer)
    assert len(simple["points"]) < len(outline["points"]) / 2
    assert {tuple(point) for point in simple["points"]} <= {tuple(point) for point in outline["points"]}
    area = int((image.ids == 1).sum())
    assert exact.changed == 0 < fewer.changed < 0.05 * area
    assert exact.pixels == fewer.pixels == area


def test_masks_do_not_count_as_simplified(tmp_path: Path) -> None:
    assert exported(LabelmeFormat("masks", 3.0), tmp_path / "masks").report.changed == 0
    ring = disc(hole=5)
    report = LabelReport()
    (shape,) = LabelmeFormat(tolerance=3.0).labels(ring, report)
    assert (shape["shape_type"], report.changed) == ("mask", 0)


def test_predictions_have_scores(tmp_path: Path) -> None:
    source = open_predictions(write_set(tmp_path / "in", score=0.5), tmp_path / "in/images/val")
    export(source, LabelmeFormat(), tmp_path / "out", OPTIONS, SilentReporter())
    shapes = json.loads((tmp_path / "out/train/a.json").read_text())["shapes"]
    assert {shape["score"] for shape in shapes} == {round(0.5 + index / 100, 2) for index in range(10)}
