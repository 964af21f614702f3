"""The conversion pipeline, with a source whose annotation is known in advance."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.prepare import convert as convert_module
from panformer_cli.prepare.coco.coco import prepare_custom
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.left_out import AnnotationLog
from panformer_cli.prepare.source import SourceImage, listed_files
from panformer_cli.reporting import SilentReporter
from panformer_cli.verify.check import VerifyOptions, verify
from tests.prepare.reporters import RecordingReporter

TABLE = CategoryTable([Category(4, "car", True), Category(9, "road", False), Category(2, "never seen", True)])


@dataclass(frozen=True)
class Columns:
    """A source whose images have road and a car (category 4) of the width that is in their label file."""

    root: Path
    name: str = "columns"
    categories: CategoryTable = TABLE
    settings: dict[str, Any] = field(default_factory=dict)

    def splits(self) -> Sequence[str]:
        return ["train"]

    def images(self, split: str) -> Sequence[SourceImage]:
        assert split == "train"
        return [
            SourceImage(number, path, path.relative_to(self.root).as_posix(), (path.with_suffix(".txt"),))
            for number, path in enumerate(listed_files(self.root))
        ]

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        try:
            width = int(image.labels[0].read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{image.labels[0]} is not a number; write one") from error
        ids = np.zeros(size, np.int32)
        ids[:4, :width] = 70000
        ids[6:] = 3
        return PanopticMap(ids, segments_of(ids, {70000: 4, 3: 9}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twenty images of 10 x 16 pixels, the last two in a folder; the car of image k is k % 8 + 3 columns wide."""
    folder = tmp_path / "in"
    for number in range(20):
        write(folder, f"town/{number:02d}" if number > 17 else f"{number:02d}", number)
    return folder


def write(folder: Path, name: str, number: int) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 10), (number, 5, 200)).save(folder / f"{name}.jpg")
    (folder / f"{name}.txt").write_text(str(number % 8 + 3))


def converted(root: Path, **options: Any) -> Path:
    out = root.parent / "out"
    convert(Columns(root), out, (), ConvertOptions(**options), SilentReporter())
    return out


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_result_is_in_coco_format(root: Path) -> None:
    out = converted(root)
    data = CocoPanoptic(out, "train")
    assert len(data) == 20 and data.categories == TABLE
    assert verify(out, (), VerifyOptions(), SilentReporter())[0].problems == ()
    sample = data[19]
    assert (sample.file_name, sample.png_name) == ("town/19.jpg", "town/19.png")
    assert [(s.id, s.category_id, s.area, s.bbox) for s in sample.annotation.segments] == [
        (3, 9, 64, (0, 6, 16, 4)),
        (70000, 4, 24, (0, 0, 6, 4)),
    ]
    assert (out / "images/train/00.jpg").read_bytes() == (root / "00.jpg").read_bytes()


def test_summary_counts(root: Path) -> None:
    (summary,) = convert(Columns(root), root.parent / "out", (), ConvertOptions(), SilentReporter())
    cars = sum(4 * (number % 8 + 3) for number in range(20))
    assert (summary.images, summary.things, summary.stuff, summary.crowd) == (20, 20, 20, 0)
    assert summary.by_category[4].pixels == cars
    assert summary.void == 20 * 160 - 20 * 64 - cars
    assert summary.segment_sizes == {"small": 20} and summary.by_category[2].segments == 0
    assert json.loads((root.parent / "out/summary.json").read_text())["train"] == json.loads(
        json.dumps(summary.to_json())
    )


def test_the_manifest_has_the_hashes_of_the_files(root: Path) -> None:
    out = converted(root)
    record = json.loads((out / "manifest.json").read_text())["train"]
    annotation = out / "annotations/panoptic_train.json"
    assert record["annotation"]["sha256"] == hashlib.sha256(annotation.read_bytes()).hexdigest()
    for key, folder in (("images_sha256", "images/train"), ("pngs_sha256", "annotations/panoptic_train")):
        files = sorted(path for path in (out / folder).rglob("*") if path.is_file())
        digests = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
        assert record[key] == hashlib.sha256(digests.encode()).hexdigest()
    assert record["setting"]["source"] == "columns" and record["images"] == 20


@pytest.mark.slow
def test_several_workers_write_the_same_files(root: Path, tmp_path: Path) -> None:
    alone = content_of(converted(root))
    (root.parent / "out").rename(tmp_path / "alone")
    assert content_of(converted(root, workers=3)) == alone


