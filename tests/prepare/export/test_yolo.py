"""Export to YOLO's text files, filled by a plain loop and read back by `prepare-data yolo`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.yolo import open_yolo
from panformer_cli.prepare.export.export import export
from panformer_cli.prepare.export.inputs import open_predictions, open_truth
from panformer_cli.prepare.export.labelme import LabelmeFormat
from panformer_cli.prepare.export.yolo import YoloFormat
from panformer_cli.reporting import SilentReporter
from tests.prepare.export.labeled import (
    CATEGORIES,
    HEIGHT,
    OPTIONS,
    WIDTH,
    converted_back,
    inside,
    masks_of,
    truth,
    without_crowds,
    write_set,
)

NAMES = ["l'été 日本", 'car, "red" & <big>', "unused", "no", "sky 2"]
"""Things, then stuff, each by id."""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_set(tmp_path / "in")
    source = open_truth(tmp_path / "in")
    export(source, YoloFormat(source.categories), tmp_path / "out", OPTIONS, SilentReporter())
    return tmp_path / "out"


def test_the_lines_are_the_segments_by_the_even_odd_rule(out: Path) -> None:
    for number, name in enumerate(("a", "b/c d")):
        found: dict[str, list[bytes]] = {category["name"]: [] for category in CATEGORIES}
        for line in (out / f"labels/val/{name}.txt").read_text().splitlines():
            label, *shares = line.split()
            points = np.array(shares, float).reshape(-1, 2) * (WIDTH, HEIGHT)
            found[NAMES[int(label)]].append(inside(points.round(6).tolist()).tobytes())
        for class_name, masks in found.items():
            assert sorted(masks) == truth(class_name, number)


def test_data_yaml_has_contiguous_numbers_and_text_names(out: Path) -> None:
    """Read by PyYAML as Ultralytics does: `no` must not become false."""
    content = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert content == {"val": "images/val", "names": dict(enumerate(NAMES)), "stuff": ["no", "sky 2"]}


def test_converted_back_the_segments_are_the_same(out: Path) -> None:
    root = out.parent
    assert converted_back(open_yolo(out, None, (), "error"), root) == without_crowds(masks_of(root / "in"))
    table = CocoPanoptic(root / "back", "val").categories
    assert [(row.id, row.name, row.is_thing) for row in table.categories] == [
        (number, name, number < 3) for number, name in enumerate(NAMES)
    ]


def test_what_yolo_cannot_express_is_counted(tmp_path: Path) -> None:
    source = open_predictions(write_set(tmp_path / "in", ["a.png"], score=0.5), tmp_path / "in/images/val")
    (written,) = export(source, YoloFormat(source.categories), tmp_path / "out", OPTIONS, SilentReporter())
    assert sorted(written.report.sentences()) == [
        "1 crowd segment left out, because YOLO has no crowds; their pixels are void when read back",
        "3 segments with several parts or holes written as one polygon each; lines without width join the outlines",
        "9 scores left out, because YOLO labels have none",
    ]


def test_an_image_without_segments_has_an_empty_file(tmp_path: Path) -> None:
    write_set(tmp_path / "in", ["a.png"])
    source = open_truth(tmp_path / "in", names=["unused"])
    export(source, YoloFormat(source.categories), tmp_path / "out", OPTIONS, SilentReporter())
    assert (tmp_path / "out/labels/val/a.txt").read_text() == ""
    assert yaml.safe_load((tmp_path / "out/data.yaml").read_text()) == {"val": "images/val", "names": {0: "unused"}}


def to_yolo(root: Path, splits: list[str], out: Path) -> None:
    source = open_truth(root, splits)
    export(source, YoloFormat(source.categories), out, OPTIONS, SilentReporter())


def test_all_splits_come_back_or_are_refused(tmp_path: Path) -> None:
    for split in ("train2017", "val2017", "minival", "train_extra"):
        write_set(tmp_path / "in", split=split)
    to_yolo(tmp_path / "in", ["train2017", "val2017"], tmp_path / "out")
    assert sorted(open_yolo(tmp_path / "out", None, (), "last").splits()) == ["train2017", "val2017"]
    for lost in ("minival", "train_extra"):
        with pytest.raises(DataError, match=f"yolo labels cannot name the split '{lost}' beside others"):
            to_yolo(tmp_path / "in", ["train2017", lost], tmp_path / "none")
        assert not (tmp_path / "none").exists()
        to_yolo(tmp_path / "in", [lost], tmp_path / lost)
        assert list(open_yolo(tmp_path / lost, None, (), "last").splits()) == [lost]


def test_labelme_folders_of_unusual_splits_are_refused(tmp_path: Path) -> None:
    for split in ("train", "extra"):
        write_set(tmp_path / "in", split=split)
    with pytest.raises(DataError, match="labelme labels cannot name the split 'extra' beside others"):
        export(open_truth(tmp_path / "in"), LabelmeFormat(), tmp_path / "out", OPTIONS, SilentReporter())
