"""`--fix`: what it changes, what it keeps, and what remains after an interruption."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import PanformerError
from panformer_cli.verify.findings import Change, Problem
from panformer_cli.verify.fix import ChangeLog
from tests.data.coco.coco_files import BALL
from tests.verify.damage import DataSet, check, counts, data_set, noise

EMPTY = {"id": 9, "category_id": BALL, "iscrowd": 0, "bbox": [0, 0, 0, 0], "area": 0}


def damage(data: DataSet) -> None:
    """Introduce all fixable problems in images 1 and 2."""
    data.segment(0)["area"] = 1.5
    data.segment(1)["bbox"] = [0, 0, 1, 1]
    data.row()["segments_info"].insert(1, copy.deepcopy(EMPTY))
    data.row(2)["segments_info"][0]["area"] = 7
    data.json["images"][2].update(height=60, width=40)
    (data.images / "sub").mkdir()
    (data.images / "1.png").rename(data.images / "sub" / "1.png")
    data.json["images"][1]["file_name"] = "sub\\1.png"
    data.save()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_repaired_data_set_is_valid_and_otherwise_unchanged(tmp_path: Path, workers: int) -> None:
    data = data_set(tmp_path)
    data.json = {"info": {"note": "grün"}, **data.json, "licenses": []}
    expected = copy.deepcopy(data.json)
    damage(data)
    before = data.annotation.read_bytes()
    pngs = files(data.pngs)

    (report,) = check(tmp_path, fixes=True, workers=workers)
    assert report.is_good
    assert counts(report) == {
        Problem.NAME_BACKSLASH: (1, 1),
        Problem.SIZE_LISTED: (1, 1),
        Problem.SEGMENT_NOT_DRAWN: (1, 1),
        Problem.AREA: (2, 2),
        Problem.BOX: (1, 1),
    }
    expected["images"][1]["file_name"] = "sub/1.png"
    written = json.loads(data.annotation.read_text())
    assert written == expected
    assert list(written) == list(expected)
    assert check(tmp_path)[0].problems == ()
    assert len(list(CocoPanoptic(tmp_path, "val"))) == 3
    assert files(data.pngs) == pngs
    assert report.fixed is not None
    assert report.fixed.backup.read_bytes() == before


def test_every_change_is_listed(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    damage(data)
    (report,) = check(tmp_path, fixes=True)
    assert report.fixed is not None
    listed = json.loads(report.fixed.listed_in.read_text())
    assert listed["file"] == "panoptic_val.json"
    assert len(listed["changes"]) == report.fixed.changes == 7
    short = {(one["image_id"], one["place"], one["segment"], one["key"]): one["new"] for one in listed["changes"]}
    assert short == {
        (101, "images", None, "file_name"): "sub/1.png",
        (102, "images", None, "height"): 40,
        (102, "images", None, "width"): 60,
        (101, "annotations", 0, "area"): 20 * 60 - 10 * 21,  # the sky without the box in it
        (101, "annotations", 1, None): None,
        (101, "annotations", 2, "bbox"): [10, 5, 21, 10],
        (102, "annotations", 0, "area"): 20 * 60 - 10 * 22,
    }
    assert [one["old"] for one in listed["changes"] if one["key"] is None] == [EMPTY]


def test_nothing_is_written_without_fixable_problems(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    (data.images / "1.png").unlink()  # a problem that cannot be fixed
    before = files(data.annotation.parent)
    (report,) = check(tmp_path, fixes=True)
    assert (report.fixed, report.is_good) == (None, False)
    assert files(data.annotation.parent) == before


def test_nothing_is_written_without_fix(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    damage(data)
    before = files(data.annotation.parent)
    assert not check(tmp_path)[0].is_good
    assert files(data.annotation.parent) == before


def test_remaining_errors_are_errors(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    data.segment()["area"] = 3
    data.segment(2)["category_id"] = 4
    data.save()
    (report,) = check(tmp_path, fixes=True)
    assert report.fixed is not None
    assert not report.is_good
    assert counts(check(tmp_path)[0]) == {Problem.CATEGORY_UNKNOWN: (1, 0)}


def test_segments_are_kept_if_the_png_may_belong_to_another_image(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    data.segment()["id"] = 8  # the PNG has 70001: is it the same segment?
    data.save()
    (report,) = check(tmp_path, fixes=True)
    assert counts(report) == {Problem.SEGMENT_NOT_DRAWN: (1, 0), Problem.SEGMENT_UNLISTED: (1, 0)}
    data.redraw(lambda ids: ids * 0)
    (report,) = check(tmp_path, fixes=True)
    found = counts(report)
    assert found.pop(Problem.SPLIT_VOID) == (1, 0)  # 65 % of the pixels of the split
    assert found == {Problem.SEGMENT_NOT_DRAWN: (1, 0)}  # an empty PNG is more likely a mistake
    assert report.fixed is None


def test_areas_are_kept_if_the_png_has_another_size(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    noise(80, 120).save(data.images / "1.png")
    data.json["images"][1].update(height=80, width=120)
    for segment in data.row()["segments_info"]:
        segment["area"] *= 4
    data.save()
    (report,) = check(tmp_path, fixes=True)
    assert counts(report) == {Problem.IMAGE_SIZE: (1, 0)}
    assert report.fixed is None


def test_areas_of_segments_with_repeated_ids_are_kept(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    data.row()["segments_info"].append({**data.segment(), "area": 50, "category_id": BALL})
    data.save()
    (report,) = check(tmp_path, fixes=True)
    assert counts(report) == {Problem.SEGMENT_TWICE: (1, 0)}
    assert report.fixed is None


def test_an_older_backup_is_kept(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    names = []
    for area in (1, 2, 3):
        data.segment()["area"] = area
        data.save()
        fixed = check(tmp_path, fixes=True)[0].fixed
        assert fixed is not None
        names.append((fixed.backup.name, fixed.listed_in.name))
        assert json.loads(fixed.backup.read_text())["annotations"][1]["segments_info"][1]["area"] == area
    assert names == [
        ("panoptic_val.json.bak", "panoptic_val.changes.json"),
        ("panoptic_val.json.bak.1", "panoptic_val.changes.1.json"),
        ("panoptic_val.json.bak.2", "panoptic_val.changes.2.json"),
    ]
    first = json.loads((data.annotation.parent / "panoptic_val.json.bak").read_text())
    assert first["annotations"][1]["segments_info"][1]["area"] == 1
    assert check(tmp_path)[0].is_good  # the new files are not mistaken for splits


@pytest.mark.parametrize("call", ["_write_fixed", "_write_changes", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_repair_leaves_only_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    data = data_set(tmp_path)
    damage(data)
    before = files(data.annotation.parent)

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(ChangeLog if call.startswith("_") else os, call, fail)
    with pytest.raises(PanformerError if isinstance(error, OSError) else KeyboardInterrupt):
        check(tmp_path, fixes=True)
    assert files(data.annotation.parent) == before


def test_an_empty_change_log_is_false() -> None:
    log = ChangeLog()
    assert not log
    log.add([Change(1, "images", 0, None, "height", 3, 4)])
    assert log