def test_an_interrupted_conversion_resumes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Columns.read
    seen: list[int | str] = []

    def stop_at_7(self: Columns, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        seen.append(image.id)
        if len(seen) == 7:
            raise KeyboardInterrupt
        return read(self, image, size, log)

    monkeypatch.setattr(Columns, "read", stop_at_7)
    with pytest.raises(KeyboardInterrupt):
        converted(root)
    out = root.parent / "out"
    assert not (out / "annotations/panoptic_train.json").exists()
    parts = out / "annotations/.panoptic_train.parts"
    lines = parts / "0.jsonl"
    lines.write_bytes(lines.read_bytes()[:-20])  # the last line is incomplete
    write(root, "02", 5)  # and one image has changed
    converted(root)
    assert seen[7:] == [2, *range(5, 20)]
    assert not parts.exists() and not list(out.rglob(".*"))
    resumed = content_of(out)
    out.rename(root.parent / "resumed")
    assert content_of(converted(root)) == resumed


@pytest.mark.slow
def test_an_interrupted_conversion_with_more_images_resumes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "_write_split", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            converted(root)
    for path in root.glob("town/19.*"):
        path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Columns, "read", None)  # no image is read again
        out = converted(root)
    resumed = content_of(out)
    assert len(CocoPanoptic(out, "train")) == 19
    out.rename(root.parent / "resumed")
    (root.parent / "resumed/images/train/town/19.jpg").unlink()
    del resumed["images/train/town/19.jpg"], resumed["annotations/panoptic_train/town/19.png"]
    assert content_of(converted(root)) == resumed


def test_a_finished_split_is_not_converted_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = converted(root)
    monkeypatch.setattr(convert_module, "work_out", None)
    (again,) = convert(Columns(root), out, (), ConvertOptions(), SilentReporter())
    assert again.images == 20 and again.to_json() == json.loads((out / "summary.json").read_text())["train"] | {
        "segments_per_image": [(2, 20)]
    }
    with pytest.raises(DataError, match="already exists and was made from other files"):
        convert(Columns(root, settings={"overlap": "first"}), out, (), ConvertOptions(), SilentReporter())
    write(root, "new", 1)
    with pytest.raises(DataError, match="already exists"):
        converted(root)


def test_bad_images_are_reported_together_and_no_json_is_written(root: Path) -> None:
    for number in (1, 3, 4, 5, 6, 7):
        (root / f"{number:02d}.txt").write_text("wide")
    with pytest.raises(DataError) as caught:
        converted(root)
    message = str(caught.value)
    assert (
        "train: 6 of 20 images cannot be used" in message
        and "01.txt is not a number" in message
        and "1 more" in message
    )
    assert not (root.parent / "out/annotations/panoptic_train.json").exists()
    for number in (1, 3, 4, 5, 6, 7):
        write(root, f"{number:02d}", number)
    assert len(CocoPanoptic(converted(root), "train")) == 20


def test_bad_images_can_be_skipped(root: Path) -> None:
    (root / "01.txt").write_text("wide")
    (root / "02.jpg").write_bytes(b"no image")
    out = converted(root, skips_bad_images=True)
    assert len(CocoPanoptic(out, "train")) == 18
    left_out = json.loads((out / "summary.json").read_text())["train"]["left_out"]
    assert [Path(sentence.split()[0]).name for sentence in left_out] == ["01.txt", "02.jpg"]


def test_skipping_all_images_is_an_error(root: Path) -> None:
    for path in root.rglob("*.txt"):
        path.write_text("wide")
    with pytest.raises(DataError, match="20 of 20 images"):
        converted(root, skips_bad_images=True)


def test_a_map_with_another_size_than_its_image_is_rejected(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (16, 10)).save(root / "00.jpg", exif=turned)
    read = Columns.read
    monkeypatch.setattr(Columns, "read", lambda self, image, size, log: read(self, image, (10, 16), log))
    with pytest.raises(DataError, match=r"00.txt is 16x10 but .*00.jpg is displayed as 10x16 .*EXIF orientation 6"):
        converted(root)


def test_an_image_with_an_implausible_size_is_not_converted(root: Path) -> None:
    data = bytearray((root / "00.jpg").read_bytes())
    offset = data.index(b"\xff\xc0") + 5
    data[offset : offset + 4] = (60000).to_bytes(2, "big") * 2
    (root / "00.jpg").write_bytes(data)
    with pytest.raises(DataError, match="00.jpg declares"):
        converted(root)


def test_two_images_with_one_name_are_rejected(root: Path) -> None:
    Image.new("RGB", (16, 10)).save(root / "00.png")
    with pytest.raises(DataError, match=r"00\.jpg and .*00\.png have the same name 00"):
        converted(root)


def test_links_out_of_the_folder_are_rejected(root: Path, tmp_path: Path) -> None:
    Image.new("RGB", (16, 10)).save(tmp_path / "outside.jpg")
    (root / "20.jpg").symlink_to(tmp_path / "outside.jpg")
    with pytest.raises(DataError, match="points outside"):
        converted(root)


