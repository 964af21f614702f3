"""Inputs collected from public reports, where they are beside the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import run


@pytest.mark.parametrize(
    ("source", "folder", "both"),
    [
        ("labelme", "labelme", ["a.jpg is labeled twice, in", "a.json and", "b.json; keep one"]),
        ("coco-instances", "coco", ["a.jpg is labeled twice, both times in", "instances_val.json; keep one"]),
        ("cvat", "cvat", ["a.png is labeled twice, both times in", "annotations.xml; keep one"]),
    ],
)
def test_the_same_picture_twice(
    source: str, folder: str, both: list[str], shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shared / "cases/same-picture-twice-message" / folder
    assert run("prepare-data", source, "--root", str(root), "--out", str(tmp_path / "out"), "--workers", "1") == 2
    error = capsys.readouterr().err
    assert all(words in error for words in both), error
