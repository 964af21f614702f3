"""Where `prepare-data yolo` finds images, text files and classes: layouts that tools write, and paths of data.yaml."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.yolo import Yolo, open_yolo
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.reporting import SilentReporter
from tests.prepare.annotation_tools.converted import areas, converted_train

ROW = "0 0.1 0.1 0.5 0.1 0.5 0.3 0.5 0.5 0.1 0.5\n"  # 8 x 4 pixels of an image of 20 x 10


def pair(images: Path, name: str, labels: Path | None = None) -> None:
    """Write an image and its text file; by default, in the folder in which Ultralytics looks for it."""
    images.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), (len(name), 20, 30)).save(images / f"{name}.jpg")
    folder = labels or Path(str(images).replace("/images", "/labels"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(ROW)


def opened(root: Path, classes: Path | None = None) -> Yolo:
    return open_yolo(root, classes, (), "last")


def found(source: Yolo) -> dict[str, list[str]]:
    """Return the names of the images in each split; each has its text file."""
    images = {split: list(source.images(split)) for split in source.splits()}
    assert all(image.labels[0].read_text() == ROW for split in images.values() for image in split)
    return {split: [image.file_name for image in rows] for split, rows in images.items()}


def config(root: Path, *lines: str, name: str = "data.yaml") -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(["names: [cat]", *lines]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "in"


def test_one_split_without_folders(root: Path) -> None:
    config(root, "train: images/train", "val: images/val")
    pair(root / "images", "a")
    assert found(opened(root)) == {"train": ["a.jpg"]}
    assert areas(converted_train(opened(root))) == [("cat", 32, (2, 1, 8, 4))]


def test_path_is_relative_to_the_configuration(root: Path) -> None:
    config(root, "path: data/imgs", "train: train/images", "val: [more/images/a, more/images/b]")
    pair(root / "data/imgs/train/images", "a")
    pair(root / "data/imgs/more/images/a", "b")
    pair(root / "data/imgs/more/images/b", "b")
    pair(root / "images/other", "c")  # not named
    assert found(opened(root)) == {"train": ["a.jpg"], "val": ["a/b.jpg", "b/b.jpg"]}


def test_folders_of_macos_and_of_a_nas_are_no_splits(root: Path) -> None:
    config(root)
    pair(root / "images/train", "a")
    for folder in ("images/__MACOSX/train", "@eaDir/images"):
        (root / folder).mkdir(parents=True)
    (root / "images/train/@eaDir/a.jpg").mkdir(parents=True)
    (root / "images/train/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg").touch()
    (root / "._data.yaml").write_bytes(b"\0\5\x16\7")
    assert found(opened(root)) == {"train": ["a.jpg"]}


def test_a_path_of_another_computer(root: Path) -> None:
    config(root, "path: /content/datasets/mine", "train: images/train2017", "val: images/train2017")
    pair(root / "images/train2017", "a")
    source = opened(root)
    assert found(source) == {"train2017": ["a.jpg"]}
    (note,) = source.conventions("train2017", {})
    assert note == "val has the same images as train and is converted once, as train2017"


def test_the_paths_of_roboflow(root: Path) -> None:
    config(root, "train: ../train/images", "val: ../valid/images", "test: ../test/images")
    pair(root / "train/images", "a")
    pair(root / "valid/images", "b")
    source = opened(root)
    assert found(source) == {"train": ["a.jpg"], "valid": ["b.jpg"]}
    (note,) = source.conventions("train", {})
    assert note.endswith("data.yaml names test: ../test/images, which does not exist")


@pytest.mark.parametrize(
    ("line", "list_"),
    [
        ("./images/train/a.jpg", "train.txt"),
        ("images/train/a.jpg", "train.txt"),
        ("data/images/train/a.jpg", "train.txt"),  # CVAT's export for Ultralytics
        ("images\\train\\a.jpg", "train.txt"),
        ("images/train/a.jpg", "lists/train.txt"),
        ("../images/train/a.jpg", "lists/train.txt"),
        ("{root}/images/train/a.jpg", "train.txt"),
        ("/home/other/set/images/train/a.jpg", "train.txt"),  # of another computer
        ("C:\\Users\\other\\images\\train\\a.jpg", "lists/train.txt"),
    ],
)
def test_lists_of_images(root: Path, line: str, list_: str) -> None:
    config(root, "path: ./", f"train: {list_}")
    pair(root / "images/train", "a")
    pair(root / "images/train", "b")  # not listed
    (root / list_).parent.mkdir(exist_ok=True)
    (root / list_).write_text(f"\n{line.format(root=root)}\r\n")
    assert found(opened(root)) == {"train": ["a.jpg"]}


def test_a_list_of_images_in_the_configuration(root: Path) -> None:
    config(root, "path: .", "train: [images/train/a.jpg, images/val/b.jpg]", "val: images/val/c.jpg")
    for folder, name in (("train", "a"), ("val", "b"), ("val", "c"), ("val", "d")):
        pair(root / "images" / folder, name)
    assert found(opened(root)) == {"train": ["train/a.jpg", "val/b.jpg"], "val": ["c.jpg"]}


def test_a_readme_among_the_labels(root: Path) -> None:
    config(root)
    pair(root / "images/train", "a")
    (root / "labels/train/README.txt").write_text("Exported today.")
    assert found(opened(root)) == {"train": ["a.jpg"]}


def test_a_list_of_several_folders(root: Path) -> None:
    config(root, "train: train.txt")
    pair(root / "town/images", "a")
    pair(root / "sea/images", "a")
    (root / "train.txt").write_text("./town/images/a.jpg\n./sea/images/a.jpg\n")
    assert found(opened(root)) == {"train": ["town/images/a.jpg", "sea/images/a.jpg"]}


def test_listed_images_that_do_not_exist(root: Path) -> None:
    config(root, "train: train.txt")
    pair(root / "images/train", "a")
    (root / "train.txt").write_text("./images/train/a.jpg\n./images/train/gone.jpg\n")
    with pytest.raises(DataError, match=r"1 of 2 images cannot be used(.|\n)*gone.jpg"):
        converted_train(opened(root))
    (root / "train.txt").write_text("C:\\home\\gone.jpg\n")
    with pytest.raises(DataError, match=rf"none of the images that .*train.txt lists exists, such as {root}/gone.jpg"):
        list(opened(root).images("train"))
    (root / "train.txt").write_text("/home/other/gone.jpg\n")
    with pytest.raises(DataError, match=r"none of the images that .*train.txt lists exists, such as /home/other/gone"):
        list(opened(root).images("train"))


def test_folders_outside_of_the_root(root: Path) -> None:
    """They are read, and nothing may be written to them."""
    config(root, f"train: {root.parent}/elsewhere/images/train")
    pair(root.parent / "elsewhere/images/train", "a")
    source = opened(root)
    assert found(source) == {"train": ["a.jpg"]}
    assert list(source.also_read) == [root.parent / "elsewhere/images/train"]


def test_the_export_of_label_studio(root: Path) -> None:
    pair(root / "images", "1a2b-street")
    (root / "classes.txt").write_text("cat\ndog\n")
    (root / "notes.json").write_text('{"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]}')
    source = opened(root)
    assert found(source) == {"train": ["1a2b-street.jpg"]}
    assert [(c.id, c.name, c.is_thing) for c in source.categories.categories] == [(0, "cat", True), (1, "dog", True)]


def test_a_list_of_names_is_numbered_from_0_wherever_it_is(root: Path) -> None:
    pair(root / "images", "a")
    (root.parent / "names.txt").write_text("cat\ndog\ndog\n\n")
    source = opened(root, root.parent / "names.txt")
    assert [(c.id, c.name) for c in source.categories.categories] == [(0, "cat"), (1, "dog"), (2, "dog")]


def test_the_layout_of_darknet(root: Path) -> None:
    """As in CVAT's YOLO 1.1: the text files are next to the images, and paths start with data/."""
    pair(root / "obj_train_data", "a", root / "obj_train_data")
    pair(root / "obj_train_data/town", "b", root / "obj_train_data/town")
    (root / "obj.names").write_text("cat\n")
    (root / "obj.data").write_text("classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    (root / "train.txt").write_text("data/obj_train_data/a.jpg\ndata/obj_train_data/town/b.jpg\n")
    assert found(opened(root)) == {"train": ["a.jpg", "town/b.jpg"]}


@pytest.mark.parametrize("folder", ["", "train"])
def test_text_files_next_to_the_images(root: Path, folder: str) -> None:
    pair(root / folder, "a", root / folder)
    (root / "classes.txt").write_text("cat\n")
    (root / folder / "notes.txt").write_text("Drawn by hand.")
    (root / folder / "lone.txt").write_text(ROW)
    source = opened(root)
    *images, lone = source.images("train")
    assert [image.file_name for image in images] == ["a.jpg"] and "lone.txt has no image" in lone.problem


@pytest.mark.parametrize("name", ["dataset.yaml", "coco8-seg.yml", "mine.yaml"])
def test_other_names_of_the_configuration(root: Path, name: str) -> None:
    """fiftyone writes dataset.yaml."""
    config(root, "val: ./images/val/", name=name)
    (root / "hyperparameters.yaml").write_text("lr0: 0.01")
    pair(root / "images/val", "a")
    assert found(opened(root)) == {"val": ["a.jpg"]}


@pytest.mark.parametrize("folder", ["images", "train", ""])
def test_a_root_whose_own_path_has_images(tmp_path: Path, folder: str) -> None:
    """Only the part of the path inside of the data set is renamed to `labels`."""
    root = tmp_path / "images" / "mine"
    pair(root / folder, "a", root / ("labels" if folder == "images" else folder))
    (root / "classes.txt").write_text("cat\n")
    assert found(opened(root)) == {"train": ["a.jpg"]}


def test_an_absolute_path_of_windows(root: Path) -> None:
    config(root, "train: C:\\data\\train\\images")
    pair(root / "train/images", "a")
    source = opened(root)
    assert found(source) == {"train": ["a.jpg"]}
    assert "names train: C:/data/train/images, which is not in" in source.conventions("train", {})[0]


def test_several_configurations(root: Path) -> None:
    config(root, name="a.yaml")
    config(root, "train: images/day", name="b.yaml")
    pair(root / "images/day", "a")
    with pytest.raises(DataError, match="has several YAML files with class names: a.yaml, b.yaml; pass .* --classes"):
        opened(root)
    assert found(opened(root, root / "b.yaml")) == {"day": ["a.jpg"]}


def test_splits_of_one_name_are_called_like_their_keys(root: Path) -> None:
    config(root, "train: a/images/x", "val: b/images/x")
    pair(root / "a/images/x", "a")
    pair(root / "b/images/x", "b")
    assert found(opened(root)) == {"train": ["a.jpg"], "val": ["b.jpg"]}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["train: images/day"], r"data.yaml names train: images/day, which is not in .*in; correct its paths"),
        (["path: gone", "train: x"], r"train: x, which is not in .*gone or "),
        (["train: [., gone]"], r"names train: gone, which is not in .*expected all parts of a split"),
        (["train: 7"], "data.yaml: train is 7; expected a folder, a text file, or a list of these"),
        (["train: [a, 7]"], r"train is \['a', 7\]"),
    ],
)
def test_wrong_paths(root: Path, lines: list[str], message: str) -> None:
    config(root, *lines)
    with pytest.raises(DataError, match=message):
        opened(root)