def test_an_unwritable_folder_is_reported(root: Path) -> None:
    (root.parent / "out").write_text("a file")
    with pytest.raises(PanformerError, match="cannot write"):
        converted(root)


def test_a_full_disk_keeps_finished_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def full(source: Any, target: Any) -> None:
        if "05" in str(target):
            raise OSError(28, "No space left on device")
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(PanformerError, match="No space left on device"):
            converted(root)
    out = root.parent / "out"
    assert not (out / "annotations/panoptic_train.json").exists() and not list(out.rglob("*.tmp"))
    assert len(CocoPanoptic(converted(root), "train")) == 20


def test_images_are_copied_without_hard_links(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Any, target: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    out = converted(root)
    assert (out / "images/train/03.jpg").read_bytes() == (root / "03.jpg").read_bytes()


def test_finished_images_are_kept_when_bad_images_may_be_skipped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "01.txt").write_text("wide")
    with pytest.raises(DataError, match="skip them with --skip-bad-images"):
        converted(root)
    read, seen = Columns.read, []

    def counted(self: Columns, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        seen.append(image.id)
        return read(self, image, size, log)

    monkeypatch.setattr(Columns, "read", counted)
    assert len(CocoPanoptic(converted(root, skips_bad_images=True), "train")) == 19
    assert seen == [1]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["write_panoptic_json", "write_split", "_remove_temporary_files"])
def test_an_interruption_at_any_stage_of_writing_can_be_resumed(
    root: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    whole = content_of(converted(root))
    (root.parent / "out").rename(root.parent / "whole")

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, stage, stop)
        with pytest.raises(KeyboardInterrupt):
            converted(root)
    assert content_of(converted(root)) == whole


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["images/train/03.jpg", "annotations/panoptic_train/03.png"])
@pytest.mark.parametrize("is_finished", [True, False])
def test_deleted_files_are_written_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, lost: str, is_finished: bool
) -> None:
    with monkeypatch.context() as patch:
        if not is_finished:
            patch.setattr(convert_module, "_write_split", None)
            with pytest.raises(TypeError):
                converted(root)
        else:
            converted(root)
    (root.parent / "out" / lost).unlink()
    assert len([sample.file_name for sample in CocoPanoptic(converted(root), "train")]) == 20


def test_splits_with_different_categories_are_not_mixed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = converted(root)
    before = content_of(out)
    monkeypatch.setattr(Columns, "images", lambda self, split: [SourceImage(1, root / "00.jpg", "00.jpg")])
    fewer = CategoryTable(category for category in TABLE.categories if category.id != 2)
    with pytest.raises(DataError, match="contains the split train, whose categories differ from those of val"):
        convert(Columns(root, categories=fewer), out, ["val"], ConvertOptions(), SilentReporter())
    assert content_of(out) == before


@pytest.mark.parametrize("name", ["manifest.json", "summary.json", "summary.html"])
@pytest.mark.parametrize("content", ["{}[", "[1]", '{"train": {"by": "me"}}'])
def test_unrelated_files_are_not_overwritten(root: Path, name: str, content: str) -> None:
    (root.parent / "out").mkdir()
    (root.parent / "out" / name).write_text(content)
    with pytest.raises(DataError, match=f"{name} was not written by prepare-data"):
        converted(root)
    assert content_of(root.parent / "out") == {name: content.encode()}


@pytest.mark.parametrize("split", ["..", "a/b", ""])
def test_split_names_are_checked(root: Path, split: str) -> None:
    with pytest.raises(DataError, match="is not a valid split name"):
        convert(Columns(root), root.parent / "out", [split], ConvertOptions(), SilentReporter())


def test_the_input_folder_is_not_written(root: Path) -> None:
    before = content_of(root)
    with pytest.raises(DataError, match="is inside the input folder"):
        convert(Columns(root), root / "town" / "..", (), ConvertOptions(), SilentReporter())
    assert content_of(root) == before


