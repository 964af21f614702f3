"""The supported folder layouts, and the errors for missing parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from panformer_cli.data.layout import (
    SplitLayout,
    annotation_of_images,
    default_split,
    find_split,
    find_splits,
    predicted_image,
)
from panformer_cli.errors import DataError


def lay_out(images: Path, annotations: Path, split: str) -> SplitLayout:
    """Create the empty parts of a split in the given folders."""
    layout = SplitLayout(images / split, annotations / f"panoptic_{split}.json", annotations / f"panoptic_{split}")
    layout.images.mkdir(parents=True)
    layout.pngs.mkdir(parents=True)
    layout.annotation.write_text("{}")
    return layout


def sentence(root: Path, split: str = "val2017") -> str:
    """Return the error of `find_split`, which must be one line."""
    with pytest.raises(DataError) as raised:
        find_split(root, split)
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("images", "annotations", "root"),
    [
        ("images", "annotations", "."),
        (".", "annotations", "."),
        ("datasets/coco", "datasets/annotations", "datasets"),
        ("datasets/coco", "datasets/annotations", "datasets/coco"),
        ("datasets/coco", "datasets/coco/annotations", "datasets"),
        ("datasets/coco", "datasets/coco/annotations", "datasets/coco"),
        ("coco/images", "coco/annotations", "."),
    ],
)
def test_layouts(tmp_path: Path, images: str, annotations: str, root: str) -> None:
    expected = lay_out(tmp_path / images, tmp_path / annotations, "val2017")
    found = find_split(tmp_path / root, "val2017")
    assert found == expected
    assert find_splits(tmp_path / root) == ["val2017"]


def test_a_relative_root_finds_the_annotations_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = lay_out(tmp_path / "datasets/coco", tmp_path / "datasets/annotations", "val2017")
    monkeypatch.chdir(tmp_path / "datasets" / "coco")
    found = find_split(Path(), "val2017")
    assert found.annotation.samefile(expected.annotation) and found.images.samefile(expected.images)


def test_a_linked_coco_folder_keeps_the_annotations_beside_the_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk" / "images2017"
    lay_out(elsewhere, tmp_path / "datasets/annotations", "val2017")
    (tmp_path / "datasets/coco").symlink_to(elsewhere, target_is_directory=True)
    assert find_split(tmp_path / "datasets/coco", "val2017").images.samefile(elsewhere / "val2017")


def test_annotations_beside_a_folder_with_another_name_are_not_used(tmp_path: Path) -> None:
    lay_out(tmp_path / "mine", tmp_path / "annotations", "val2017")
    assert "no split 'val2017'" in sentence(tmp_path / "mine")


def test_annotations_inside_have_priority_over_those_beside(tmp_path: Path) -> None:
    lay_out(tmp_path / "other", tmp_path / "annotations", "val2017")
    inside = lay_out(tmp_path / "coco", tmp_path / "coco/annotations", "val2017")
    assert find_split(tmp_path / "coco", "val2017") == inside


def test_jsons_without_images_are_not_splits(tmp_path: Path) -> None:
    for split in ("val2017", "train2017"):
        lay_out(tmp_path / "images", tmp_path / "annotations", split)
    for name in ("coco_categories", "val2017_detection_format"):
        (tmp_path / "annotations" / f"panoptic_{name}.json").write_text("{}")
    assert find_splits(tmp_path) == ["train2017", "val2017"]


def test_splits_of_zips_are_found(tmp_path: Path) -> None:
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    for split in ("a", "b", "c"):
        (annotations / f"panoptic_{split}.json").write_text("{}")
    (annotations / "panoptic_a.zip").touch()
    (tmp_path / "b.zip").touch()
    assert find_splits(tmp_path) == ["a", "b"]


def test_root_missing(tmp_path: Path) -> None:
    text = sentence(tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'} does not exist" in text and "--set data.root=DIR" in text
    with pytest.raises(DataError, match="does not exist"):
        find_splits(tmp_path / "nowhere")


def test_root_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'file'} is not a folder" in sentence(tmp_path / "file")


def test_an_unknown_split_is_reported_with_paths_splits_and_a_guess(tmp_path: Path) -> None:
    for split in ("val2017", "train2017"):
        lay_out(tmp_path / "images", tmp_path / "annotations", split)
    text = sentence(tmp_path, "val2071")
    assert str(tmp_path / "annotations" / "panoptic_val2071.json") in text
    assert "train2017, val2017" in text and "did you mean 'val2017'?" in text
    assert "did you mean" not in sentence(tmp_path, "q")


def test_empty_root(tmp_path: Path) -> None:
    text = sentence(tmp_path)
    assert "found no other split" in text and "docs/data.md" in text


@pytest.mark.parametrize("split", ["../val2017", "", "images/val2017", "..", "a\\b"])
def test_a_split_is_a_plain_name(tmp_path: Path, split: str) -> None:
    lay_out(tmp_path, tmp_path / "annotations", "val2017")
    assert "is not a valid split name" in sentence(tmp_path, split)


def test_images_missing(tmp_path: Path) -> None:
    layout = lay_out(tmp_path / "images", tmp_path / "annotations", "val2017")
    layout.images.rmdir()
    text = sentence(tmp_path)
    assert str(tmp_path / "images" / "val2017") in text and str(tmp_path / "val2017") in text


@pytest.mark.parametrize("name", ["val2017.zip", "images/val2017.zip"])
def test_images_still_zipped(tmp_path: Path, name: str) -> None:
    layout = lay_out(tmp_path / "images", tmp_path / "annotations", "val2017")
    layout.images.rmdir()
    (tmp_path / name).touch()
    text = sentence(tmp_path)
    assert str(tmp_path / name) in text and f"run `panformer prepare-data coco --root {tmp_path}`" in text


def test_pngs_missing(tmp_path: Path) -> None:
    layout = lay_out(tmp_path / "images", tmp_path / "annotations", "val2017")
    layout.pngs.rmdir()
    text = sentence(tmp_path)
    assert f"{layout.pngs} is missing" in text and "panoptic_val2017.zip" in text


def test_pngs_still_zipped(tmp_path: Path) -> None:
    layout = lay_out(tmp_path / "images", tmp_path / "annotations", "val2017")
    layout.pngs.rmdir()
    (tmp_path / "annotations" / "panoptic_val2017.zip").touch()
    text = sentence(tmp_path)
    assert f"{layout.pngs}.zip" in text and f"run `panformer prepare-data coco --root {tmp_path}`" in text


@pytest.mark.parametrize("folder", ["", "annotations"])
def test_annotations_still_zipped(tmp_path: Path, folder: str) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / folder / "panoptic_annotations_trainval2017.zip").touch()
    text = sentence(tmp_path)
    assert "panoptic_annotations_trainval2017.zip is not unpacked" in text and "prepare-data coco" in text


def test_the_real_sample(shared: Path) -> None:
    root = shared / "data" / "coco_mini"
    assert find_splits(root) == ["train2017", "val2017"]
    assert len(list(find_split(root, "train2017").pngs.glob("*.png"))) == 14


def test_the_image_of_a_prediction_is_found_with_or_without_its_folders(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/c.png").write_bytes(b"")
    (tmp_path / "d.png").write_bytes(b"")
    assert predicted_image(tmp_path, "b/c.png", "p.json") == tmp_path / "b/c.png"
    assert predicted_image(tmp_path / "b", "b/c.png", "p.json") == tmp_path / "b/c.png"
    assert predicted_image(tmp_path, "e/d.png", "p.json") == tmp_path / "d.png"
    with pytest.raises(DataError, match="points outside"):
        predicted_image(tmp_path / "b", "../d.png", "p.json")


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["val2017", "train2017"], "val2017"),
        (["train"], "train"),
        (["train", "val"], "val"),
        (["train", "validation", "test"], "validation"),
    ],
)
def test_the_default_split(tmp_path: Path, splits: list[str], expected: str) -> None:
    for split in splits:
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "annotations" / f"panoptic_{split}").mkdir(parents=True)
        (tmp_path / "annotations" / f"panoptic_{split}.json").touch()
    assert default_split(tmp_path, "val2017") == expected
    assert default_split(tmp_path, splits[0]) == splits[0]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["a", "b"], "has the splits a, b; choose one of them with --split"),
        (["val_a", "val_b"], "has the splits val_a, val_b; choose one"),
        ([], "no split 'val2017' in .*found no other split"),
    ],
)
def test_without_a_default_split_they_are_listed(tmp_path: Path, splits: list[str], message: str) -> None:
    for split in splits:
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "annotations" / f"panoptic_{split}").mkdir(parents=True)
        (tmp_path / "annotations" / f"panoptic_{split}.json").touch()
    with pytest.raises(DataError, match=message):
        default_split(tmp_path, "val2017")


@pytest.mark.parametrize("images", ["images/val", "val", "coco/val", "coco/images/val"])
def test_the_annotation_of_an_image_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: str) -> None:
    annotation = tmp_path / "annotations" / "panoptic_val.json"
    annotation.parent.mkdir()
    annotation.touch()
    (tmp_path / images).mkdir(parents=True)
    assert annotation_of_images(tmp_path / images) == annotation
    assert annotation_of_images(tmp_path) is None
    monkeypatch.chdir(tmp_path)
    assert annotation_of_images(Path(images)) == annotation
    (tmp_path / "annotations" / "panoptic_val.json").rename(tmp_path / "annotations" / "panoptic_train.json")
    assert annotation_of_images(tmp_path / images) is None
