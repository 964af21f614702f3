"""What is exported, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.prepare.classes import read_classes
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.export.coco_instances import CocoInstancesFormat
from panformer_cli.prepare.export.export import ExportOptions, export, total
from panformer_cli.prepare.export.formats import FORMATS, open_format
from panformer_cli.prepare.export.inputs import open_predictions, open_truth
from panformer_cli.prepare.export.labelme import LabelmeFormat
from panformer_cli.prepare.masks.coco_instances import open_coco_instances
from panformer_cli.reporting import SilentReporter
from tests.helpers import files_of, files_of_at_most
from tests.prepare.export.labeled import CATEGORIES, HEIGHT, OPTIONS, WIDTH, exported, masks_of, write_set

FORMAT = CocoInstancesFormat()
SILENT = SilentReporter()


def edit(path: Path, **changes: Any) -> None:
    """Change members of the first row of a list in a JSON: `edit(path, images={"id": 3})`."""
    content = json.loads(path.read_text())
    for key, members in changes.items():
        content[key][0].update(members)
    path.write_text(json.dumps(content))


def test_all_splits_are_exported(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_set(tmp_path / "in", split=split)
    splits = export(open_truth(tmp_path / "in"), FORMAT, tmp_path / "out", OPTIONS, SILENT)
    assert [(split.name, split.images) for split in splits] == [("train", 2), ("val", 2)]
    assert total(splits).segments == 40
    convert(open_coco_instances(tmp_path / "out"), tmp_path / "back", (), ConvertOptions(), SILENT)
    for split in ("train", "val"):
        assert masks_of(tmp_path / "back", split) == masks_of(tmp_path / "in", split)


@pytest.mark.slow
def test_several_processes_write_the_same_files(tmp_path: Path) -> None:
    write_set(tmp_path / "in", [f"{number}.png" for number in range(20)])
    for workers in (1, 2):
        export(open_truth(tmp_path / "in"), LabelmeFormat(), tmp_path / f"out{workers}", ExportOptions(workers), SILENT)
    assert files_of(tmp_path / "out1") == files_of(tmp_path / "out2")


def test_only_chosen_classes_are_exported(tmp_path: Path) -> None:
    write_set(tmp_path / "in")
    source = open_truth(tmp_path / "in", names=["no", "l'été 日本"])
    (split,) = export(source, FORMAT, tmp_path / "out", OPTIONS, SILENT)
    assert split.report.segments == 8
    table = read_classes(tmp_path / "out/classes.csv")
    assert [(row.id, row.name, row.is_thing) for row in table.categories] == [
        (2, "l'été 日本", True),
        (30, "no", False),
    ]
    predicted = open_predictions(tmp_path / "in/annotations/panoptic_val.json", tmp_path / "in/images/val", ["no"])
    (split,) = export(predicted, FORMAT, tmp_path / "more", OPTIONS, SILENT)
    assert split.report.segments == 2


def test_an_unknown_class_is_an_error(tmp_path: Path) -> None:
    write_set(tmp_path / "in")
    with pytest.raises(DataError, match=r"--class sky: unknown class in .*in; did you mean sky 2\?"):
        open_truth(tmp_path / "in", names=["sky"])


def test_images_are_hard_links_or_copies(tmp_path: Path) -> None:
    exported(FORMAT, tmp_path)
    original = tmp_path / "in/images/val/a.png"
    assert (tmp_path / "out/images/val/a.png").samefile(original)
    export(open_truth(tmp_path / "in"), FORMAT, tmp_path / "copied", ExportOptions(copies_images=True), SILENT)
    copy = tmp_path / "copied/images/val/a.png"
    assert copy.read_bytes() == original.read_bytes() and not copy.samefile(original)


def test_an_existing_output_is_kept(tmp_path: Path) -> None:
    write_set(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("kept")
    with pytest.raises(DataError, match="out already exists; expected a new or empty folder; choose another --out"):
        export(open_truth(tmp_path / "in"), FORMAT, tmp_path / "out", OPTIONS, SILENT)
    assert files_of(tmp_path / "out") == {"mine.txt": b"kept"}
    (tmp_path / "out/mine.txt").unlink()
    export(open_truth(tmp_path / "in"), FORMAT, tmp_path / "out", OPTIONS, SILENT)
    assert (tmp_path / "out/classes.csv").is_file()


def test_an_output_inside_of_the_input_is_an_error(tmp_path: Path) -> None:
    write_set(tmp_path / "in")
    with pytest.raises(DataError, match="the output folder .* is inside the input folder"):
        export(open_truth(tmp_path / "in"), FORMAT, tmp_path / "in/out", OPTIONS, SILENT)
    predictions = open_predictions(tmp_path / "in/annotations/panoptic_val.json", tmp_path / "in/images/val")
    for inner in ("in/images/val/out", "in/annotations/panoptic_val/out"):
        with pytest.raises(DataError, match="the output folder .* is inside the input folder"):
            export(predictions, FORMAT, tmp_path / inner, OPTIONS, SILENT)


def test_a_bad_image_leaves_no_output_or_is_skipped(tmp_path: Path) -> None:
    write_set(tmp_path / "in")
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(tmp_path / "in/images/val/a.png")
    with pytest.raises(DataError, match=r"1 of 2 images cannot be used.*(\n.*)*a.png is displayed as 24x19"):
        export(open_truth(tmp_path / "in"), FORMAT, tmp_path / "out", OPTIONS, SILENT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    options = ExportOptions(skips_bad_images=True)
    (split,) = export(open_truth(tmp_path / "in"), FORMAT, tmp_path / "out", options, SILENT)
    assert split.images == 1
    assert "a.png is displayed as 24x19" in split.left_out[0]


def test_names_that_lead_out_of_the_folder_are_errors(tmp_path: Path) -> None:
    path = write_set(tmp_path / "in", ["a.png"])
    edit(path, images={"file_name": "../a.png"})
    with pytest.raises(DataError, match="points outside"):
        export(open_predictions(path, tmp_path / "in/images/val"), FORMAT, tmp_path / "out", OPTIONS, SILENT)
    assert not (tmp_path / "out").exists() and not (tmp_path / "a.png").exists()


def test_two_images_with_one_label_file_are_an_error(tmp_path: Path) -> None:
    write_set(tmp_path / "in", ["a.png", "a.bmp"])
    with pytest.raises(DataError, match=r"a.png and .*a.bmp have the same name a;"):
        export(open_truth(tmp_path / "in"), LabelmeFormat(), tmp_path / "out", OPTIONS, SILENT)


@pytest.mark.parametrize("name", ["two\nlines", " car", "car ", "", "bell\x07", "a\u2028b", "a\uffff"])
def test_names_that_tools_would_change_are_errors(tmp_path: Path, name: str) -> None:
    path = write_set(tmp_path / "in", ["a.png"])
    edit(path, categories={"name": name})
    with pytest.raises(DataError, match="the category 9 is named .*; expected a name without control characters"):
        export(open_truth(tmp_path / "in"), FORMAT, tmp_path / "out", OPTIONS, SILENT)


def test_a_name_of_two_classes_is_an_error(tmp_path: Path) -> None:
    path = write_set(tmp_path / "in", ["a.png"])
    edit(path, categories={"name": "no"})
    with pytest.raises(DataError, match="the categories 9 and 30 are both named 'no'"):
        export(open_truth(tmp_path / "in"), FORMAT, tmp_path / "out", OPTIONS, SILENT)


def test_images_of_predictions_are_found_without_their_folders(tmp_path: Path) -> None:
    path = write_set(tmp_path / "in", ["b/c.png"])
    (split,) = export(open_predictions(path, tmp_path / "in/images/val/b"), FORMAT, tmp_path / "out", OPTIONS, SILENT)
    assert split.images == 1
    assert (tmp_path / "out/images/train/b/c.png").is_file()


def test_a_prediction_with_unlisted_segments_is_an_error(tmp_path: Path) -> None:
    path = write_set(tmp_path / "in", ["a.png"])
    content = json.loads(path.read_text())
    del content["annotations"][0]["segments_info"][:2]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"contains the segment ids 300, 70000, which .* does not list"):
        export(open_predictions(path, tmp_path / "in/images/val"), FORMAT, tmp_path / "out", OPTIONS, SILENT)


def test_a_lowest_score_needs_scores(tmp_path: Path) -> None:
    path = write_set(tmp_path / "in", ["a.png"])
    with pytest.raises(DataError, match="no segment in .* has a score; expected scores for --min-score"):
        open_predictions(path, tmp_path / "in/images/val", min_score=0.5)
    with pytest.raises(DataError, match="--min-score nan: expected a number, such as 0.5"):
        open_predictions(path, tmp_path / "in/images/val", min_score=math.nan)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    path = write_set(tmp_path / "in", ["a.png"])
    with pytest.raises(DataError, match="the folder of images .*nowhere does not exist"):
        open_predictions(path, tmp_path / "nowhere")
    path.with_suffix("").rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"the folder of PNGs, next to panoptic_val.json, .* does not exist"):
        open_predictions(path, tmp_path / "in/images/val")


def test_a_rotated_photo_is_exported_as_displayed(tmp_path: Path) -> None:
    """Labels and panoptic maps have the size with the EXIF orientation applied."""
    write_set(tmp_path / "in", ["a.jpg"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "in/images/val/a.jpg", exif=exif)
    export(open_truth(tmp_path / "in"), FORMAT, tmp_path / "out", OPTIONS, SILENT)
    (row,) = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())["images"]
    assert (row["width"], row["height"]) == (WIDTH, HEIGHT)


def test_areas_and_boxes_are_those_of_the_pixels(tmp_path: Path) -> None:
    path = write_set(tmp_path / "in", ["a.png"])
    content = json.loads(path.read_text())
    for row in content["annotations"][0]["segments_info"]:
        row.update(area=1, bbox=[0, 0, 1, 1])
    path.write_text(json.dumps(content))
    export(open_truth(tmp_path / "in"), FORMAT, tmp_path / "out", OPTIONS, SILENT)
    rows = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())["annotations"]
    ids = CocoPanoptic(tmp_path / "in", "val").annotation(0).ids
    assert sorted(row["area"] for row in rows) == sorted(np.unique(ids[ids > 0], return_counts=True)[1].tolist())


def test_a_full_disk_leaves_no_output(tmp_path: Path) -> None:
    write_set(tmp_path / "in")
    with files_of_at_most(100), pytest.raises(PanformerError, match="cannot write .*instances_val.json"):
        export(open_truth(tmp_path / "in"), FORMAT, tmp_path / "out", OPTIONS, SILENT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_every_class_is_in_the_class_file(tmp_path: Path) -> None:
    exported(FORMAT, tmp_path)
    table = read_classes(tmp_path / "out/classes.csv")
    assert table == CocoPanoptic(tmp_path / "in", "val").categories
    assert len(table) == len(CATEGORIES)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "yolo", "shapes": "masks"}, "YOLO has no masks; leave out --shapes masks"),
        ({"name": "yolo", "tolerance": math.nan}, "--simplify nan: expected a number of pixels, 0 or more"),
        ({"name": "cvat", "tolerance": 1.0}, "--simplify needs polygons; add --shapes polygons, or leave it out"),
        ({"name": "labelme", "image_url": "x"}, "--image-url needs --to label-studio; leave it out"),
    ],
)
def test_options_of_other_formats_are_errors(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    write_set(tmp_path / "in", ["a.png"])
    with pytest.raises(PanformerError, match=sentence):
        open_format(categories=open_truth(tmp_path / "in").categories, **options)


def test_every_format_has_its_name(tmp_path: Path) -> None:
    write_set(tmp_path / "in", ["a.png"])
    categories = open_truth(tmp_path / "in").categories
    assert [open_format(name, categories).name for name in FORMATS] == list(FORMATS)