def test_keys_with_the_same_meaning(root: Path) -> None:
    config(root, "val: a/images", "valid: b/images")
    pair(root / "a/images", "a")
    pair(root / "b/images", "b")
    assert found(opened(root)) == {"a": ["a.jpg"], "b": ["b.jpg"]}
    config(root, "val: val.txt", "valid: valid.txt")
    for name, folder in (("val", "a"), ("valid", "b")):
        (root / f"{name}.txt").write_text(f"{folder}/images/{folder}.jpg")
    assert found(opened(root)) == {"val": ["a.jpg"], "valid": ["b.jpg"]}


def test_folders_that_are_used_instead_are_reported(root: Path) -> None:
    config(root, "train: images/day")
    pair(root / "images", "a")
    (note,) = opened(root).conventions("train", {})
    assert re.search(rf"names train: images/day, which is not in .*; the images in {root} are used instead", note)


def test_lists_and_rows_in_other_encodings(root: Path) -> None:
    config(root, "train: train.txt")
    pair(root / "images", "stra\u00dfe")
    (root / "train.txt").write_bytes("images/stra\u00dfe.jpg".encode("cp1252"))
    (root / "labels/stra\u00dfe.txt").write_bytes(ROW.encode("utf-16"))
    with pytest.raises(DataError, match=r"train.txt is not UTF-8.*--encoding"):
        opened(root).images("train")
    source = open_yolo(root, None, (), "last", encoding="cp1252")
    assert [image.file_name for image in source.images("train")] == ["stra\u00dfe.jpg"]
    assert areas(converted_train(source)) == [("cat", 32, (2, 1, 8, 4))]


