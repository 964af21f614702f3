"""COCO instance annotations in the layouts of other tools, with file names as they write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.disk_list import DiskList
from panformer_cli.errors import DataError
from panformer_cli.prepare.masks.coco_layout import CocoSplit, ImageFinder, find_splits
from tests.helpers import run

SQUARE = [5, 5, 15, 5, 15, 15, 5, 15]


def save(root: Path, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (number, 5, 200)).save(root / name)


def listing(root: Path, name: str, files: Sequence[str], **more: Any) -> Path:
    """Write a JSON that lists images with one object each."""
    rows = [{"id": n, "file_name": file, "height": 20, "width": 30} for n, file in enumerate(files, 1)]
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, "segmentation": [SQUARE]} for n in range(1, len(rows) + 1)
    ]
    content = {"images": rows, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]} | more
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def converted(tmp_path: Path, *arguments: str) -> int:
    return run("prepare-data", "coco-instances", "--out", str(tmp_path / "out"), "--workers", "1", *arguments)


def result(tmp_path: Path, split: str = "train") -> dict[str, list[int]]:
    """Return the areas of each image by file name."""
    data = CocoPanoptic(tmp_path / "out", split)
    return {data[i].file_name: [s.area for s in data[i].annotation.segments] for i in range(len(data))}


@pytest.mark.parametrize(
    ("name", "image", "file_name", "split"),
    [
        ("annotations.json", "JPEGImages/a.jpg", "JPEGImages/a.jpg", "train"),
        ("annotations.json", "JPEGImages/a.jpg", "a.jpg", "train"),
        ("labels.json", "data/a.jpg", "a.jpg", "train"),
        ("result.json", "images/a.jpg", "a.jpg", "train"),
        ("result.json", "images/a.jpg", "images\\\\a.jpg".replace("\\\\", "\\"), "train"),
        ("annotations/instances_default.json", "images/a.jpg", "a.jpg", "train"),
        ("annotations/instances_default.json", "images/default/a.jpg", "a.jpg", "default"),
        ("annotations/instances_train.json", "images/a.jpg", "a.jpg", "train"),
        ("train.json", "train/a.jpg", "a.jpg", "train"),
        ("val.json", "images/val/a.jpg", "val/a.jpg", "val"),
        ("images/_annotations.coco.json", "images/a.jpg", "a.jpg", "train"),
        ("_annotations.coco.json", "a.jpg", "a.jpg", "train"),
        ("valid/_annotations.coco.json", "valid/a.jpg", "a.jpg", "valid"),
        ("val/labels.json", "val/data/a.jpg", "a.jpg", "val"),
        ("coco_test2024.json", "photos/a.jpg", "a.jpg", "test2024"),
        ("export.json", "a.jpg", "a.jpg", "train"),
        ("export.json", "deep/in/it/a.jpg", "it/a.jpg", "train"),
    ],
)
def test_layouts(tmp_path: Path, name: str, image: str, file_name: str, split: str) -> None:
    root = tmp_path / "in"
    save(root, [image])
    listing(root, name, [file_name])
    assert converted(tmp_path, "--root", str(root)) == 0
    assert list(result(tmp_path, split).values()) == [[100]]


def test_several_splits(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for split in ("train", "val"):
        save(root, [f"images/{split}_a.jpg"])
        listing(root, f"annotations/{split}.json", [f"{split}_a.jpg"])
    assert list(find_splits(root)) == ["train", "val"]
    assert converted(tmp_path, "--root", str(root)) == 0
    assert list(result(tmp_path, "val")) == ["val_a.jpg"]


def test_files_of_other_kinds_are_ignored(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root, ["images/a.jpg"])
    listing(root, "result.json", ["a.jpg"])
    listing(root, "annotations/captions_train.json", ["a.jpg"])
    listing(root, "annotations/panoptic_train.json", ["a.jpg"])
    (root / "settings.json").write_text('{"theme": "dark"}')
    (root / ".cache.json").write_text((root / "result.json").read_text())
    assert list(find_splits(root)) == ["train"]


@pytest.mark.parametrize(
    "file_name",
    [
        "/home/me/data/a.jpg",
        "C:\\Users\\me\\a.jpg",
        "../../upload/1/a.jpg",
        "https://example.com/data/a.jpg?token=3",
        *(
            "/data/local-files/?d=photos%5Ca.jpg",
            "/data/local-files/?d=a.jpg&x=1",
            "http://h/data/local-files/?d=/x/a.jpg",
        ),
        "file:///data/a.jpg",
        "http://[x/a.jpg",
        "https://[fe80::1]:80/data/a.jpg#top",
        "elsewhere/a.jpg",
        "%61.jpg",
    ],
)
def test_names_of_another_machine_are_matched_by_their_last_parts(tmp_path: Path, file_name: str) -> None:
    root = tmp_path / "in"
    save(root, ["images/a.jpg", "images/b.jpg"])
    listing(root, "result.json", [file_name, "b.jpg"])
    assert converted(tmp_path, "--root", str(root)) == 0
    assert sorted(Path(name).name for name in result(tmp_path)) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("file_name", ["http://[x", "http://[x/none.jpg", "http://", "s3://]/?#"])
def test_a_url_without_an_image_is_a_bad_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file_name: str
) -> None:
    root = tmp_path / "in"
    save(root, ["images/b.jpg"])
    listing(root, "result.json", [file_name, "b.jpg"])
    assert converted(tmp_path, "--root", str(root)) == 2
    error = capsys.readouterr().err
    assert "1 of 2 images cannot be used" in error and "result.json" in error


def test_escapes_are_undone_only_if_no_file_has_them(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root, ["images/a%20b.jpg", "images/c d.jpg"])
    listing(root, "result.json", ["a%20b.jpg", "c%20d.jpg"])
    assert converted(tmp_path, "--root", str(root)) == 0
    assert sorted(result(tmp_path)) == ["a%20b.jpg", "c d.jpg"]


def test_folders_decide_between_files_of_one_name(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root, ["photos/left/a.jpg", "photos/right/a.jpg"])
    listing(root, "result.json", ["/x/left/a.jpg", "/x/right/a.jpg"])
    assert converted(tmp_path, "--root", str(root)) == 0
    assert list(result(tmp_path)) == ["photos/left/a.jpg", "photos/right/a.jpg"]


def test_two_names_do_not_become_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "in"
    save(root, ["photos/a.jpg"])
    listing(root, "result.json", ["/x/left/a.jpg", "/x/right/a.jpg"])
    assert converted(tmp_path, "--root", str(root)) == 2
    assert "2 of 2 images cannot be used" in capsys.readouterr().err


def test_links_to_folders_are_named_with_a_missing_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "in"
    save(root, ["images/a.jpg"])
    save(tmp_path, ["elsewhere/b.jpg"])
    (root / "more").symlink_to(tmp_path / "elsewhere")
    listing(root, "result.json", ["a.jpg", "b.jpg"])
    assert converted(tmp_path, "--root", str(root)) == 2
    error = capsys.readouterr().err
    assert "1 of 2 images" in error and "the image b.jpg is missing" in error and "more is a link to a folder" in error


def test_an_ambiguous_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "in"
    save(root, ["photos/left/a.jpg", "photos/right/a.jpg"])
    listing(root, "result.json", ["a.jpg"])
    assert converted(tmp_path, "--root", str(root)) == 2
    assert "a.jpg could be photos/left/a.jpg, photos/right/a.jpg" in capsys.readouterr().err


def test_an_ambiguous_name_lists_the_first_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "in"
    save(root, [f"photos/{n}/a.jpg" for n in range(10, 20)])
    listing(root, "result.json", ["a.jpg"])
    assert converted(tmp_path, "--root", str(root)) == 2
    assert "photos/16/a.jpg, photos/17/a.jpg and others in" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["/home/me/ds/scene", "/home/me/lost/other"], ids=["found", "ambiguous"])
def test_the_work_per_image_does_not_grow_with_the_images_of_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """Count the rows read from the lists of files and names."""
    rows = 0
    read = DiskList._item

    def counting(self: DiskList[Any], position: int) -> Any:
        nonlocal rows
        rows += 1
        return read(self, position)

    monkeypatch.setattr(DiskList, "_item", counting)
    counts = []
    for number in (20, 40, 80):
        rows, root = 0, tmp_path / str(number)
        for n in range(number):
            (root / f"images/train/scene_{n}").mkdir(parents=True)
            (root / f"images/train/scene_{n}/rgb.png").touch()
        names = [f"{prefix}_{n}/rgb.png" for n in range(number)]
        finder = ImageFinder(CocoSplit(root / "a.json", (root,), root), names)
        for n, name in enumerate(names):
            with nullcontext() if "scene" in prefix else pytest.raises(DataError, match="and others"):
                assert finder.find(name).name == f"images/train/scene_{n}/rgb.png"
        counts.append(rows / number)
    assert 0 < counts[2] <= counts[0]


def test_a_missing_image_is_not_replaced_by_another_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "in"
    save(root, ["left/a.jpg"])
    listing(root, "result.json", ["left/a.jpg", "right/a.jpg"])
    assert converted(tmp_path, "--root", str(root)) == 2
    error = capsys.readouterr().err
    assert "1 of 2 images cannot be used" in error and "the image right/a.jpg is missing: looked in" in error
    assert converted(tmp_path, "--root", str(root), "--skip-bad-images") == 0
    assert list(result(tmp_path)) == ["left/a.jpg"]


@pytest.mark.parametrize("folder", ["train", "images/train", "coco_train"])
def test_an_image_of_another_split_does_not_replace_a_missing_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    root, other = tmp_path / "in", folder.replace("train", "val")
    save(root, [f"{folder}/1.jpg", f"{other}/1.jpg", f"{other}/2.jpg"])
    listing(root, "coco_train.json", ["1.jpg", "2.jpg"])
    listing(root, "coco_val.json", ["1.jpg", "2.jpg"])
    assert converted(tmp_path, "--root", str(root)) == 2
    assert "the image 2.jpg is missing: looked in" in capsys.readouterr().err
    assert converted(tmp_path, "--root", str(root), "--skip-bad-images") == 0
    assert list(result(tmp_path)) == ["1.jpg"]
    assert list(result(tmp_path, "val")) == ["1.jpg", "2.jpg"]


def test_a_split_without_a_folder_does_not_use_that_of_another_split(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root, ["train/1.jpg", "photos/2.jpg"])
    listing(root, "train.json", ["1.jpg"])
    listing(root, "val.json", ["1.jpg", "2.jpg"])
    assert converted(tmp_path, "--root", str(root), "--skip-bad-images") == 0
    assert list(result(tmp_path)) == ["1.jpg"]
    assert list(result(tmp_path, "val")) == ["photos/2.jpg"]


@pytest.mark.parametrize("folder", ["images/", ""])
def test_folders_of_another_year_are_those_of_their_split(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "in"
    save(root, [f"{folder}train2017/1.jpg", f"{folder}val2017/2.jpg"])
    listing(root, "train.json", ["1.jpg", "2.jpg"])
    listing(root, "val.json", ["2.jpg", "1.jpg"])
    assert converted(tmp_path, "--root", str(root), "--skip-bad-images") == 0
    assert list(result(tmp_path)) == [f"{folder}train2017/1.jpg"]
    assert list(result(tmp_path, "val")) == [f"{folder}val2017/2.jpg"]


def test_one_json_may_list_the_folders_of_several_splits(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root, ["train2017/1.jpg", "val2017/2.jpg"])
    listing(root, "result.json", ["1.jpg", "2.jpg"])
    assert converted(tmp_path, "--root", str(root)) == 0
    assert list(result(tmp_path)) == ["train2017/1.jpg", "val2017/2.jpg"]


def test_a_name_with_folders_may_begin_in_any_usual_folder(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root, ["train/1.jpg", "images/more/2.jpg", "3.jpg"])
    listing(root, "train.json", ["train/1.jpg", "more/2.jpg", "3.jpg"])
    assert converted(tmp_path, "--root", str(root), "--skip-bad-images") == 0
    assert list(result(tmp_path)) == ["train/1.jpg", "more/2.jpg"]


def test_given_images_are_the_only_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = listing(tmp_path, "labels.json", ["photos/1.jpg", "2.jpg", "old/3.jpg", "photos/more/1.jpg"])
    save(tmp_path, ["photos/1.jpg", "photos/more/1.jpg", "2.jpg", "old/3.jpg"])
    given = ["--json", str(path), "--images", str(tmp_path / "photos")]
    assert converted(tmp_path, *given) == 2
    assert "2 of 4 images cannot be used" in capsys.readouterr().err
    assert converted(tmp_path, *given, "--skip-bad-images") == 0
    assert list(result(tmp_path)) == ["photos/1.jpg", "photos/more/1.jpg"]


def test_given_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = listing(tmp_path, "labels/mine.json", ["a.jpg"])
    save(tmp_path, ["photos/a.jpg"])
    given = ["--json", str(path), "--images", str(tmp_path / "photos")]
    assert converted(tmp_path, *given, "--split", "val") == 0
    assert result(tmp_path, "val") == {"a.jpg": [100]}
    assert converted(tmp_path, "--json", str(path), "--images", str(tmp_path / "none")) == 2
    assert "none does not exist; check --images" in capsys.readouterr().err
    assert converted(tmp_path, "--json", str(tmp_path / "none.json")) == 2
    assert "none.json does not exist; check --json" in capsys.readouterr().err
    assert converted(tmp_path, "--images", str(tmp_path / "photos")) == 2
    assert "--images needs --json FILE" in capsys.readouterr().err
    assert converted(tmp_path) == 2
    assert "Missing option '--root'" in capsys.readouterr().err
    assert converted(tmp_path, *given, "--split", "val", "--split", "train") == 2


def test_two_json_files_of_one_split_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root, ["images/a.jpg"])
    listing(root, "old.json", ["a.jpg"])
    listing(root, "new.json", ["a.jpg"])
    with pytest.raises(
        DataError, match=r"several COCO JSON files for the split train: new\.json and old\.json; .*--json"
    ):
        find_splits(root)


def test_a_json_without_images_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "in"
    save(root, ["images/train/a.jpg"])
    listing(root, "annotations/instances_train.json", ["a.jpg"])
    listing(root, "annotations/instances_val.json", ["b.jpg"])
    assert converted(tmp_path, "--root", str(root)) == 0
    assert "instances_val.json is not converted: it has no images in images/val/ or val/" in capsys.readouterr().err
    assert converted(tmp_path, "--root", str(root), "--split", "val") == 2
    assert "no split 'val' in" in (error := capsys.readouterr().err)
    assert "instances_val.json has no images in images/val/ or val/; available splits: train" in error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("annotations/val.json", "images/val/1.jpg"),
        ("train.json", "train/2.jpg"),
        ("extra.json", "extra/1.jpg"),
        ("extra/labels.json", "extra/1.jpg"),
        ("images/_annotations.coco.json", "images/2.jpg"),
    ],
)
@pytest.mark.parametrize("used", ["annotations/instances_train.json", "train/_annotations.coco.json"])
def test_a_json_in_another_layout_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], used: str, name: str, image: str
) -> None:
    root = tmp_path / "in"
    save(root, ["train/1.jpg", image])
    listing(root, used, ["1.jpg"])
    path = listing(root, name, ["1.jpg"])
    listing(root, "__MACOSX/extra.json", ["1.jpg"])
    listing(root, "annotations/captions_train.json", ["1.jpg"])
    assert converted(tmp_path, "--root", str(root)) == 0
    error = capsys.readouterr().err
    assert f"{path} is not converted: it has another layout than {root / used}; pass it with --json" in error
    assert error.count("is not converted") == 1
    given = ["--root", str(root), "--json", str(path), "--images", str(root / image.rpartition("/")[0])]
    run("prepare-data", "coco-instances", *given, "--out", str(tmp_path / "2"), "--skip-bad-images")
    assert "is not converted" not in capsys.readouterr().err


def test_what_operating_systems_leave_is_ignored(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("__MACOSX/_annotations.coco.json", ".cache/_annotations.coco.json", "._result.json"):
        listing(root, name, ["a.jpg"])
    with pytest.raises(DataError, match="found no JSON files and no folders"):
        find_splits(root)
    save(root, ["images/a.jpg"])
    listing(root, "result.json", ["a.jpg"])
    assert list(find_splits(root)) == ["train"]


def test_the_output_may_not_be_inside_the_given_images(tmp_path: Path) -> None:
    path = listing(tmp_path, "mine.json", ["a.jpg"])
    save(tmp_path, ["photos/a.jpg"])
    (tmp_path / "root").mkdir()
    given = ["--root", str(tmp_path / "root"), "--json", str(path), "--images", str(tmp_path / "photos")]
    assert run("prepare-data", "coco-instances", *given, "--out", str(tmp_path / "photos/out")) == 2
    assert not (tmp_path / "photos/out").exists()


def test_what_is_there_is_listed_if_nothing_is_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no JSON files and no folders; check --root"):
        find_splits(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.json").write_text("[]")
    expected = (
        "looked for annotations/instances_<split>.json .*found the JSON files notes.json, without `images`.* photos/"
    )
    with pytest.raises(DataError, match=expected):
        find_splits(tmp_path)


def test_a_panoptic_json_is_refused_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "in"
    save(root, ["images/a.jpg"])
    rows = [{"image_id": 1, "file_name": "a.png", "segments_info": []}]
    listing(root, "mine.json", ["a.jpg"], annotations=rows)
    assert converted(tmp_path, "--root", str(root)) == 2
    assert "is a COCO panoptic JSON" in capsys.readouterr().err


def test_collected_cases(shared: Path, tmp_path: Path) -> None:
    for folder in sorted((shared / "cases/coco-instances-layouts").iterdir()):
        out = tmp_path / folder.name
        arguments = ["--root", str(folder), "--out", str(out), "--workers", "1"]
        assert run("prepare-data", "coco-instances", *arguments) == 0, folder
        (path,) = (out / "annotations").glob("panoptic_*.json")
        data = CocoPanoptic(out, path.stem.removeprefix("panoptic_"))
        assert [segment.area for segment in data[0].annotation.segments] == [400]
