"""Test images: an image list without annotations."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from panformer_cli.errors import DataError
from panformer_cli.prepare.coco.unlabeled_images import is_unlabeled_split, prepare_unlabeled_images
from panformer_cli.prepare.convert import ConvertOptions
from panformer_cli.reporting import SilentReporter
from tests.prepare.reporters import RecordingReporter


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five images of test2017, two of them in test-dev2017; the list is still zipped."""
    images = tmp_path / "test2017"
    images.mkdir()
    for number in range(5):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(images / f"{number:012d}.jpg")
    rows = [{"id": number, "file_name": f"{number:012d}.jpg", "height": 6, "width": 8} for number in (1, 3)]
    with zipfile.ZipFile(tmp_path / "image_info_test2017.zip", "w") as archive:
        archive.writestr("annotations/image_info_test-dev2017.json", json.dumps({"images": rows, "categories": []}))
        archive.writestr("annotations/image_info_test2017.json", json.dumps({"images": []}))
    return tmp_path


def prepare(root: Path, split: str = "test-dev2017") -> Path:
    test = prepare_unlabeled_images(root, split, ConvertOptions(), SilentReporter())
    assert test.images == 2 and test.info == root / "annotations" / f"image_info_{split}.json"
    return test.folder


def test_the_folder_contains_only_the_listed_images(root: Path) -> None:
    folder = prepare(root)
    assert folder == root / "images" / "test-dev2017"
    assert sorted(path.name for path in folder.iterdir()) == ["000000000001.jpg", "000000000003.jpg"]
    assert (folder / "000000000003.jpg").read_bytes() == (root / "test2017" / "000000000003.jpg").read_bytes()
    assert prepare(root) == folder  # again, with all files present


def test_zipped_images(root: Path) -> None:
    with zipfile.ZipFile(root / "test2017.zip", "w") as archive:
        for path in sorted((root / "test2017").iterdir()):
            archive.write(path, f"test2017/{path.name}")
            path.unlink()
    (root / "test2017").rmdir()
    assert len(list(prepare(root).iterdir())) == 2


def test_another_output_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("out")
    test = prepare_unlabeled_images(root, "test-dev2017", ConvertOptions(), SilentReporter(), out)
    assert test.folder == out / "images" / "test-dev2017" and len(list(test.folder.iterdir())) == 2
    assert not (root / "images").exists()


def test_other_images_in_the_folder_are_reported(root: Path) -> None:
    folder = prepare(root)
    (folder / "notes.txt").touch()
    (folder / "000000000004.jpg").write_bytes((folder / "000000000003.jpg").read_bytes())
    with pytest.raises(
        DataError, match=r"contains 1 image outside of this split .*, such as 000000000004\.jpg; delete"
    ):
        prepare(root)
    assert (folder / "000000000004.jpg").is_file()


@pytest.mark.parametrize("images", ["7", '{"a": 1}', "[]"])
def test_an_invalid_list(root: Path, images: str) -> None:
    info = root / "annotations" / "image_info_test-dev2017.json"
    info.parent.mkdir()
    info.write_text(f'{{"images": {images}}}')
    with pytest.raises(DataError, match="lists no images"):
        prepare(root)


def test_bad_images_may_be_skipped(root: Path) -> None:
    (root / "test2017" / "000000000003.jpg").write_bytes(b"none")
    reporter = RecordingReporter()
    test = prepare_unlabeled_images(root, "test-dev2017", ConvertOptions(skips_bad_images=True), reporter)
    assert test.images == 1 and [path.name for path in test.folder.iterdir()] == ["000000000001.jpg"]
    assert len(reporter.warnings) == 1 and "skipped 1 of 2 images of test-dev2017:\n" in reporter.warnings[0]
    (root / "test2017" / "000000000001.jpg").unlink()
    with pytest.raises(DataError, match="2 of 2 images cannot be used"):
        prepare_unlabeled_images(root, "test-dev2017", ConvertOptions(skips_bad_images=True), reporter)


def test_missing_parts_are_reported(root: Path) -> None:
    with pytest.raises(DataError, match="no image list of test-challenge2017"):
        prepare(root, "test-challenge2017")
    (root / "test2017" / "000000000003.jpg").unlink()
    with pytest.raises(DataError, match="1 of 2 images cannot be used.*\n.*000000000003.jpg is missing"):
        prepare(root)
    (root / "test2017").rename(root / "elsewhere")
    with pytest.raises(DataError, match="has no images of test-dev2017"):
        prepare(root)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": 1, "file_name": "../outside.jpg", "height": 6, "width": 8}, "points outside"),
        ({"id": 1, "file_name": "000000000001.jpg", "height": 8, "width": 6}, "is 8x6 but .* lists it as 6x8"),
        (
            {"id": 1, "file_name": "000000000001.jpg", "height": "6", "width": 8},
            "the height is the text '6'; expected a",
        ),
        ({"id": 1, "file_name": "\ud800.jpg", "height": 6, "width": 8}, "is not a valid file name"),
        ({"id": 1}, "expected an object with id, file_name"),
        ("1.jpg", "expected an object with id, file_name"),
    ],
)
def test_invalid_lists(root: Path, row: object, words: str) -> None:
    info = root / "annotations" / "image_info_test-dev2017.json"
    info.parent.mkdir()
    info.write_text(json.dumps({"images": [row]}))
    with pytest.raises(DataError, match=words):
        prepare(root)
    assert not (root.parent / "outside.jpg").exists()


def test_an_empty_list_is_an_error(root: Path) -> None:
    with pytest.raises(DataError, match=r"image_info_test2017.json lists no images; expected"):
        prepare(root, "test2017")


def test_a_missing_folder(root: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        prepare(root / "nowhere")


def test_names_of_unlabeled_splits() -> None:
    names = ["test2017", "test-dev2017", "test-challenge2017", "test", "test_day", "testing2", "val2017"]
    assert [name for name in names if is_unlabeled_split(name)] == names[:3]
