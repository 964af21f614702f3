"""Export to Label Studio's tasks, read back by a plain decoder and Pillow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from panformer_cli.prepare.export.export import export
from panformer_cli.prepare.export.inputs import open_predictions
from panformer_cli.prepare.export.label_format import ShapeKind
from panformer_cli.prepare.export.label_studio import LabelStudioFormat
from panformer_cli.reporting import SilentReporter
from tests.prepare.export.labeled import CATEGORIES, HEIGHT, OPTIONS, WIDTH, exported, filled, truth, write_set
from tests.prepare.export.test_brush_rle import alpha

KINDS: tuple[ShapeKind, ...] = ("masks", "polygons")


def drawn(region: dict[str, Any]) -> bytes:
    value = region["value"]
    if region["type"] == "brushlabels":
        assert value["format"] == "rle"
        return (alpha(value["rle"], (HEIGHT, WIDTH)) > 0).tobytes()
    assert region["type"] == "polygonlabels" and value["closed"]
    return filled([[x / 100 * WIDTH, y / 100 * HEIGHT] for x, y in value["points"]]).tobytes()


def tasks(folder: Path, split: str = "val") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / f"out/tasks_{split}.json").read_text())
    return found


@pytest.mark.parametrize("shapes", KINDS)
def test_plain_reading_finds_the_same_segments(tmp_path: Path, shapes: ShapeKind) -> None:
    exported(LabelStudioFormat(shapes), tmp_path)
    for number, task in enumerate(tasks(tmp_path)):
        (prediction,) = task["predictions"]
        assert "score" not in prediction
        found: dict[str, list[bytes]] = {category["name"]: [] for category in CATEGORIES}
        for region in prediction["result"]:
            (label,) = region["value"][region["type"]]
            found[label].append(drawn(region))
            assert (region["original_width"], region["original_height"]) == (WIDTH, HEIGHT)
        for class_name, masks in found.items():
            assert sorted(masks) == truth(class_name, number)
        ids = [region["id"] for region in prediction["result"]]
        assert len(set(ids)) == len(ids)


def test_addresses_of_images_are_quoted(tmp_path: Path) -> None:
    exported(LabelStudioFormat(image_url="https://example.com/"), tmp_path)
    assert [task["data"]["image"] for task in tasks(tmp_path)] == [
        "https://example.com/val/a.png",
        "https://example.com/val/b/c%20d.png",
    ]
    assert (tmp_path / "out/images/val/b/c d.png").is_file()


@pytest.mark.parametrize(("shapes", "tags"), [("masks", ["brush"]), ("polygons", ["brush", "polygon"])])
def test_the_interface_names_every_class(tmp_path: Path, shapes: ShapeKind, tags: list[str]) -> None:
    exported(LabelStudioFormat(shapes), tmp_path)
    _, *groups = ElementTree.parse(tmp_path / "out/labels.xml").getroot()
    assert [(group.tag.lower(), group.get("name")) for group in groups] == [(f"{tag}labels", tag) for tag in tags]
    for group in groups:
        assert {label.get("value") for label in group} == {category["name"] for category in CATEGORIES}
    used = {region["from_name"] for region in tasks(tmp_path)[0]["predictions"][0]["result"]}
    assert used == set(tags)


def test_scores_and_losses(tmp_path: Path) -> None:
    source = open_predictions(write_set(tmp_path / "in", ["a.png"], score=0.5), tmp_path / "in/images/val")
    (written,) = export(source, LabelStudioFormat("polygons"), tmp_path / "out", OPTIONS, SilentReporter())
    (prediction,) = tasks(tmp_path, "train")[0]["predictions"]
    scores = [region["score"] for region in prediction["result"]]
    assert len(scores) == 9 and prediction["score"] == pytest.approx(np.mean(scores))
    assert written.report.sentences() == [
        "3 segments with several parts or holes written as brush labels, because a polygon in Label Studio has one "
        "outline",
        "1 crowd segment left out, because Label Studio has no crowds",
    ]
