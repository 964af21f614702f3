"""`panformer prepare-data verify`: exit codes, the table, and the JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.coco.coco_files import write_coco
from tests.helpers import run
from tests.verify.damage import data_set


def verify(root: Path, *options: str) -> int:
    return run("prepare-data", "verify", str(root), "--workers", "1", *options)


def test_a_valid_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path)
    assert verify(tmp_path) == 0
    assert capsys.readouterr().out == "val: 3 images, 9 segments, no errors found\n"


def test_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_set(tmp_path)
    data.segment()["area"] = 3
    data.segment(2)["bbox"] = [0, 0, 1, 1]
    (data.images / "2.png").unlink()
    data.save()
    assert verify(tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    table = [line.strip().split(maxsplit=4) for line in lines[4:7]]
    assert table == [
        ["val", "error", "1", "0", "missing images"],
        ["val", "error", "1", "1", "segments whose area differs from their pixels"],
        ["val", "error", "1", "1", "segments whose bbox differs from their pixels"],
    ]
    assert "  panoptic_val.json: '1.png': segment 70001 has area 3; expected 210, measured on its pixels" in lines
    assert lines[-1] == "val: 3 images, 9 segments, errors found"


def test_a_repair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_set(tmp_path)
    data.segment()["area"] = 3
    data.save()
    assert verify(tmp_path, "--fix") == 0
    out = capsys.readouterr().out
    assert "val: 3 images, 9 segments, no errors left\n" in out
    assert f"1 change, listed in {data.annotation.parent}/panoptic_val.changes.json" in out
    assert verify(tmp_path) == 0


def test_a_warning_is_not_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_set(tmp_path)
    (data.images / "1.png").rename(data.images / "ä.png")
    data.json["images"][1]["file_name"] = "ä.png"
    data.save()
    assert verify(tmp_path, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["root"] == str(tmp_path)
    (split,) = content["splits"]
    (example,) = split["problems"]["name_not_ascii"].pop("examples")
    assert "not ASCII" in example
    assert split == {
        "split": "val",
        "images": 3,
        "segments": 9,
        "is_good": True,
        "problems": {"name_not_ascii": {"severity": "warning", "count": 1, "fixable": 0}},
        "unlisted": [],
        "fixed": None,
    }


@pytest.mark.parametrize("options", [(), ("--split", "train"), ("--split", "../val")])
def test_input_that_cannot_be_checked(
    tmp_path: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    if options:
        write_coco(tmp_path)
    assert verify(tmp_path, *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
