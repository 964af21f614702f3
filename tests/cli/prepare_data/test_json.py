"""`--json` of the commands that write data: the folder, and what they wrote for each split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import run


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """Return what `panformer prepare-data WORDS --json` prints on stdout, which is nothing but JSON."""
    capsys.readouterr()
    assert run("prepare-data", *map(str, words), "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_results_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes, some, out = tmp_path / "scenes", tmp_path / "some", tmp_path / "yolo"
    small = ("--train-images", 3, "--val-images", 2, "--height", 64, "--width", 64)
    assert printed(capsys, "scenes", "--out", scenes, *small) == {
        "out": str(scenes),
        "splits": {"train": {"images": 3}, "val": {"images": 2}},
    }
    checked = printed(capsys, "custom", "--root", scenes, "--workers", 1)
    assert (checked["root"], sorted(checked["splits"])) == (str(scenes), ["train", "val"])
    assert checked["splits"] == json.loads((scenes / "summary.json").read_text("utf-8"))
    found = printed(capsys, "auto", "--root", scenes, "--workers", "1")
    assert len(found["splits"]) == 2  # `auto` verifies a prepared data set
    chosen = printed(capsys, "subset", "--root", scenes, "--images", 1, "--out", some, "--workers", 1)
    assert (chosen["out"], chosen["splits"]["train"]["images"]) == (str(some), 1)
    assert chosen["splits"] == json.loads((some / "summary.json").read_text("utf-8"))
    options = ("--root", scenes, "--split", "val", "--out", out, "--workers", 1)
    written = printed(capsys, "export", "--to", "yolo", *options)
    assert (written["out"], written["splits"]["val"]["images"], written["splits"]["val"]["left_out"]) == (
        str(out),
        2,
        [],
    )
    lines = [line for path in (out / "labels").rglob("*.txt") for line in path.read_text("utf-8").splitlines()]
    assert written["splits"]["val"]["polygons"] == len(lines) > 0
