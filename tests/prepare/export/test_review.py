"""Exports for a review of probable label errors: which images, in which order, and what each tool shows."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from panformer_cli.errors import DataError
from panformer_cli.metrics.analysis.label_errors import Kind, Suspect
from panformer_cli.prepare.annotation_tools.cvat import open_cvat
from panformer_cli.prepare.annotation_tools.labelme import open_labelme
from panformer_cli.prepare.annotation_tools.yolo import open_yolo
from panformer_cli.prepare.export.export import ExportedSplit, ExportOptions, export
from panformer_cli.prepare.export.formats import FORMATS, FormatName, open_format
from panformer_cli.prepare.export.inputs import open_truth
from panformer_cli.prepare.export.review import only_suspected, read_suspects
from panformer_cli.prepare.left_out import AnnotationLog
from panformer_cli.prepare.masks.coco_instances import open_coco_instances
from panformer_cli.prepare.source import Source
from panformer_cli.reporting import SilentReporter
from tests.prepare.export.labeled import (
    CAR,
    CATEGORIES,
    HEIGHT,
    NO,
    WIDTH,
    converted_back,
    masks_of,
    without_crowds,
    write_set,
)

SILENT = SilentReporter()
NAMES = ("a.png", "b/c d.png", "e.png", "f.png")
REASONS = ('Annotated as car, "red" & <big>, but the model sees no.', "The model sees two.", "Third.")
TEXTS = [
    f"1. Wrong class (7 x 6 pixels at x 2, y 3): {REASONS[0]}",
    f"2. Merged instances (7 x 6 pixels at x 2, y 3): {REASONS[1]}",
    f"3. Poor outline (7 x 6 pixels at x 2, y 3): {REASONS[2]}",
]


def suspect(image: int, kind: Kind, score: float, reason: str) -> dict[str, Any]:
    """Return a row of label_errors.json for the image of this number, as `evaluate` writes it."""
    row = Suspect(101 + image, NAMES[image], kind, score, 1.0, (), (), (2, 3, 7, 6), reason).to_json()
    return row | {"truth": [{"id": 70000, "category_id": CAR}, {"id": 300, "category_id": NO}]}


def write_suspects(path: Path, *rows: Any) -> Path:
    path.write_text(json.dumps({"annotation": "somewhere.json", "suspects": list(rows)}))
    return path


@pytest.fixture
def suspects(tmp_path: Path) -> Path:
    """Two suspects in the third image, and between them one in the second. The other images have none."""
    write_set(tmp_path / "in", NAMES)
    return write_suspects(
        tmp_path / "label_errors.json",
        suspect(2, Kind.WRONG_CLASS, 0.9, REASONS[0]),
        suspect(1, Kind.MERGED_INSTANCES, 0.8, REASONS[1]),
        suspect(2, Kind.POOR_OUTLINE, 0.123456, REASONS[2]),
    )


def reviewed(path: Path, name: FormatName, limit: int | None = None, skips_bad_images: bool = False) -> ExportedSplit:
    """Export the images of the suspects to `out`."""
    truth, found = open_truth(path.parent / "in"), read_suspects(path, limit)
    options = ExportOptions(skips_bad_images=skips_bad_images, suspects=tuple(found))
    label_format = open_format(name, truth.categories)
    (split,) = export(only_suspected(truth, found, path), label_format, path.parent / "out", options, SILENT)
    return split


def opened(name: FormatName, out: Path) -> Source:
    """Return the exported labels as a source."""
    classes = out / "classes.csv"
    if name == "cvat":
        return open_cvat(out, classes, (), "error")
    if name == "labelme":
        return open_labelme(out, classes, (), "error")
    if name == "yolo":
        return open_yolo(out, None, (), "error")
    return open_coco_instances(out, classes=classes)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", FORMATS)
def test_the_suspects_are_listed_beside_the_labels(suspects: Path, name: FormatName) -> None:
    split = reviewed(suspects, name)
    assert (split.images, [row.rank for row in split.suspects]) == (2, [1, 2, 3])
    rows = rows_of(suspects.parent / "out/review.csv")
    assert [tuple(row.values()) for row in rows] == [
        ("1", "103", "e.png", "wrong_class", "0.9", "2", "3", "7", "6", REASONS[0]),
        ("2", "102", "b/c d.png", "merged_instances", "0.8", "2", "3", "7", "6", REASONS[1]),
        ("3", "103", "e.png", "poor_outline", "0.1235", "2", "3", "7", "6", REASONS[2]),
    ]


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "label-studio"])
def test_converted_back_the_images_have_the_same_segments(suspects: Path, name: FormatName) -> None:
    reviewed(suspects, name)
    source = opened(name, suspects.parent / "out")
    assert {category.name for category in source.categories.categories} == {row["name"] for row in CATEGORIES}
    found, original = converted_back(source, suspects.parent), masks_of(suspects.parent / "in")
    assert without_crowds(found) == without_crowds([original[1], original[2]])


def test_only_the_first_suspects_are_exported(suspects: Path) -> None:
    assert [row.rank for row in reviewed(suspects, "yolo", limit=1).suspects] == [1]
    assert [path.name for path in (suspects.parent / "out/labels/val").rglob("*.txt")] == ["e.txt"]
    assert len(rows_of(suspects.parent / "out/review.csv")) == 1


def test_the_image_of_the_most_certain_suspect_is_first(suspects: Path) -> None:
    reviewed(suspects, "coco-instances")
    content = json.loads((suspects.parent / "out/annotations/instances_val.json").read_text())
    assert [row["id"] for row in content["images"]] == [103, 102]


def test_label_studio_shows_a_text(suspects: Path) -> None:
    reviewed(suspects, "label-studio")
    tasks = json.loads((suspects.parent / "out/tasks_val.json").read_text())
    assert [task["data"]["review"] for task in tasks] == [f"{TEXTS[0]}\n{TEXTS[2]}", TEXTS[1]]
    interface = ElementTree.parse(suspects.parent / "out/labels.xml").getroot()
    assert [(tag.tag, tag.get("value")) for tag in interface][:2] == [("Text", "$review"), ("Image", "$image")]


def test_labelme_shows_flags(suspects: Path) -> None:
    reviewed(suspects, "labelme")
    content = json.loads((suspects.parent / "out/val/e.json").read_text())
    assert content["flags"] == {TEXTS[0]: True, TEXTS[2]: True}


def test_cvat_shows_tags(suspects: Path) -> None:
    """The label of the tags is declared, as CVAT demands of every label, but not as a class."""
    reviewed(suspects, "cvat")
    root = ElementTree.parse(suspects.parent / "out/annotations.xml").getroot()
    tags = [
        [(tag.get("label"), tag.findtext("attribute[@name='reason']")) for tag in image.findall("tag")]
        for image in root.findall("image")
    ]
    assert tags == [[("review", TEXTS[0]), ("review", TEXTS[2])], [("review", TEXTS[1])]]
    types = {label.findtext("name"): label.findtext("type") for label in root.findall("meta/task/labels/label")}
    assert types.pop("review") == "tag" and set(types.values()) == {"any"}
    *_, label = json.loads((suspects.parent / "out/labels.json").read_text())
    assert (label["name"], label["type"], label["attributes"][0]["name"]) == ("review", "tag", "reason")
    without_class_file = open_cvat(suspects.parent / "out", None, (), "error").categories
    assert "review" not in {category.name for category in without_class_file.categories}


def test_the_conversion_from_cvat_counts_the_tags(suspects: Path) -> None:
    reviewed(suspects, "cvat")
    source, log = opened("cvat", suspects.parent / "out"), AnnotationLog()
    source.read(next(iter(source.images("val"))), (HEIGHT, WIDTH), log)
    assert [reason for reason, _ in log.left_out] == ["tag of a whole image"] * 2


def test_a_class_with_the_name_of_the_tags_stays_a_class(suspects: Path) -> None:
    path = suspects.parent / "in/annotations/panoptic_val.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "review"
    path.write_text(json.dumps(content))
    reviewed(suspects, "cvat")
    source = open_cvat(suspects.parent / "out", None, (), "error")
    assert {row.name for row in source.categories.categories} == {row["name"] for row in content["categories"]}
    root = ElementTree.parse(suspects.parent / "out/annotations.xml").getroot()
    assert {tag.get("label") for tag in root.iter("tag")} == {"review_"}


@pytest.mark.parametrize("name", FORMATS)
def test_any_text_can_be_a_reason(suspects: Path, name: FormatName) -> None:
    write_suspects(suspects, suspect(0, Kind.SURPLUS_LABEL, 1, "two\nlines \x07 ]]> 日本"))
    reviewed(suspects, name)
    (row,) = rows_of(suspects.parent / "out/review.csv")
    assert row["reason"] == "two\nlines \x07 ]]> 日本"
    if name == "cvat":
        root = ElementTree.parse(suspects.parent / "out/annotations.xml").getroot()
        text = root.findtext("image/tag/attribute")
        assert text is not None and text.endswith(": two lines \ufffd ]]> 日本")


def test_suspects_of_skipped_images_are_not_listed(suspects: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(suspects.parent / "in/images/val/e.png")
    split = reviewed(suspects, "yolo", skips_bad_images=True)
    assert (split.images, [row.rank for row in split.suspects]) == (1, [2])
    assert [row["rank"] for row in rows_of(suspects.parent / "out/review.csv")] == ["2"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"image_id": 7}, "has no image with the id 7"),
        ({"image_id": "103"}, "has no image with the id '103'"),
        ({"file_name": "z.png"}, "lists the image 103 as 'e.png'"),
        ({"truth": [{"id": 301, "category_id": NO}]}, "does not list the segments 301 of this image with the same"),
        ({"truth": [{"id": 300, "category_id": CAR}]}, "does not list the segments 300 of this image with the same"),
    ],
)
def test_suspects_of_another_annotation_are_an_error(suspects: Path, changes: dict[str, Any], problem: str) -> None:
    write_suspects(suspects, suspect(2, Kind.WRONG_CLASS, 1, "") | changes)
    with pytest.raises(DataError, match=f"label_errors.json belongs to another annotation: suspect 1 is .*{problem}"):
        reviewed(suspects, "cvat")
    assert not (suspects.parent / "out").exists()


def test_several_splits_are_an_error(suspects: Path) -> None:
    write_set(suspects.parent / "in", split="train")
    with pytest.raises(DataError, match="--review needs one split, and .* has train, val; add --split NAME"):
        reviewed(suspects, "cvat")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b'{"suspects": [', "is not valid JSON, or is truncated; write it again with `panformer evaluate"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[]", "has no list `suspects`; expected the label_errors.json of `evaluate --label-errors`"),
        (b'{"suspects": {}}', "has no list `suspects`"),
        (b'{"suspects": []}', "lists no suspects, so there is nothing to review; leave out --review"),
        (b'{"suspects": [3]}', "suspect 1 has the image_id None; expected an integer or text"),
    ],
)
def test_a_file_with_other_content_is_an_error(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "label_errors.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}.*{sentence}"):
        read_suspects(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the list of label errors .*nowhere.json is missing"):
        read_suspects(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_id", True),
        ("image_id", 1.5),
        ("file_name", ""),
        ("file_name", "\ud800"),
        ("kind", "typo"),
        ("kind", []),
        ("score", "high"),
        ("score", float("nan")),
        ("truth", None),
        ("truth", [{"id": 1}]),
        ("box", [1, 2, 3]),
        ("box", [1, 2, 3, -4]),
        ("box", [1, 2, 3, 0.5]),
        ("reason", None),
        ("reason", "\udfff"),
    ],
)
def test_a_suspect_with_a_bad_value_is_an_error(suspects: Path, key: str, value: Any) -> None:
    good = suspect(2, Kind.WRONG_CLASS, 1, "")
    write_suspects(suspects, good, good | {key: value})
    with pytest.raises(DataError, match=f"label_errors.json: suspect 2 has the {key} .*; expected .*; write it again"):
        read_suspects(suspects)
