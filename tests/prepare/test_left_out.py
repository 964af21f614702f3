"""Single annotations that are left out: for each source that has them, without and with `--skip-bad-annotations`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.left_out import AnnotationError, AnnotationLog, NoAreaError, without_small_segments
from panformer_cli.prepare.source import LabeledMap
from tests.cli import prepare_folders
from tests.cli.prepare_folders import edited, label, replaced
from tests.helpers import run

INSTANCES = "annotations/instances_val.json"
LINE = {"label": "car", "points": [[1, 1], [9, 9]], "shape_type": "line"}
TWO_POINTS = {"label": "car", "points": [[1, 1], [9, 9]], "shape_type": "polygon"}
TRIANGLE = [1, 1, 5, 1, 1, 5]


def added(name: str, key: str, row: dict[str, Any]) -> Callable[[Path], None]:
    return edited(name, lambda content: content[key].append(row))


def row(**more: Any) -> dict[str, Any]:
    """An annotation of the first image."""
    return {"id": 9, "image_id": 1, "category_id": 3, "segmentation": [TRIANGLE]} | more


def without_segmentation(**more: Any) -> dict[str, Any]:
    return {key: value for key, value in row(**more).items() if key != "segmentation"}


def xml(shape: str) -> Callable[[Path], None]:
    return replaced("annotations.xml", "</image>", f"{shape}</image>")


def line_of_text(words: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / "labels/train/a.txt"
        path.write_text(f"{path.read_text()}{words}\n")

    return damage


BAD = {
    "labelme: two points": ("labelme", added("a.json", "shapes", TWO_POINTS), "polygon of fewer than 3 points"),
    "labelme: text": ("labelme", added("a.json", "shapes", TWO_POINTS | {"points": "left"}), "invalid coordinates"),
    "labelme: outside": (
        "labelme",
        added("a.json", "shapes", TWO_POINTS | {"points": [[90, 1], [91, 1], [91, 2]]}),
        "outside of the image",
    ),
    "coco: empty": (
        "coco_instances",
        added(INSTANCES, "annotations", row(segmentation=[])),
        "bounding box without an outline",
    ),
    "coco: two points": (
        "coco_instances",
        added(INSTANCES, "annotations", row(segmentation=[[1, 1, 5, 5]])),
        "polygon of fewer than 3 points",
    ),
    "coco: box": (
        "coco_instances",
        added(INSTANCES, "annotations", without_segmentation(bbox=[1, 1, 4, 4])),
        "bounding box without an outline",
    ),
    "coco: category": (
        "coco_instances",
        added(INSTANCES, "annotations", row(category_id=8)),
        "unknown class",
    ),
    "coco: no category": (
        "coco_instances",
        added(INSTANCES, "annotations", {"id": 9, "image_id": 1, "segmentation": [TRIANGLE]}),
        "unknown class",
    ),
    "coco: NaN": (
        "coco_instances",
        added(INSTANCES, "annotations", row(segmentation=[[float("nan"), *TRIANGLE[1:]]])),
        "invalid coordinates",
    ),
    "coco: size of RLE": (
        "coco_instances",
        added(INSTANCES, "annotations", row(segmentation={"size": [16, 12], "counts": [192]})),
        "invalid run lengths",
    ),
    "cvat: two points": (
        "cvat",
        xml('<polygon label="car" points="1,1;2,2"/>'),
        "polygon of fewer than 3 points",
    ),
    "cvat: label": ("cvat", xml('<polygon label="bus" points="1,1;5,1;1,5"/>'), "unknown class"),
    "cvat: text": ("cvat", xml('<polygon label="car" points="left"/>'), "another problem"),
    "yolo: box": ("yolo", line_of_text("0 0.5 0.5 0.1 0.1"), "bounding box without an outline"),
    "yolo: class": ("yolo", line_of_text("7 0.1 0.1 0.5 0.1 0.1 0.5"), "unknown class"),
    "masks: class": ("masks", lambda root: label(root / "masks/a/bus.png", np.ones((12, 16))), "unknown class"),
}

WITHOUT_AREA = {
    "labelme: line": ("labelme", added("a.json", "shapes", LINE)),
    "labelme: point": ("labelme", added("a.json", "shapes", LINE | {"points": [[1, 1]], "shape_type": "point"})),
    "labelme: linestrip": ("labelme", added("a.json", "shapes", LINE | {"shape_type": "linestrip"})),
    "coco: key points": (
        "coco_instances",
        added(INSTANCES, "annotations", without_segmentation(keypoints=[1, 1, 2])),
    ),
    "coco: empty and key points": (
        "coco_instances",
        added(INSTANCES, "annotations", row(segmentation=[], keypoints=[1, 1, 2])),
    ),
    "coco: part of two points": (
        "coco_instances",
        edited(INSTANCES, lambda content: content["annotations"][0]["segmentation"].append([1, 1, 5, 5])),
    ),
    "cvat: polyline": ("cvat", xml('<polyline label="car" points="1,1;2,2"/>')),
    "cvat: points": ("cvat", xml('<points label="car" points="1,1"/>')),
    "cvat: skeleton": ("cvat", xml('<skeleton label="car"><points label="nose" points="1,1"/></skeleton>')),
}


def made(tmp_path: Path, source: str, damage: Callable[[Path], Any]) -> Callable[..., int]:
    """Write a data set with a problem, and return a function that converts it with options."""
    root = tmp_path / "data"
    arguments = getattr(prepare_folders, source)(root)
    damage(root)
    folders = ("--root", str(root), "--out", str(tmp_path / "out"), "--workers", "1")
    return lambda *options: run("prepare-data", *arguments, *folders, *options)


def segments(out: Path) -> list[int]:
    """Return the number of segments of each image."""
    (path,) = (out / "annotations").glob("panoptic_*.json")
    data = CocoPanoptic(out, path.stem.removeprefix("panoptic_"))
    return [len(data.annotation(index).segments) for index in range(len(data))]


def left_out(out: Path) -> dict[str, int]:
    (summary,) = json.loads((out / "summary.json").read_text()).values()
    assert all(0 < len(group["first"]) <= group["count"] for group in summary["annotations_left_out"])
    return {group["reason"]: group["count"] for group in summary["annotations_left_out"]}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_annotation_costs_its_image_only_without_the_option(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, damage, reason = BAD[name]
    convert = made(tmp_path, source, damage)
    assert convert() == 2
    error = capsys.readouterr().err
    assert "1 of 2 images cannot be used" in error and "--skip-bad-annotations" in error
    assert convert("--skip-bad-annotations") == 0
    assert segments(tmp_path / "out") == ([2, 2] if source == "masks" else [1, 1])
    assert left_out(tmp_path / "out") == {reason: 1}
    assert re.search(f"1 annotation left out(.|\n)*1 +{reason}", capsys.readouterr().out)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert [record["setting"]["skip_bad_annotations"] for record in manifest.values()] == [True]
    assert reason in (tmp_path / "out/summary.html").read_text()


@pytest.mark.parametrize("name", WITHOUT_AREA)
def test_lines_and_points_are_left_out_and_counted(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, damage = WITHOUT_AREA[name]
    assert made(tmp_path, source, damage)() == 0
    assert segments(tmp_path / "out") == [1, 1]
    ((reason, count),) = left_out(tmp_path / "out").items()
    assert reason.endswith("without area") and count == 1
    assert "1 annotation left out" in capsys.readouterr().out


def test_a_set_without_any_usable_annotation_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = edited(INSTANCES, lambda content: [row.pop("segmentation") for row in content["annotations"]])
    assert made(tmp_path, "coco_instances", boxes)("--skip-bad-annotations") == 2
    error = capsys.readouterr().err
    assert "none of the annotations can be used" in error and "2 x bounding box without an outline" in error
    assert not (tmp_path / "out/annotations/panoptic_val.json").exists()


def test_small_segments_become_void(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speck = added("a.json", "shapes", TWO_POINTS | {"points": [[1, 1], [4, 1], [4, 4], [1, 4]]})
    convert = made(tmp_path, "labelme", speck)
    assert convert("--drop-small", "10") == 0
    assert segments(tmp_path / "out") == [1, 1]
    assert left_out(tmp_path / "out") == {"area below 10 pixels": 1}
    assert "a segment of category 1 has an area of 9 pixels" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/manifest.json").read_text())["train"]["setting"]["drop_small"] == 10
    assert convert("--drop-small", "9") == 2  # the folder has another result


def test_the_map_without_small_segments() -> None:
    ids = np.array([[1, 1, 2], [1, 0, 3]], np.int32)
    log = AnnotationLog()
    kept = without_small_segments(PanopticMap(ids, segments_of(ids, {1: 4, 2: 4, 3: 9})), 2, "a.jpg", log)
    assert kept.ids.tolist() == [[1, 1, 0], [1, 0, 0]] and [segment.id for segment in kept.segments] == [1]
    assert [reason for reason, _ in log.left_out] == ["area below 2 pixels"] * 2
    assert ids.tolist() == [[1, 1, 2], [1, 0, 3]]


def test_counts_of_labels_are_kept_without_small_segments() -> None:
    ids = np.array([[1, 1, 2]], np.int32)
    labeled = LabeledMap(ids, segments_of(ids, {1: 4, 2: 4}), {"255": 7}, {"0": 3})
    kept = without_small_segments(labeled, 2, "a.png", AnnotationLog())
    assert isinstance(kept, LabeledMap) and (kept.void_values, kept.marks) == ({"255": 7}, {"0": 3})


def test_finished_images_are_kept_when_annotations_may_be_skipped(tmp_path: Path) -> None:
    convert = made(tmp_path, "labelme", added("b.json", "shapes", TWO_POINTS))
    assert convert() == 2
    png = tmp_path / "out/annotations/panoptic_train/a.png"
    before = png.stat().st_mtime_ns
    assert convert("--skip-bad-annotations") == 0
    assert png.stat().st_mtime_ns == before


def test_annotations_left_out_by_an_interrupted_run_are_read_again(tmp_path: Path) -> None:
    """Without the option, the image whose bad annotation was left out is bad again."""

    def damage(root: Path) -> None:
        added("a.json", "shapes", TWO_POINTS)(root)
        (root / "b.jpg").write_bytes(b"")

    convert = made(tmp_path, "labelme", damage)
    assert convert("--skip-bad-annotations") == 2
    assert convert("--skip-bad-images") == 2  # both images are bad
    assert convert("--skip-bad-images", "--skip-bad-annotations") == 0
    assert segments(tmp_path / "out") == [1]


def test_an_error_about_the_whole_image_is_not_skipped(tmp_path: Path) -> None:
    size = edited("a.json", lambda content: content.update(imageWidth=99))
    assert made(tmp_path, "labelme", size)("--skip-bad-annotations") == 2


def test_the_log_keeps_errors_without_the_option() -> None:
    log = AnnotationLog()

    def read(error: AnnotationError) -> None:
        with log.annotation():
            raise error

    expected = "a.json is bad; or leave such annotations out with --skip-bad-annotations"
    with pytest.raises(DataError, match=expected):
        read(AnnotationError("a.json is bad"))
    read(NoAreaError("a line"))
    assert dict(log.left_out) == {"line or points, without area": "a line"}


@pytest.mark.parametrize("kind", ["no_key", "two_point_part", "empty"])
def test_collected_cases(shared: Path, tmp_path: Path, kind: str) -> None:
    root, out = shared / "cases/coco-one-bad-annotation" / kind, tmp_path / "out"
    arguments = ["prepare-data", "coco-instances", "--root", str(root), "--out", str(out), "--workers", "1"]
    if kind != "two_point_part":
        assert run(*arguments) == 2
    assert run(*arguments, "--skip-bad-annotations") == 0
    assert segments(out) == [1] and sum(left_out(out).values()) == 1
    assert CocoPanoptic(out, "val").annotation(0).segments[0].area == 400