def test_problems_known_to_the_source_are_reported_with_the_bad_images(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Columns.images
    # A label's name may have the maximum length, and `.bad` makes it longer.
    lone = SourceImage(99, root / "lone.txt", f"{'l' * 255}.bad", problem="lone.txt has no image; restore it")
    monkeypatch.setattr(Columns, "images", lambda self, split: [*images(self, split), lone])
    with pytest.raises(DataError, match="1 of 21 images cannot be used.*\n  lone.txt has no image; restore it"):
        converted(root)
    for _ in range(2):
        assert len(CocoPanoptic(converted(root, skips_bad_images=True), "train")) == 20


def test_nothing_is_written_into_the_source_from_a_parent_folder(root: Path) -> None:
    images = root.parent / "images"
    root.rename(images)
    before = content_of(images)
    with pytest.raises(DataError, match=r"images/train is inside the input folder"):
        convert(Columns(images), root.parent, (), ConvertOptions(), SilentReporter())
    assert content_of(images) == before


@pytest.mark.slow
def test_a_skipped_image_leaves_no_files_and_missing_files_are_restored(root: Path) -> None:
    (root / "01.txt").write_text("none")
    with pytest.raises(DataError, match="1 of 20 images cannot be used"):
        converted(root)
    (root / "02.txt").write_text("none")
    (root / "01.txt").write_text("5")
    out = converted(root, skips_bad_images=True)
    assert not (out / "images/train/02.jpg").exists() and not (out / "annotations/panoptic_train/02.png").exists()
    (out / "images/train/03.jpg").unlink()
    converted(root, skips_bad_images=True)
    assert (out / "images/train/03.jpg").is_file()


def test_images_not_listed_in_the_json_are_reported(root: Path) -> None:
    (root / "01.txt").write_text("none")
    with pytest.raises(DataError, match="1 of 20 images cannot be used"):
        converted(root)
    for suffix in ("jpg", "txt"):
        (root / f"00.{suffix}").unlink()
        (root / f"01.{suffix}").unlink()
    reporter = RecordingReporter()
    convert(Columns(root), root.parent / "out", (), ConvertOptions(), reporter)
    assert (
        len(reporter.warnings) == 1
        and "images/train contains 1 file not listed in panoptic_train.json" in reporter.warnings[0]
    )


def test_a_name_that_is_not_utf8_is_reported(root: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    try:
        write(root, name, 3)
    except OSError:
        pytest.skip("this file system requires valid Unicode names")
    with pytest.raises(DataError, match=r"1 of 21 images cannot be used.*\n.*caf\\udce9.jpg is not valid UTF-8"):
        converted(root)
    assert len(CocoPanoptic(converted(root, skips_bad_images=True), "train")) == 20


def test_long_names(root: Path) -> None:
    for name in ("n" * 251, "名" * 80):
        write(root, name, 3)
    assert len(CocoPanoptic(converted(root), "train")) == 22


def test_names_without_a_suffix_in_folders_with_dots(root: Path) -> None:
    images = [SourceImage(n, root / "00.jpg", f"v1.{n}/img{n}", (root / "00.txt",)) for n in (0, 1)]
    convert_module.check_names(images, "here")
    for name in ("a//b.jpg", "a/b.png", "a\\b.jpg"):
        other = replace(images[0], path=root / "01.jpg", file_name=name, id=8)
        with pytest.raises(DataError, match="have the same name a/b"):
            convert_module.check_names([*images, replace(images[0], file_name="a/b", id=7), other], "here")
    with pytest.raises(DataError, match="have the same id 1; expected a unique id"):
        convert_module.check_names([images[1], replace(images[0], path=root / "01.jpg", id="1")], "here")


def test_an_image_that_is_labeled_twice_is_named_with_its_labels(root: Path) -> None:
    image = SourceImage(1, root / "00.jpg", "00.jpg", (root / "00.txt",))
    with pytest.raises(DataError, match=r"00\.jpg is labeled twice, in .*00\.txt and .*01\.txt; keep one of them"):
        convert_module.check_names([image, replace(image, id=2, labels=(root / "01.txt",))], "here")
    with pytest.raises(DataError, match=r"00\.jpg is labeled twice, both times in .*00\.txt; keep one of them"):
        convert_module.check_names([image, image], "here")
    missing = replace(image, path=root / "a.json", problem="the image 00.jpg is missing")
    with pytest.raises(DataError, match=r"^00\.jpg is labeled twice"):
        convert_module.check_names([missing, missing], "here")


@pytest.mark.slow
def test_a_check_in_place_keeps_the_manifest_of_the_conversion(root: Path) -> None:
    (root / "02.txt").write_text("none")
    out = converted(root, skips_bad_images=True)
    before = content_of(out)
    prepare_custom(out, (), ConvertOptions(), SilentReporter())
    assert content_of(out) == before
    converted(root, skips_bad_images=True)
    image = out / "images/train/00.jpg"
    image.unlink()
    Image.new("RGB", (16, 10)).save(image)
    prepare_custom(out, (), ConvertOptions(), SilentReporter())
    assert json.loads((out / "manifest.json").read_text())["train"]["setting"]["source"] == "in place"


def test_the_output_folder_cannot_be_inside_the_source(root: Path) -> None:
    for out in (root, root / "out", root / "town"):
        with pytest.raises(DataError, match="is inside the input folder"):
            convert(Columns(root), out, (), ConvertOptions(), SilentReporter())
