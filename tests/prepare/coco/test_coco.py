"""Preparing a COCO folder: zips, checks, and annotations in detection format."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from panformer_cli.errors import DataError, PanformerError
from panformer_cli.prepare.coco import in_place
from panformer_cli.prepare.coco.coco import prepare_coco, prepare_custom
from panformer_cli.prepare.coco.in_place import Prepared
from panformer_cli.prepare.coco.rle import encode_segments
from panformer_cli.prepare.convert import ConvertOptions
from panformer_cli.reporting import SilentReporter

CATEGORIES = [
    {"id": 3, "name": "cat", "isthing": 1, "supercategory": "animal"},
    {"id": 90, "name": "grass", "isthing": 0, "supercategory": "plant"},
]
IDS = np.array([[0, 0, 260, 260], [70000, 70000, 260, 5], [70000, 70000, 5, 5]])
"""3 x 4 pixels: two void pixels, a cat (260), grass (70000) and a crowd of cats (5)."""
SEGMENTS = [
    {"id": 260, "category_id": 3, "iscrowd": 0, "bbox": [2, 0, 2, 2], "area": 3},
    {"id": 70000, "category_id": 90, "iscrowd": 0, "bbox": [0, 1, 2, 2], "area": 4},
    {"id": 5, "category_id": 3, "iscrowd": 1, "bbox": [2, 1, 2, 2], "area": 3},
]


class Listening(SilentReporter):
    """Records warnings and counts steps."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.totals: dict[str, int] = {}
        self.steps = 0

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, what: str, total: int, done: int = 0) -> AbstractContextManager[Any]:
        self.totals[what] = total
        return nullcontext(self)

    def advance(self, steps: int = 1, status: str = "") -> None:
        self.steps += steps


