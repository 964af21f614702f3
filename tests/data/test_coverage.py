"""The rule for splits without segments and splits of void."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coverage import Coverage
from tests.data.coco.coco_files import colors, write_coco


@pytest.mark.parametrize(
    ("coverage", "expected"),
    [
        (Coverage(4, 0, 100, 100), "val: none of the 4 images has a segment, so "),
        (Coverage(1, 0, 100, 100), "val: the image has no segment, so "),
        (Coverage(4, 0), "val: none of the 4 images has a segment, so "),
        (Coverage(4, 9, 1000, 501), "val: 50.1 % of all pixels are void; predictions there do not count"),
        (Coverage(99, 9, 1000, 600, 1), "val: 60.0 % of all pixels are void, estimated from 1 image; "),
        (Coverage(4, 9, 1000, 500), None),
        (Coverage(4, 9), None),
        (Coverage(0, 0), None),
    ],
)
def test_the_rule(coverage: Coverage, expected: str | None) -> None:
    problem = coverage.problem("val")
    assert problem is None if expected is None else problem is not None and problem.startswith(expected)


def annotated(root: Path, change: Any = None) -> Coverage:
    """Return the coverage of three images of 60 x 40 pixels, of which 1200 are in the upper half and 50 are a ball."""
    path = write_coco(root)
    content = json.loads(path.read_text())
    for image, row in zip(content["images"], content["annotations"], strict=True):
        if change is not None:
            change(image, row["segments_info"])
    path.write_text(json.dumps(content))
    return CocoPanoptic(root, "val").coverage()


def test_listed_areas_and_sizes_are_used(tmp_path: Path) -> None:
    assert annotated(tmp_path) == Coverage(3, 9, 3 * 2400, 3 * 1150)


@pytest.mark.parametrize(
    "change",
    [
        lambda image, segments: [segment.pop("area") for segment in segments],
        lambda image, segments: segments[0].pop("area"),
        lambda image, segments: [segment.update(area=0) for segment in segments],
        lambda image, segments: segments[0].update(area=0),
        lambda image, segments: segments[0].update(area=2401),
        lambda image, segments: segments[0].update(area=10**9),
        lambda image, segments: image.pop("height"),
        lambda image, segments: image.pop("width"),
    ],
)
def test_otherwise_pngs_are_measured(tmp_path: Path, change: Any) -> None:
    assert annotated(tmp_path, change) == Coverage(3, 9, 3 * 2400, 3 * 1150, 3)


def test_few_pngs_of_many_are_measured_and_missing_ones_ignored(tmp_path: Path) -> None:
    path = write_coco(tmp_path, images=1)
    content = json.loads(path.read_text())
    image, row = content["images"][0], content["annotations"][0]
    for segment in row["segments_info"]:
        del segment["area"]
    content["images"] = [{**image, "id": number} for number in range(100)]
    content["annotations"] = [{**row, "image_id": number} for number in range(100)]
    content["annotations"][0]["file_name"] = "missing.png"
    path.write_text(json.dumps(content))
    assert CocoPanoptic(tmp_path, "val").coverage() == Coverage(100, 300, 31 * 2400, 31 * 1150, 31)


def test_a_split_without_segments(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        row["segments_info"] = []
        Image.fromarray(colors(np.zeros((40, 60), np.int32))).save(path.with_suffix("") / row["file_name"])
    path.write_text(json.dumps(content))
    coverage = CocoPanoptic(tmp_path, "val").coverage()
    assert (coverage.images, coverage.segments, coverage.is_empty) == (3, 0, True)
