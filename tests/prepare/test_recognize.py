"""Which form a folder has, from small data sets of every form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from panformer_cli.errors import DataError
from panformer_cli.prepare.recognize import contents, hint, recognize, refusal
from panformer_cli.reporting import SilentReporter
from panformer_cli.verify.check import VerifyOptions, verify
from tests.cli.prepare_folders import SOURCES, coco_instances, cvat, labelme, masks, save_image, text, yolo

RAW = [source for source in SOURCES if source.__name__ not in ("custom", "coco_images", "coco_pngs")]


def names(root: Path) -> list[str]:
    return [form.source for form in recognize(root)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_every_form_is_recognized(tmp_path: Path, source: Callable[[Path], list[str]]) -> None:
    words = source(tmp_path)
    (form,) = recognize(tmp_path)
    assert form.words("O")[:3] == [words[0], "--root", str(tmp_path)]
    assert form.words("O")[5:] == words[1:], "the class file is found"


@pytest.mark.parametrize("source", RAW, ids=lambda source: source.__name__)
def test_verify_names_the_form_and_its_command(tmp_path: Path, source: Callable[[Path], list[str]]) -> None:
    words = source(tmp_path)
    with pytest.raises(DataError) as caught:
        verify(tmp_path, (), VerifyOptions(), SilentReporter())
    command = f"`panformer prepare-data {words[0]} --root {tmp_path} --out DIR"
    assert "has no panoptic JSON but" in str(caught.value) and command in str(caught.value)
    with pytest.raises(DataError, match=f"prepare-data {words[0]}"):
        verify(tmp_path, ("val",), VerifyOptions(), SilentReporter())


def test_verify_says_what_is_in_other_folders(tmp_path: Path) -> None:
    save_image(tmp_path / "photos/a.jpg")
    text(tmp_path / "notes.md", "")
    with pytest.raises(
        DataError, match="found 1 file with .jpg, 1 file with .md and the folder photos|found 1 file with .md"
    ):
        verify(tmp_path, (), VerifyOptions(), SilentReporter())


@pytest.mark.parametrize(
    ("path", "evidence"),
    [
        ("annotations.json", "annotations.json has images"),
        ("labels.json", "labels.json has images"),
        ("result.json", "result.json"),
        ("images/_annotations.coco.json", "images/_annotations.coco.json"),
        ("train/_annotations.coco.json", "train/_annotations.coco.json"),
        ("annotations/instances_default.json", "annotations/instances_default.json"),
    ],
)
def test_jsons_of_instances(tmp_path: Path, path: str, evidence: str) -> None:
    content = {"images": [{"id": 1}], "annotations": [{"image_id": 1, "category_id": 1}], "categories": []}
    text(tmp_path / path, json.dumps(content))
    (form,) = recognize(tmp_path)
    assert form.source == "coco-instances" and form.evidence.startswith(evidence)


def test_a_large_json_is_recognized_by_its_ends(tmp_path: Path) -> None:
    rows = '{"image_id": 1, "category_id": 1}'
    padding = " " * 3_000_000
    text(tmp_path / "a.json", f'{{"images": [], "annotations": [{padding}{rows}], "categories": []}}')
    assert names(tmp_path) == ["coco-instances"]
    text(tmp_path / "a.json", f'{{"shapes": [], "imagePath": "a.jpg", "imageData": "{padding}"}}')
    assert names(tmp_path) == ["labelme"]


def test_few_of_many_jsons_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = json.dumps({"shapes": [], "imagePath": "a.jpg"})
    for number in range(300):
        text(tmp_path / f"{number:03}.json", shapes)
    opened = []
    read = Path.open

    def counting(path: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(path)
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", counting)
    assert names(tmp_path) == ["labelme"]
    assert 0 < len({path for path in opened if path.suffix == ".json"}) <= 80
    opened.clear()
    assert hint(tmp_path, "labelme") == ""
    assert len(opened) <= 80
    rows = [{"image_id": number, "category_id": 1} for number in range(300)]
    text(tmp_path / "z.json", json.dumps({"images": [], "annotations": rows, "categories": []}))
    assert names(tmp_path) == ["coco-instances", "labelme"]


def test_yolo_without_a_configuration(tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    (form,) = recognize(tmp_path)
    assert (
        form.needs_classes
        and form.command() == f"panformer prepare-data yolo --root {tmp_path} --out DIR --classes FILE"
    )
    text(tmp_path / "classes.txt", "car\nroad\n")
    (form,) = recognize(tmp_path)
    assert not form.needs_classes and form.evidence == "classes.txt and labels/train/a.txt has rows of numbers"


def test_text_files_that_are_no_labels(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    text(tmp_path / "a.txt", "A street at noon.")
    text(tmp_path / "classes.txt", "car\n")
    assert names(tmp_path) == []


def test_several_forms_are_all_found(tmp_path: Path) -> None:
    labelme(tmp_path)
    coco_instances(tmp_path)
    yolo(tmp_path)
    cvat(tmp_path)
    assert names(tmp_path) == ["coco-instances", "labelme", "yolo", "cvat"]


def test_a_data_set_in_an_inner_folder(tmp_path: Path) -> None:
    cvat(tmp_path / "job_7")
    (form,) = recognize(tmp_path)
    assert form.root == tmp_path / "job_7"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.xml",
            "<annotation><object><bndbox></bndbox></object></annotation>",
            "Pascal VOC's XML, which has boxes but no masks",
        ),
        ("a.json", '{"a": {"regions": [{"shape_attributes": {}}]}}', "VIA's JSON; export it as COCO"),
        ("a.json", '[{"from_name": "label", "to_name": "image"}]', "Label Studio's own JSON"),
        ("a.json", '[{"label": [{"brushlabels": ["a"], "original_width": 9}]}]', "Label Studio's JSON-MIN; export it"),
        (
            "a.json",
            '{"objects": [{"classTitle": "a", "points": {"exterior": []}}]}',
            "Supervisely's JSON; export it as COCO",
        ),
        ("a.xml", "<annotation><object><polygon><pt></pt></polygon></object></annotation>", "the LabelMe web tool"),
        ("a.json", '{"annotations": [{"predicted_iou": 1, "stability_score": 1}]}', "Segment Anything's JSON"),
        (
            "panoptic_val.json",
            '{"annotations": [{"segments_info": []}], "categories": []}',
            "panoptic_val.json is in COCO's panoptic format; expected it in annotations/panoptic_<split>.json",
        ),
        (
            "stuff_val.json",
            '{"images": [], "annotations": [], "categories": []}',
            "stuff_val.json is for another task of COCO; if it has masks, pass it to `coco-instances` as --json FILE",
        ),
        ("captions_val.json", '{"images": [], "annotations": []}', "it has images but no labels that are recognized"),
        ("export.zip", "", "export.zip is an archive; unpack it"),
        ("export.tar.gz", "", "export.tar.gz is an archive; unpack it"),
        ("scan.nii.gz", "", "it has images but no labels that are recognized"),
        ("a.txt", "", "it has images but no labels"),
    ],
)
def test_what_is_said_about_other_labels(tmp_path: Path, name: str, content: str, message: str) -> None:
    save_image(tmp_path / "a.jpg")
    text(tmp_path / name, content)
    assert names(tmp_path) == [] and message in str(refusal(tmp_path))


@pytest.mark.parametrize("inner", ["", "VOCdevkit/VOC2012"])
def test_the_masks_of_pascal_voc(tmp_path: Path, inner: str) -> None:
    voc = tmp_path / inner
    save_image(voc / "JPEGImages/a.jpg")
    save_image(voc / "SegmentationClass/a.png")
    text(voc / "Annotations/a.xml", "<annotation><object><bndbox></bndbox></object></annotation>")
    assert "copy JPEGImages and SegmentationClass to images and masks in a new folder" in str(refusal(tmp_path))
    text(voc / "labelmap.txt", "# label:color_rgb:parts:actions\ncar:250,50,83::\n")  # CVAT, with RGB PNGs
    assert "has the masks of CVAT, whose colors are in labelmap.txt, but not" in str(refusal(tmp_path))
    (voc / "labelmap.txt").unlink()
    save_image(voc / "SegmentationObject/a.png")
    assert "to images, semantic and instance in a new folder, and run `prepare-data png-pairs`" in str(
        refusal(tmp_path)
    )


@pytest.mark.parametrize("split", ["training", "train", "validation"])
def test_mapillary_with_any_names_of_splits(tmp_path: Path, split: str) -> None:
    save_image(tmp_path / split / "images/a.jpg")
    text(tmp_path / "config.json", '{"steps": 100, "labels": 3}')
    assert names(tmp_path) == [], "the configuration of something else"
    text(tmp_path / "config.json", '{"labels": [{"name": "animal--bird", "evaluate": true}]}')
    (form,) = recognize(tmp_path)
    assert form.source == "mapillary" and form.evidence == f"config.json and {split}/images"


def test_the_contents_of_a_folder(tmp_path: Path) -> None:
    assert contents(tmp_path) == "no files"
    for number in range(3):
        save_image(tmp_path / f"photos/{number}.JPG")
    text(tmp_path / "LICENSE", "")
    text(tmp_path / ".hidden", "")
    text(tmp_path / "more/a.txt", "")
    assert (
        contents(tmp_path) == "3 files with .jpg, 1 file with no suffix, 1 file with .txt and the folders more, photos"
    )


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing does not exist"):
        recognize(tmp_path / "missing")


def test_a_list_of_names_is_offered_for_masks(tmp_path: Path) -> None:
    masks(tmp_path)
    (tmp_path / "classes.csv").rename(tmp_path / "classes.txt")
    (form,) = recognize(tmp_path)
    assert f"--classes {tmp_path}/classes.txt" in form.command()
