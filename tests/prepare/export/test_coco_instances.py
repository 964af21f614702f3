"""Export to COCO detection JSON, read back by pycocotools and by `prepare-data coco-instances`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.prepare.export.coco_instances import CocoInstancesFormat
from panformer_cli.prepare.export.export import export
from panformer_cli.prepare.export.inputs import open_predictions
from panformer_cli.prepare.export.label_format import ShapeKind
from panformer_cli.prepare.masks.coco_instances import open_coco_instances
from panformer_cli.reporting import SilentReporter
from tests.prepare.export.labeled import (
    CATEGORIES,
    NO,
    OPTIONS,
    converted_back,
    exported,
    hard_map,
    masks_of,
    truth,
    write_set,
)

KINDS: tuple[ShapeKind, ...] = ("masks", "polygons")


@pytest.mark.parametrize("shapes", KINDS)
def test_pycocotools_finds_the_same_segments(tmp_path: Path, shapes: ShapeKind) -> None:
    exported(CocoInstancesFormat(shapes), tmp_path)
    coco = COCO(tmp_path / "out/annotations/instances_val.json")
    assert {row["id"]: (row["name"], row["isthing"]) for row in coco.loadCats(coco.getCatIds())} == {
        row["id"]: (row["name"], row["isthing"]) for row in CATEGORIES
    }
    assert {row["id"]: row["file_name"] for row in coco.loadImgs(coco.getImgIds())} == {101: "a.png", 102: "b/c d.png"}
    for number, image_id in enumerate((101, 102)):
        rows = coco.loadAnns(coco.getAnnIds(imgIds=[image_id], iscrowd=False))
        for category in CATEGORIES:
            found = [coco.annToMask(row) for row in rows if row["category_id"] == category["id"]]
            assert sorted(mask.tobytes() for mask in found) == truth(category["name"], number)
        for row in rows:
            ys, xs = np.nonzero(coco.annToMask(row))
            assert row["area"] == len(ys)
            assert row["bbox"] == [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]


def test_crowds_are_run_lengths_with_the_flag(tmp_path: Path) -> None:
    exported(CocoInstancesFormat("polygons"), tmp_path)
    coco = COCO(tmp_path / "out/annotations/instances_val.json")
    (row,) = coco.loadAnns(coco.getAnnIds(imgIds=[101], iscrowd=True))
    assert isinstance(row["segmentation"], dict)
    assert np.array_equal(coco.annToMask(row), hard_map()[0] == 40)


@pytest.mark.parametrize("shapes", KINDS)
def test_converted_back_it_is_the_same_data_set(tmp_path: Path, shapes: ShapeKind) -> None:
    exported(CocoInstancesFormat(shapes), tmp_path)
    source = open_coco_instances(tmp_path / "out", classes=tmp_path / "out/classes.csv")
    assert converted_back(source, tmp_path) == masks_of(tmp_path / "in")
    before, after = CocoPanoptic(tmp_path / "in", "val"), CocoPanoptic(tmp_path / "back", "val")
    assert after.categories == before.categories
    assert [after.image_info(index).id for index in range(2)] == [101, 102]


def test_segments_with_holes_are_counted(tmp_path: Path) -> None:
    report = exported(CocoInstancesFormat("polygons"), tmp_path).report
    # In each image: the stuff around everything, and the object with a hole.
    assert report.sentences() == [
        "4 segments with holes written as polygons in which a line without width leads to each hole and back"
    ]
    assert report.segments == 20
    assert report.shapes["mask"] == 2


def test_scores_of_predictions_are_kept(tmp_path: Path) -> None:
    predictions = write_set(tmp_path / "in", score=0.5)
    source = open_predictions(predictions, tmp_path / "in/images/val", split="mine", min_score=0.54)
    export(source, CocoInstancesFormat(), tmp_path / "out", OPTIONS, SilentReporter())
    rows = json.loads((tmp_path / "out/annotations/instances_mine.json").read_text())["annotations"]
    assert sorted(row["score"] for row in rows if row["image_id"] == 101) == [0.54, 0.55, 0.56, 0.57, 0.58, 0.59]
    assert NO not in {row["category_id"] for row in rows}
