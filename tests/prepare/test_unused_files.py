"""Files in the folders of a data set that a conversion does not use."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.yolo import open_yolo
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.masks.mask_folder import open_mask_folder
from panformer_cli.prepare.open_form import first_problems
from panformer_cli.prepare.recognize import recognize
from panformer_cli.verify.check import VerifyOptions, verify
from tests.cli import prepare_folders as folders
from tests.cli.prepare_folders import save_image, text
from tests.helpers import run
from tests.prepare.reporters import RecordingReporter

UNUSED = "(without labels, or in no converted split)"


def add_others(folder: Path) -> None:
    """Add files that are no images of the data set."""
    for name in ("._a.jpg", "Thumbs.db", ".cache.jpg", "n.txt", "n.svg", "l1.HEIC", "l2.heic", "l3.heic", "l4.heic"):
        text(folder / name, "x")
    text(folder / "__MACOSX/a.jpg", "x")
    os.mkfifo(folder / "pipe")


OTHERS = [
    "left out: 4 .heic (needs pillow-heif): {0}l1.HEIC, {0}l2.heic, {0}l3.heic, and 1 more",
    "left out: 3 files of an operating system or a NAS: {0}._a.jpg, {0}Thumbs.db, {0}__MACOSX",
    "left out: 1 .svg (not an image): {0}n.svg",
    "left out: 1 .txt (not an image): {0}n.txt",
    "left out: 1 hidden: {0}.cache.jpg",
    "left out: 1 not a regular file: {0}pipe",
]


@pytest.mark.parametrize(
    ("source", "images"),
    [
        (folders.cityscapes, "leftImg8bit/val/ulm"),
        (folders.ade20k, "images/validation"),
        (folders.mapillary, "training/images"),
        (folders.coco_instances, "images/val"),
        (folders.png_pairs, "images"),
        (folders.masks, "images"),
        (folders.labelme, ""),
        (folders.yolo, "images/train"),
        (folders.cvat, "images"),
    ],
)
def test_every_source_counts_them_by_reason(
    source: Callable[[Path], list[str]], images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("panformer_cli.data.image_formats.has_heic", lambda: False)
    source(tmp_path)
    (form,) = recognize(tmp_path)
    assert first_problems(form) == []
    add_others(tmp_path / images)
    prefix = f"{images}/" if images else ""
    if images:
        text(tmp_path / "README.md", "x")
    assert first_problems(form) == [line.format(prefix) for line in OTHERS]


@pytest.mark.parametrize(
    ("source", "name"),
    [(folders.coco_instances, "images/val/c.jpg"), (folders.labelme, "c.jpg"), (folders.cvat, "images/c.jpg")],
)
def test_images_without_labels_are_named(source: Callable[[Path], list[str]], name: str, tmp_path: Path) -> None:
    source(tmp_path)
    save_image(tmp_path / name)
    (form,) = recognize(tmp_path)
    assert first_problems(form) == [f"left out: 1 unused image {UNUSED}: {name}"]


def test_files_among_labels_are_named(tmp_path: Path) -> None:
    folders.yolo(tmp_path)
    for name in ("classes.txt", "notes.txt", "a.cache"):
        text(tmp_path / "labels/train" / name, "car")
    (form,) = recognize(tmp_path)
    assert first_problems(form) == [
        "left out: 1 .cache (not a label file): labels/train/a.cache",
        "left out: 1 unused label file (no image has its name): labels/train/notes.txt",
    ]


def test_class_files_and_images_of_other_splits_are_used(tmp_path: Path) -> None:
    """Two COCO JSONs beside the images of both splits, and a class file there."""
    folders.coco_instances(tmp_path / "in")
    root = tmp_path / "flat"
    content = json.loads((tmp_path / "in/annotations/instances_val.json").read_text())
    for index, (split, name) in enumerate((("train", "a"), ("val", "b"))):
        rows = {key: content[key][index : index + 1] for key in ("images", "annotations")}
        text(root / f"{split}.json", json.dumps(rows | {"categories": content["categories"]}))
        save_image(root / f"{name}.jpg")
    text(root / "classes.csv", "id,name,kind\n3,car,thing\n")
    reporter = ["prepare-data", "coco-instances", "--root", str(root), "--classes", str(root / "classes.csv")]
    assert run(*reporter, "--out", str(tmp_path / "both"), "--workers", "1") == 0
    (form,) = recognize(root)
    assert first_problems(form) == []


def test_a_conversion_reports_them_also_if_it_is_up_to_date(tmp_path: Path) -> None:
    folders.masks(tmp_path / "in")
    text(tmp_path / "in/images/notes", "x")
    source = open_mask_folder(tmp_path / "in", tmp_path / "in/classes.csv")
    for _ in range(2):
        reporter = RecordingReporter()
        convert(source, tmp_path / "out", (), ConvertOptions(), reporter)
        assert "left out: 1 without a suffix (not an image): images/notes" in reporter.messages
    assert "train in" in reporter.messages[1]


def test_custom_data_sets_report_images_that_are_not_annotated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.custom(tmp_path)
    save_image(tmp_path / "images/val/more.jpg")
    assert run("prepare-data", "custom", "--root", str(tmp_path), "--workers", "1") == 0
    assert f"left out: 1 unused image {UNUSED}: images/val/more.jpg" in " ".join(capsys.readouterr().err.split())


def test_an_image_that_cannot_be_read_is_the_reason_for_labels_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("panformer_cli.data.image_formats.has_heic", lambda: False)
    folders.png_pairs(tmp_path)
    (tmp_path / "images/a.jpg").rename(tmp_path / "images/a.HEIC")
    with pytest.raises(DataError) as caught:
        verify(tmp_path, (), VerifyOptions(), RecordingReporter())
    lines = str(caught.value).splitlines()
    assert "convert it first: `panformer prepare-data png-pairs" in lines[0]
    for line, kind in zip(lines[1:3], ("semantic", "instance"), strict=True):
        assert f"{tmp_path}/{kind}/a.png has the image {tmp_path}/images/a.HEIC, which cannot be read: .heic" in line
    assert lines[3:] == ["  left out: 1 .heic (needs pillow-heif): images/a.HEIC"]


def test_a_data_set_of_images_that_cannot_be_read_is_refused_for_this_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("panformer_cli.data.image_formats.has_heic", lambda: False)
    folders.masks(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"images/{name}.jpg").rename(tmp_path / f"images/{name}.heic")
    source = open_mask_folder(tmp_path, tmp_path / "classes.csv")
    heic = r"\(left out: \.heic \(needs pillow-heif\): a\.heic, b\.heic\)"
    with pytest.raises(DataError, match=f"neither images nor folders {heic}"):
        convert(source, tmp_path.parent / "out", (), ConvertOptions(), RecordingReporter())
    (tmp_path / "images/val").mkdir()
    (tmp_path / "masks/val").mkdir()
    with pytest.raises(DataError, match="no images found .left out: .heic"):
        convert(source, tmp_path.parent / "out", (), ConvertOptions(), RecordingReporter())


@pytest.mark.parametrize("source", [folders.labelme, folders.yolo])
@pytest.mark.parametrize("is_inside", [True, False])
def test_earlier_predictions_are_no_inputs(
    source: Callable[[Path], list[str]], is_inside: bool, tmp_path: Path
) -> None:
    """In a folder among the images, or beside them."""
    source(tmp_path)
    images = tmp_path / ("images/train" if source is folders.yolo else "")
    out = images / "predicted" if is_inside else images
    for name in ("overlays/a.jpg", "panoptic/a.png"):
        save_image(out / name)
    text(out / "panoptic.json", json.dumps({"images": [], "annotations": [{"segments_info": []}], "categories": []}))
    (form,) = recognize(tmp_path)
    prefix = f"{images.relative_to(tmp_path).as_posix()}/".removeprefix("./")
    names = ["predicted"] if is_inside else ["overlays", "panoptic", "panoptic.json"]
    results = f"{len(names)} result{'s' if len(names) > 1 else ''} of an earlier call"
    assert first_problems(form) == [f"left out: {results}: {', '.join(f'{prefix}{name}' for name in names)}"]


def test_true_causes(tmp_path: Path) -> None:
    folders.masks(tmp_path / "masks")
    for path in (tmp_path / "masks/masks/a").iterdir():
        path.unlink()
    (tmp_path / "masks/masks/a").rmdir()
    save_image(tmp_path / "masks/masks/a.jpg")
    folders.yolo(tmp_path / "yolo")
    labels = tmp_path / "yolo/labels/train/a.txt"
    labels.write_text(labels.read_text().replace(" ", ","))
    for source, expected in (
        (
            open_mask_folder(tmp_path / "masks", tmp_path / "masks/classes.csv"),
            r"a\.png is missing, but there is a\.jpg",
        ),
        (open_yolo(tmp_path / "yolo", None, (), "last"), "expected spaces between numbers, not ','"),
    ):
        with pytest.raises(DataError, match=expected):
            convert(source, tmp_path / "out", (), ConvertOptions(), RecordingReporter())
    (tmp_path / "yolo/data.yaml").write_text("nc: 3\nnames: [car, road]\n")
    assert "data.yaml has nc 3, but 2 names; the names are used" in " ".join(
        open_yolo(tmp_path / "yolo", None, (), "last").remarks
    )
    with pytest.raises(DataError, match=r"data\.yaml is a file, not a folder; check the path"):
        recognize(tmp_path / "yolo/data.yaml")