def test_two_folders_of_one_split(root: Path) -> None:
    config(root)
    pair(root / "images/train", "a")
    pair(root / "train/images", "b")
    with pytest.raises(DataError, match=f"two folders of the split train, {root}/images/train and {root}/train/images"):
        opened(root)


@pytest.mark.parametrize("line", ["[images/day, images/day]", "[images/day, ./images/day/]"])
def test_a_folder_that_is_listed_twice(root: Path, line: str) -> None:
    config(root, f"train: {line}")
    pair(root / "images/day", "a")
    assert list(found(opened(root)).values()) == [["a.jpg"]]


def test_an_entry_that_is_too_long_for_a_file_name(root: Path) -> None:
    config(root, f"train: {'x' * 5000}")
    with pytest.raises(DataError, match="data.yaml names train: x+.*, which is not in") as caught:
        opened(root)
    assert len(str(caught.value)) < 600
    config(root, "train: train.txt")
    (root / "train.txt").write_text(f"{'x' * 5000}.jpg")
    with pytest.raises(DataError, match="none of the images that .*train.txt lists exists"):
        list(opened(root).images("train"))


def test_nothing_is_written_into_the_folders_of_listed_images(root: Path) -> None:
    other = root.parent / "other"
    pair(other / "images", "a")
    config(root, "train: train.txt")
    (root / "train.txt").write_text(str(other / "images/a.jpg"))
    assert opened(root).also_read == [other / "images"]
    with pytest.raises(DataError, match="is inside the input folder"):
        convert(opened(root), other / "images/out", (), ConvertOptions(), SilentReporter())


def test_images_beside_folders_of_splits(root: Path) -> None:
    config(root)
    pair(root / "images", "a")
    pair(root / "images/train", "b")
    with pytest.raises(DataError, match=r"contains both images, such as a.jpg, and folders, such as train; expected"):
        opened(root)


def test_the_recorded_cases(shared: Path, tmp_path: Path) -> None:
    folder = shared / "cases/yolo-without-split-folders"
    for name in ("data", "paths_in_yaml"):
        source = opened(folder / name)
        assert [image.file_name for image in source.images("train")] == ["a.jpg"] and source.splits() == ["train"]
