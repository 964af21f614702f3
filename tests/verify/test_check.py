"""The checker: a valid data set has no findings, and each fault gives exactly its own finding."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.verify.findings import EXAMPLES, Problem
from tests.data.coco.coco_files import BALL, SKY, colors, scene, write_coco
from tests.verify.damage import DataSet, check, counts, data_set, noise, save_rotated

Damage = Callable[[DataSet], object]


def test_images_that_the_json_does_not_list_are_counted_by_reason(tmp_path: Path) -> None:
    data_set(tmp_path)
    folder = tmp_path / "images/val"
    used = next(folder.iterdir())
    for name in ("more.png", "deeper/other.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(used, folder / name)
    (folder / "notes.txt").touch()
    (folder / "._more.png").touch()
    (report,) = check(tmp_path)
    assert report.is_good
    assert report.unlisted == (
        "left out: 2 unused images (not listed in the JSON): deeper/other.png, more.png",
        "left out: 1 .txt (not an image): notes.txt",
        "left out: 1 file of an operating system or a NAS: ._more.png",
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_valid_data_set_has_no_findings(tmp_path: Path, workers: int) -> None:
    write_coco(tmp_path, images=20)
    (report,) = check(tmp_path, workers=workers, decodes_images=True)
    assert (report.split, report.images, report.segments) == ("val", 20, 60)
    assert report.problems == ()
    assert report.is_good


def test_optional_values_may_be_missing(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    for image in data.json["images"]:
        del image["height"], image["width"]
    for row in data.json["annotations"]:
        row["segments_info"] = [{"id": one["id"], "category_id": one["category_id"]} for one in row["segments_info"]]
    data.save()
    assert check(tmp_path)[0].problems == ()


def set_segment(position: int = 1, **values: Any) -> Damage:
    return lambda data: data.segment(position).update(values)


def set_row(**values: Any) -> Damage:
    return lambda data: data.row().update(values)


def set_image(**values: Any) -> Damage:
    return lambda data: data.json["images"][1].update(values)


def set_category(**values: Any) -> Damage:
    return lambda data: data.json["categories"][2].update(values)


def add(*keys: str, item: Any) -> Damage:
    """Append an item to a top-level list or to the segments of image 1."""
    return lambda data: (data.row()["segments_info"] if keys == ("segments",) else data.json[keys[0]]).append(item)


def repeat(key: str, index: int) -> Damage:
    return lambda data: data.json[key].append(data.json[key][index])


def redraw(change: Callable[[Any], Any]) -> Damage:
    return lambda data: data.redraw(change)


def save_png(image: Image.Image) -> Damage:
    return lambda data: image.save(data.pngs / "1.mask.png")


def save_image(image: Image.Image) -> Damage:
    return lambda data: image.save(data.images / "1.png")


def rename(name: str, key: str = "image") -> Damage:
    """Rename the file and change its name in the JSON."""

    def apply(data: DataSet) -> None:
        folder, row = (data.images, data.json["images"][1]) if key == "image" else (data.pngs, data.row())
        target = folder / name.replace("\\", "/")
        target.parent.mkdir(exist_ok=True)
        (folder / row["file_name"]).rename(target)
        row["file_name"] = name

    return apply


def cut(name: str) -> Damage:
    def apply(data: DataSet) -> None:
        path = data.root / name
        path.write_bytes(path.read_bytes()[:-20])

    return apply


def turned(orientation: int, size: tuple[int, int]) -> Damage:
    return lambda data: save_rotated(data.images / "1.png", orientation, size)


def paint(ids: Any, place: tuple[slice, slice], value: int) -> Any:
    ids[place] = value
    return ids


def add_second_sky(data: DataSet) -> None:
    data.redraw(lambda ids: paint(ids, (slice(32, 36), slice(0, 10)), 77))
    row = {"id": 77, "category_id": SKY, "iscrowd": 0, "bbox": [0, 32, 10, 4], "area": 40}
    data.row()["segments_info"].append(row)


def add_tiny_ball(data: DataSet) -> None:
    data.redraw(lambda ids: paint(ids, (slice(32, 35), slice(0, 3)), 77))
    row = {"id": 77, "category_id": BALL, "iscrowd": 0, "bbox": [0, 32, 3, 3], "area": 9}
    data.row()["segments_info"].append(row)


def without_segments(data: DataSet) -> None:
    for number, row in enumerate(data.json["annotations"]):
        data.redraw(lambda ids: 0 * ids, number)
        row["segments_info"] = []


def mostly_void(data: DataSet) -> None:
    """Leave only the box of each image, at most 23 x 10 of 60 x 40 pixels."""
    for number, row in enumerate(data.json["annotations"]):
        data.redraw(lambda ids: np.where(ids >= 70000, ids, 0), number)
        row["segments_info"] = [row["segments_info"][1]]


def png_header(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


IDS = scene(1)[0]
EMPTY_SEGMENT = {"id": 9, "category_id": BALL, "iscrowd": 0, "bbox": [0, 0, 0, 0], "area": 0}

FAULTS: list[tuple[Problem, int, Damage]] = [
    # Kind, number of fixable findings, and the fault. Each gives one finding.
    (Problem.JSON_LISTS, 0, lambda data: data.json.pop("images")),
    (Problem.JSON_LISTS, 0, lambda data: data.json.pop("categories")),
    (Problem.JSON_LISTS, 0, lambda data: data.json.update(annotations={})),
    (Problem.JSON_LISTS, 0, lambda data: data.json.update(images=[])),
    (Problem.JSON_LISTS, 0, lambda data: data.json.update(annotations=[])),
    (Problem.JSON_LISTS, 0, lambda data: data.json.update(categories=[])),
    (Problem.CATEGORY_ROW, 0, set_category(color=[0, 0, 256])),
    (Problem.CATEGORY_ROW, 0, add("categories", item={"id": "12", "name": "x", "isthing": 1})),
    (Problem.CATEGORY_ROW, 0, add("categories", item=["x"])),
    (Problem.CATEGORY_ROW, 0, add("categories", item={"id": 12, "isthing": 1})),
    (Problem.CATEGORY_TWICE, 0, repeat("categories", 0)),
    (Problem.CATEGORY_NAME, 0, set_category(name="")),
    (Problem.CATEGORY_NAME, 0, set_category(name=" ")),
    (Problem.CATEGORY_NAME, 0, set_category(name=7)),
    (Problem.CATEGORY_NAME, 0, set_category(name="3.0")),
    (Problem.CATEGORY_NAME, 0, set_category(name=None)),
    (Problem.CATEGORY_NAME_TWICE, 0, set_category(name="box")),
    (Problem.CATEGORY_NAME_TWICE, 0, set_category(name="box ")),
    (Problem.IS_THING, 0, lambda data: data.json["categories"][2].pop("isthing")),
    (Problem.IS_THING, 0, set_category(isthing=2)),
    (Problem.IS_THING, 0, set_category(isthing="1")),
    (Problem.IMAGE_ROW, 0, add("images", item={"id": [1], "file_name": "x.png"})),
    (Problem.IMAGE_ROW, 0, add("images", item={"id": 999})),
    (Problem.IMAGE_ROW, 0, set_image(id=None)),
    (Problem.IMAGE_TWICE, 0, repeat("images", 0)),
    (Problem.IMAGE_UNANNOTATED, 0, lambda data: data.json["annotations"].pop(1)),
    (Problem.ANNOTATION_ROW, 0, add("annotations", item=None)),
    (Problem.ANNOTATION_ROW, 0, set_row(segments_info="none")),
    (Problem.ANNOTATION_ROW, 0, set_row(file_name="")),
    (Problem.ANNOTATION_ROW, 0, set_row(image_id={"id": 101})),
    (Problem.ANNOTATION_TWICE, 0, repeat("annotations", 0)),
    (Problem.ANNOTATION_UNLISTED, 0, lambda data: data.json["images"].pop(1)),
    (Problem.NAME_UNUSABLE, 0, set_image(file_name="../val/1.png")),
    (Problem.NAME_UNUSABLE, 0, set_image(file_name="C:\\1.png")),
    (Problem.NAME_UNUSABLE, 0, set_image(file_name="\ud800.png")),
    (Problem.NAME_UNUSABLE, 0, set_image(file_name="caf\udce9.png")),
    (Problem.NAME_UNUSABLE, 0, set_row(file_name="/etc/passwd")),
    (Problem.NAME_UNUSABLE, 0, set_row(file_name="a\0b")),
    (Problem.NAME_BACKSLASH, 1, rename("sub\\1.png")),
    (Problem.NAME_BACKSLASH, 1, rename("sub\\1.png", "png")),
    (Problem.NAME_NOT_ASCII, 0, rename("bär.png")),
    (Problem.NAME_NOT_ASCII, 0, rename("bär.png", "png")),
    (Problem.IMAGE_MISSING, 0, lambda data: (data.images / "1.png").unlink()),
    (Problem.IMAGE_MISSING, 0, set_image(file_name="x" * 300)),
    (Problem.IMAGE_DAMAGED, 0, lambda data: (data.images / "1.png").write_bytes(b"")),
    (Problem.IMAGE_DAMAGED, 0, lambda data: (data.images / "1.png").write_text("<html>")),
    (Problem.IMAGE_DAMAGED, 0, lambda data: (data.images / "1.png").write_bytes(png_header(60000, 60000))),
    (Problem.IMAGE_DAMAGED, 0, cut("images/val/1.png")),
    (Problem.IMAGE_ROTATED, 0, turned(6, (60, 40))),
    (Problem.IMAGE_ORIENTATION, 0, turned(3, (60, 40))),
    (Problem.IMAGE_SIZE, 0, save_image(noise(41, 60))),
    (Problem.PNG_MISSING, 0, lambda data: (data.pngs / "1.mask.png").unlink()),
    (Problem.PNG_FORMAT, 0, save_png(Image.fromarray(colors(IDS)).convert("P"))),
    (Problem.PNG_FORMAT, 0, save_png(Image.fromarray(colors(IDS)).convert("RGBA"))),
    (Problem.PNG_FORMAT, 0, save_png(Image.fromarray((IDS % 256).astype(np.uint8)))),
    (Problem.PNG_FORMAT, 0, save_png(Image.fromarray((IDS % 65536).astype(np.uint16)))),
    (Problem.PNG_FORMAT, 0, lambda data: noise(40, 60).save(data.pngs / "1.mask.png", format="JPEG")),
    (Problem.PNG_DAMAGED, 0, cut("annotations/panoptic_val/1.mask.png")),
    (Problem.SIZE_LISTED, 1, set_image(height=41)),
    (Problem.SIZE_LISTED, 1, set_image(height=60, width=40)),
    (Problem.SIZE_LISTED, 1, set_image(height="40")),
    (Problem.SIZE_LISTED, 1, set_image(width=0)),
    (Problem.SEGMENT_ROW, 0, add("segments", item=None)),
    (Problem.SEGMENT_ROW, 0, add("segments", item={"id": 2**24, "category_id": BALL})),
    (Problem.SEGMENT_ROW, 0, set_segment(id=0)),
    (Problem.SEGMENT_ROW, 0, set_segment(id="70001")),
    (Problem.SEGMENT_ROW, 0, set_segment(iscrowd=2)),
    (Problem.SEGMENT_ROW, 0, set_segment(score="a")),
    (Problem.SEGMENT_TWICE, 0, lambda data: data.row()["segments_info"].append(data.segment())),
    (Problem.SEGMENT_UNLISTED, 0, lambda data: data.row()["segments_info"].pop(1)),
    (Problem.SEGMENT_UNLISTED, 0, redraw(lambda ids: paint(ids, (slice(32, 36), slice(0, 10)), 77))),
    (Problem.SEGMENT_NOT_DRAWN, 1, add("segments", item=EMPTY_SEGMENT)),
    (Problem.CATEGORY_UNKNOWN, 0, set_segment(category_id=4)),
    (Problem.CATEGORY_UNKNOWN, 0, set_segment(category_id="7")),
    (Problem.CATEGORY_UNKNOWN, 0, lambda data: data.segment().pop("category_id")),
    (Problem.STUFF_TWICE, 0, add_second_sky),
    (Problem.STUFF_CROWD, 0, set_segment(0, iscrowd=1)),
    (Problem.AREA, 1, set_segment(area=800)),
    (Problem.AREA, 1, set_segment(area=-1)),
    (Problem.AREA, 1, set_segment(area="210")),
    (Problem.AREA, 1, set_segment(area=float("nan"))),
    (Problem.BOX, 1, set_segment(bbox=[10, 5, 20, 9])),
    (Problem.BOX, 1, set_segment(bbox=[10, 5, 21])),
    (Problem.BOX, 1, set_segment(bbox="all")),
    (Problem.TINY, 0, add_tiny_ball),
    (Problem.SPLIT_EMPTY, 0, without_segments),
    (Problem.SPLIT_VOID, 0, mostly_void),
]


@pytest.mark.parametrize(("problem", "fixable", "damage"), FAULTS)
def test_each_fault_gives_exactly_its_own_finding(
    tmp_path: Path, problem: Problem, fixable: int, damage: Damage
) -> None:
    data = data_set(tmp_path)
    damage(data)
    data.save()
    (report,) = check(tmp_path, "val", decodes_images=True)
    assert counts(report) == {problem: (1, fixable)}
    assert report.is_good is problem.is_warning
    (found,) = report.problems
    assert len(found.examples) == 1
    assert "expected" in found.examples[0] or ";" in found.examples[0]


def test_every_kind_of_problem_has_a_test() -> None:
    elsewhere = {Problem.JSON_DAMAGED, Problem.LEAKAGE}
    assert {problem for problem, _, _ in FAULTS} | elsewhere == set(Problem)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"images": []', '{"images": []} x', '{"images": [,]}', '{"a": 1, "a": 2}', "\x80", "[" * 100_000],
)
def test_an_invalid_json_is_one_finding(tmp_path: Path, text: str) -> None:
    data = data_set(tmp_path)
    data.annotation.write_bytes(text.encode("latin-1"))
    (report,) = check(tmp_path, "val")
    assert counts(report) == {Problem.JSON_DAMAGED: (1, 0)}
    assert not report.is_good


def test_a_huge_png_is_rejected_by_its_header(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    (data.pngs / "1.mask.png").write_bytes(png_header(60000, 60000))
    assert counts(check(tmp_path, "val")[0]) == {Problem.PNG_DAMAGED: (1, 0), Problem.IMAGE_SIZE: (1, 0)}


def test_images_are_decoded_only_on_request(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    cut("images/val/1.png")(data)
    assert check(tmp_path, "val")[0].is_good
    assert not check(tmp_path, "val", decodes_images=True)[0].is_good


def test_an_annotation_with_the_rotation_applied_is_valid(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    turned(6, (40, 60))(data)  # stored upright, shown as 60 x 40, the size of the PNG
    assert check(tmp_path, "val")[0].problems == ()


def test_a_real_rotated_photo_is_reported(tmp_path: Path, shared: Path) -> None:
    photo = shared / "data" / "photos" / "portrait_exif_orientation_6.jpg"  # stored 1800x1200, shown 1200x1800
    data = data_set(tmp_path)
    shutil.copy(photo, data.images / "1.png")
    ids = np.zeros((1200, 1800), np.int32)
    ids[:40, :60] = IDS
    Image.fromarray(colors(ids)).save(data.pngs / "1.mask.png")
    data.json["images"][1].update(height=1200, width=1800)
    data.save()
    found, void = check(tmp_path, "val")[0].problems
    assert (found.problem, void.problem) == (Problem.IMAGE_ROTATED, Problem.SPLIT_VOID)
    assert "EXIF orientation 6 and is displayed as 1200x1800, but its PNG is 1800x1200" in found.examples[0]


def test_images_of_two_splits(tmp_path: Path) -> None:
    write_coco(tmp_path, images=3, split="train")
    write_coco(tmp_path, images=2, split="val")
    noise(40, 60).save(tmp_path / "images" / "val" / "0.png")
    train, val = check(tmp_path)
    assert (train.split, train.problems) == ("train", ())
    assert counts(val) == {Problem.LEAKAGE: (1, 0)}
    assert "'1.png' of val is the same file as '1.png' of train" in val.problems[0].examples[0]
    assert check(tmp_path, "val")[0].is_good


def test_findings_are_counted_but_only_the_first_are_kept(tmp_path: Path) -> None:
    write_coco(tmp_path, images=30)
    shutil.rmtree(tmp_path / "images" / "val")
    (tmp_path / "images" / "val").mkdir()
    for workers in (1, 2):
        (found,) = check(tmp_path, workers=workers)[0].problems
        assert (found.problem, found.count, len(found.examples)) == (Problem.IMAGE_MISSING, 30, EXAMPLES)
        assert found.examples[0].startswith(f"the image {tmp_path}/images/val/0.png is missing")


def test_many_faults_at_once(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    set_segment(area=1, bbox=None)(data)
    set_segment(0, iscrowd=1, area=2)(data)
    repeat("categories", 1)(data)
    (data.images / "2.png").unlink()
    data.save()
    found = counts(check(tmp_path)[0])
    assert found == {
        Problem.CATEGORY_TWICE: (1, 0),
        Problem.IMAGE_MISSING: (1, 0),
        Problem.STUFF_CROWD: (1, 0),
        Problem.AREA: (2, 2),
    }


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_coco_images_are_valid(shared: Path, split: str) -> None:
    """See data/coco_mini/SOURCE.md; none of their segments is tiny."""
    (report,) = check(shared / "data" / "coco_mini", split, decodes_images=True)
    expected = {"train2017": (14, 133), "val2017": (5, 88)}
    assert (report.images, report.segments) == expected[split]
    assert report.problems == ()


def test_a_real_cityscapes_annotation_lacks_only_two_lists(tmp_path: Path, shared: Path) -> None:
    source = shared / "data" / "cityscapes_mini" / "gtFine"
    name = "cityscapes_panoptic_dummy_trainId"
    shutil.copytree(source / name, tmp_path / "annotations" / "panoptic_dummy")
    shutil.copy(source / f"{name}.json", tmp_path / "annotations" / "panoptic_dummy.json")
    (tmp_path / "images" / "dummy").mkdir(parents=True)
    (report,) = check(tmp_path)
    assert counts(report) == {Problem.JSON_LISTS: (2, 0)}
    assert (report.images, report.segments) == (1, 10)


def test_input_that_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        check(tmp_path / "no")
    with pytest.raises(DataError, match="has no panoptic JSON"):
        check(tmp_path)
    data = data_set(tmp_path)
    with pytest.raises(DataError, match="did you mean 'val'"):
        check(tmp_path, "vall")
    shutil.rmtree(data.images)
    with pytest.raises(DataError, match="annotations of val but no folder of images"):
        check(tmp_path)


def test_valid_data_can_be_read_and_undrawn_segments_cannot(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    assert check(tmp_path)[0].is_good
    assert len(list(CocoPanoptic(tmp_path, "val"))) == 3
    add("segments", item=EMPTY_SEGMENT)(data)
    data.save()
    assert not check(tmp_path)[0].is_good
    with pytest.raises(DataError, match="only in the segments_info"):
        list(CocoPanoptic(tmp_path, "val"))


def test_an_image_id_as_text_against_a_number_is_named(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    number = data.row()["image_id"]
    data.row().update(image_id=str(number))
    data.save()
    problems = {problem.problem: problem for problem in check(tmp_path)[0].problems}
    sentence = problems[Problem.ANNOTATION_UNLISTED].examples[0]
    assert f"not listed in images as text but as numbers ({number}); write both alike" in sentence