def make_split(root: Path, split: str = "val2017", images: int = 2) -> dict[str, Any]:
    """Write a data set of equal small images to `root` and return its panoptic JSON."""
    content: dict[str, Any] = {"info": {"year": 1}, "licenses": [], "images": [], "annotations": []}
    pngs = root / "annotations" / f"panoptic_{split}"
    (root / "images" / split).mkdir(parents=True)
    pngs.mkdir(parents=True)
    colors = np.stack([IDS % 256, IDS // 256 % 256, IDS // 65536], axis=-1).astype(np.uint8)
    for number in range(1, images + 1):
        Image.new("RGB", (4, 3)).save(root / "images" / split / f"{number}.jpg")
        Image.fromarray(colors).save(pngs / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.jpg", "width": 4, "height": 3})
        content["annotations"].append(
            {"image_id": number, "file_name": f"{number}.png", "segments_info": [dict(row) for row in SEGMENTS]}
        )
    content["categories"] = CATEGORIES
    save(root, content, split)
    return content


def save(root: Path, content: dict[str, Any], split: str = "val2017") -> None:
    (root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(content))


def prepare(root: Path, *splits: str, out: Path | None = None, **options: Any) -> list[Prepared]:
    return prepare_coco(root, splits, ConvertOptions(**options), SilentReporter(), out=out)


def detection_of(prepared: Prepared) -> Any:
    assert prepared.detection is not None
    return json.loads(prepared.detection.read_text())


def refusal(root: Path, *splits: str) -> str:
    """Return the error; nothing may remain except the log of checked images, from which a rerun resumes."""
    before = files_below(root)
    with pytest.raises(PanformerError) as raised:
        prepare(root, *splits)
    assert {path for path in files_below(root) if "/.panoptic_val2017.parts" not in path} == before
    return str(raised.value)


def files_below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def pack(path: Path, *sources: Path) -> None:
    """Zip each file or folder under its own name and remove it."""
    with zipfile.ZipFile(path, "w") as archive:
        for source in sources:
            for file in sorted(source.iterdir()) if source.is_dir() else [source]:
                archive.write(file, file.relative_to(source.parent))
    for source in sources:
        shutil.rmtree(source) if source.is_dir() else source.unlink()


@pytest.mark.slow
def test_equal_to_the_reference_converter(shared: Path, tmp_path: Path) -> None:
    (prepared,) = prepare(shared / "data" / "coco_mini", "val2017", out=tmp_path / "new")
    assert prepared.detection == tmp_path / "new" / "panoptic_val2017_detection_format.json"
    found = detection_of(prepared)
    expected = json.loads((shared / "golden" / "detection_val2017.json").read_text())
    assert len(expected["annotations"]) == 88
    for ours, theirs in zip(found["annotations"], expected["annotations"], strict=True):
        assert ours == theirs
    assert found == expected


@pytest.mark.slow
def test_summary_of_the_real_sample(shared: Path, tmp_path: Path) -> None:
    both = prepare(shared / "data" / "coco_mini", out=tmp_path)
    train, val = (prepared.summary for prepared in both)
    assert (train.split, train.images, train.segments, train.crowd) == ("train2017", 14, 133, 0)
    assert (val.split, val.images, val.segments, val.crowd) == ("val2017", 5, 88, 3)
    assert 0.08 < train.void_share < 0.1
    table = {row["id"]: row["isthing"] for row in _panoptic_json(shared)["categories"]}
    flags = [table[row["category_id"]] for row in detection_of(both[1])["annotations"]]
    assert (val.things, val.stuff) == (flags.count(1), flags.count(0))


def _panoptic_json(shared: Path) -> dict[str, Any]:
    path = shared / "data" / "coco_mini" / "annotations" / "panoptic_val2017.json"
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_result_of_a_small_split(tmp_path: Path) -> None:
    content = make_split(tmp_path)
    (prepared,) = prepare(tmp_path)
    summary = prepared.summary
    assert (summary.split, summary.images, summary.segments) == ("val2017", 2, 6)
    assert (summary.things, summary.stuff, summary.crowd, summary.void_share) == (4, 2, 2, 4 / 24)
    assert prepared.detection == tmp_path / "annotations" / "panoptic_val2017_detection_format.json"
    found = detection_of(prepared)
    assert {key: found[key] for key in ("info", "licenses", "images")} == {
        key: content[key] for key in ("info", "licenses", "images")
    }
    assert found["categories"] == [
        {"id": 3, "name": "cat", "supercategory": "animal"},
        {"id": 90, "name": "grass", "supercategory": "plant"},
    ]
    assert [row["id"] for row in found["annotations"]] == [0, 1, 2, 3, 4, 5]


def test_pycocotools_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_split(tmp_path)
    (prepared,) = prepare(tmp_path)
    coco = COCO(prepared.detection)
    rows = coco.loadAnns(coco.getAnnIds(imgIds=[2], iscrowd=None))
    assert len(rows) == 3
    for row, segment in zip(rows, SEGMENTS, strict=True):
        assert np.array_equal(coco.annToMask(row), segment["id"] == IDS)
        assert {key: row[key] for key in ("category_id", "iscrowd", "bbox", "area")} == {
            key: segment[key] for key in ("category_id", "iscrowd", "bbox", "area")
        }


def test_annotations_in_another_order_than_images(tmp_path: Path) -> None:
    content = make_split(tmp_path)
    content["annotations"].reverse()
    content["images"].append({"id": 3, "file_name": "3.jpg"})  # not annotated
    save(tmp_path, content)
    (prepared,) = prepare(tmp_path)
    rows = detection_of(prepared)["annotations"]
    assert [row["image_id"] for row in rows] == [2, 2, 2, 1, 1, 1]
    assert prepared.summary.images == 2


def test_missing_values_are_measured(tmp_path: Path) -> None:
    content = make_split(tmp_path, images=1)
    content["annotations"][0]["segments_info"] = [
        {"id": row["id"], "category_id": row["category_id"]} for row in SEGMENTS
    ]
    del content["info"], content["licenses"]
    save(tmp_path, content)
    (prepared,) = prepare(tmp_path)
    found = detection_of(prepared)
    assert set(found) == {"images", "annotations", "categories"}
    assert [(row["bbox"], row["area"], row["iscrowd"]) for row in found["annotations"]] == [
        (row["bbox"], row["area"], 0) for row in SEGMENTS
    ]


def test_only_the_selected_splits(tmp_path: Path) -> None:
    for split in ("val2017", "train2017"):
        make_split(tmp_path, split)
    assert [prepared.summary.split for prepared in prepare(tmp_path, "train2017")] == ["train2017"]
    assert [prepared.summary.split for prepared in prepare(tmp_path)] == ["train2017", "val2017"]


def test_running_twice_gives_the_same_result(tmp_path: Path) -> None:
    make_split(tmp_path)
    (first,) = prepare(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (second,) = prepare(tmp_path)
    assert second == first
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    make_split(tmp_path, images=3)
    (tmp_path / "images" / "val2017" / "2.jpg").unlink()
    reporter = Listening()
    with pytest.raises(DataError):
        prepare_coco(tmp_path, (), ConvertOptions(), reporter)
    assert list(reporter.totals.values()) == [3] and reporter.steps == 3


@pytest.mark.parametrize("image_zip", ["val2017.zip", "images/val2017.zip"])
@pytest.mark.parametrize("outer", ["", "annotations", None])
def test_zips_as_downloaded(tmp_path: Path, image_zip: str, outer: str | None) -> None:
    make_split(tmp_path)
    annotations = tmp_path / "annotations"
    pack(tmp_path / image_zip, tmp_path / "images" / "val2017")
    pack(annotations / "panoptic_val2017.zip", annotations / "panoptic_val2017")
    if outer is not None:
        inside = annotations / "panoptic_val2017.json", annotations / "panoptic_val2017.zip"
        pack(tmp_path / outer / "panoptic_annotations_trainval2017.zip", *inside)
    zips = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.zip")}
    (prepared,) = prepare(tmp_path)
    assert prepared.summary.segments == 6
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.zip")} == zips  # only the downloads remain
    assert not [name for name in files_below(tmp_path) if "/." in name or name.startswith(".")]
    assert prepare(tmp_path) == [prepared]


def test_the_reference_layout_with_the_download_in_datasets(tmp_path: Path) -> None:
    make_split(tmp_path)
    annotations = tmp_path / "annotations"
    (tmp_path / "images").rename(tmp_path / "coco")
    pack(annotations / "panoptic_val2017.zip", annotations / "panoptic_val2017")
    inside = annotations / "panoptic_val2017.json", annotations / "panoptic_val2017.zip"
    pack(tmp_path / "panoptic_annotations_trainval2017.zip", *inside)
    (prepared,) = prepare(tmp_path / "coco")
    assert prepared.detection is not None
    assert prepared.detection.samefile(annotations / "panoptic_val2017_detection_format.json")


def test_annotations_without_images_are_skipped_with_a_warning(tmp_path: Path) -> None:
    for split in ("val2017", "train2017"):
        make_split(tmp_path, split)
    shutil.rmtree(tmp_path / "images" / "train2017")
    reporter = Listening()
    assert [one.summary.split for one in prepare_coco(tmp_path, (), ConvertOptions(), reporter)] == ["val2017"]
    assert len(reporter.warnings) == 1 and "skipping train2017" in reporter.warnings[0]
    assert "has no images" in refusal(tmp_path, "train2017")


def test_no_images_at_all(tmp_path: Path) -> None:
    make_split(tmp_path)
    shutil.rmtree(tmp_path / "images")
    assert "annotations of val2017 but no images" in refusal(tmp_path)


def test_empty_folder(tmp_path: Path) -> None:
    assert "neither annotations nor images" in refusal(tmp_path)


def test_missing_root_and_wrong_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        prepare(tmp_path / "nowhere")
    make_split(tmp_path)
    assert "did you mean 'val2017'?" in refusal(tmp_path, "val2107")
    assert "is not a valid split name" in refusal(tmp_path, "../val2017")


def test_all_bad_images_are_counted_and_the_first_described(tmp_path: Path) -> None:
    make_split(tmp_path, images=8)
    images, pngs = tmp_path / "images" / "val2017", tmp_path / "annotations" / "panoptic_val2017"
    (images / "1.jpg").unlink()
    (pngs / "2.png").unlink()
    Image.new("RGB", (3, 4)).save(images / "3.jpg")
    Image.new("RGB", (4, 4)).save(pngs / "4.png")
    Image.new("RGB", (4, 3)).save(pngs / "5.png")
    (images / "6.jpg").write_bytes(b"no image")
    (pngs / "7.png").write_bytes((pngs / "7.png").read_bytes()[:50])
    head, *named = refusal(tmp_path).splitlines()
    assert "7 of 8 images cannot be used, so the split is incomplete" in head
    assert str(tmp_path / "annotations" / "panoptic_val2017.json") in head
    for line, (bad, words) in zip(
        named[:5],
        [
            (images / "1.jpg", "is missing"),
            (pngs / "2.png", "is missing"),
            (images / "3.jpg", "is 3x4 but its panoptic PNG is 4x3"),
            (pngs / "4.png", "is 4x4"),
            (pngs / "5.png", "segment ids 5, 260, 70000"),
        ],
        strict=True,
    ):
        assert str(bad) in line and words in line
    assert named[5:] == ["  and 2 more"]


@pytest.mark.parametrize("damage", ["not_an_image", "cut_png"])
def test_corrupt_files(tmp_path: Path, damage: str) -> None:
    make_split(tmp_path)
    image, png = tmp_path / "images" / "val2017" / "1.jpg", tmp_path / "annotations" / "panoptic_val2017" / "1.png"
    path, content = (image, b"no image") if damage == "not_an_image" else (png, png.read_bytes()[:50])
    path.write_bytes(content)
    text = refusal(tmp_path)
    assert "1 of 2 images" in text and str(path) in text


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    make_split(tmp_path, images=1)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (3, 4)).save(tmp_path / "images" / "val2017" / "1.jpg", exif=turned)
    assert prepare(tmp_path)[0].summary.images == 1


@pytest.mark.parametrize("part", ["images", "annotations"])
def test_names_outside_of_the_folder(tmp_path: Path, part: str) -> None:
    content = make_split(tmp_path)
    content[part][0]["file_name"] = "../../secret.png"
    save(tmp_path, content)
    assert "points outside" in refusal(tmp_path)


def test_truncated_json(tmp_path: Path) -> None:
    make_split(tmp_path)
    path = tmp_path / "annotations" / "panoptic_val2017.json"
    path.write_text(path.read_text()[:-20])
    assert "is not valid JSON, or is truncated" in refusal(tmp_path)


def test_an_old_result_is_kept_after_a_failure(tmp_path: Path) -> None:
    make_split(tmp_path)
    (prepared,) = prepare(tmp_path)
    before = detection_of(prepared)
    (tmp_path / "images" / "val2017" / "2.jpg").unlink()
    refusal(tmp_path)
    assert detection_of(prepared) == before


def test_a_truncated_zip_leaves_no_files(tmp_path: Path) -> None:
    make_split(tmp_path)
    pngs = tmp_path / "annotations" / "panoptic_val2017"
    pack(pngs.with_name("panoptic_val2017.zip"), pngs)
    packed = pngs.with_name("panoptic_val2017.zip").read_bytes()
    pngs.with_name("panoptic_val2017.zip").write_bytes(packed[:-30])
    text = refusal(tmp_path)
    assert "panoptic_val2017.zip is corrupt or not a zip" in text and "download it again" in text


@pytest.mark.parametrize("name", ["../x.png", "/tmp/x.png", "panoptic_val2017/../../x.png"])
def test_a_zip_with_entries_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    make_split(tmp_path)
    packed = tmp_path / "annotations" / "panoptic_val2017.zip"
    pack(packed, tmp_path / "annotations" / "panoptic_val2017")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, b"x")
    assert "points outside" in refusal(tmp_path)


def test_a_zip_with_a_link(tmp_path: Path) -> None:
    make_split(tmp_path)
    packed = tmp_path / "val2017.zip"
    pack(packed, tmp_path / "images" / "val2017")
    link = zipfile.ZipInfo("val2017/link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(link, "/etc")
    assert "is a link or a device" in refusal(tmp_path)


def test_no_space_for_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_split(tmp_path)
    pack(tmp_path / "val2017.zip", tmp_path / "images" / "val2017")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    assert "0.00 GB free" in refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can write everywhere")
def test_an_unwritable_folder(tmp_path: Path) -> None:
    make_split(tmp_path)
    (tmp_path / "annotations").chmod(0o555)
    try:
        assert "Permission denied" in refusal(tmp_path)
        assert prepare(tmp_path, out=tmp_path / "elsewhere")[0].summary.segments == 6
    finally:
        (tmp_path / "annotations").chmod(0o755)


def test_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    make_split(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(PanformerError, match="cannot write"):
        prepare(tmp_path, out=tmp_path / "file")


@pytest.mark.slow
def test_things_only_matches_the_reference_converter(shared: Path, tmp_path: Path) -> None:
    coco = shared / "data" / "coco_mini"
    (prepared,) = prepare_coco(coco, ["val2017"], ConvertOptions(), SilentReporter(), "things", tmp_path)
    assert prepared.detection == tmp_path / "panoptic_val2017_things_detection_format.json"
    found = detection_of(prepared)
    everything = json.loads((shared / "golden" / "detection_val2017.json").read_text())
    things = {row["id"] for row in _panoptic_json(shared)["categories"] if row["isthing"]}
    expected = [row for row in everything["annotations"] if row["category_id"] in things]
    assert found["annotations"] == [{**row, "id": number} for number, row in enumerate(expected)]
    assert {row["id"] for row in found["categories"]} == things and len(things) == 80


@pytest.mark.slow
def test_workers_and_interruptions_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_split(tmp_path, images=30)
    (prepared,) = prepare(tmp_path)
    alone = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    prepare(tmp_path, workers=2)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == alone
    seen: list[Path] = []

    def stop_at_20(ids: Any) -> Any:
        seen.append(ids)
        if len(seen) == 20:
            raise KeyboardInterrupt
        return encode_segments(ids)

    monkeypatch.setattr(in_place, "encode_segments", stop_at_20)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path)
    assert {path: path.read_bytes() for path in alone} == alone
    prepare(tmp_path)
    assert len(seen) == 20 + 11
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == alone


def test_only_fixed_images_are_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_split(tmp_path, images=5)
    image = tmp_path / "images" / "val2017" / "4.jpg"
    good = image.read_bytes()
    image.write_bytes(b"no image")
    assert "1 of 5 images" in refusal(tmp_path)
    image.write_bytes(good)
    seen = Mock(side_effect=encode_segments)
    monkeypatch.setattr(in_place, "encode_segments", seen)
    assert prepare(tmp_path)[0].summary.images == 5 and seen.call_count == 1


def test_bad_images_can_be_skipped(tmp_path: Path) -> None:
    content = make_split(tmp_path, images=3)
    content["annotations"][0]["file_name"] = "../1.png"
    save(tmp_path, content)
    (tmp_path / "images" / "val2017" / "3.jpg").write_bytes(b"no image")
    (prepared,) = prepare(tmp_path, skips_bad_images=True)
    assert [row["image_id"] for row in detection_of(prepared)["annotations"]] == [2, 2, 2]
    assert prepared.summary.images == 1 and len(prepared.summary.left_out) == 2


def test_custom_writes_a_summary_but_no_detection_json(tmp_path: Path) -> None:
    make_split(tmp_path, split="mine")
    (prepared,) = prepare_custom(tmp_path, (), ConvertOptions(), SilentReporter())
    assert prepared.detection is None and not list(tmp_path.rglob("*detection*"))
    summary = json.loads((tmp_path / "summary.json").read_text())["mine"]
    assert [(row["name"], row["segments"], row["pixels"]) for row in summary["categories"]] == [
        ("cat", 4, 12),
        ("grass", 2, 8),
    ]
    manifest = json.loads((tmp_path / "manifest.json").read_text())["mine"]
    pngs = [(tmp_path / f"annotations/panoptic_mine/{number}.png").read_bytes() for number in (1, 2)]
    digests = "".join(hashlib.sha256(png).hexdigest() for png in pngs)
    assert manifest["pngs_sha256"] == hashlib.sha256(digests.encode()).hexdigest()
