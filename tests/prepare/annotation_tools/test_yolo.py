"""`prepare-data yolo`: text files as Ultralytics documents them, with areas computed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from panformer_cli.cli.prepare_data.annotation_tools import yolo
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.yolo import Yolo, open_yolo
from panformer_cli.prepare.overlap import OverlapRule
from panformer_cli.reporting import SilentReporter
from panformer_cli.verify.check import VerifyOptions, verify
from tests.prepare.annotation_tools.converted import areas, converted_train

NAMES = """path: ../datasets/mine # the folder
train: images/train
val: images/val
nc: 3
names:
  0: car
  1: sky
  2: bus
"""


def line(number: int | str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A polygon around the pixels x1..x2 - 1, y1..y2 - 1 of an image of 40 x 20."""
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    return f"{number} " + " ".join(f"{x / 40:.6f} {y / 20:.6f}" for x, y in corners)


def save_image(path: Path, tone: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20), (tone, 10, 200)).save(path)


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images, the second without objects, in the layout images/<split>."""
    folder = tmp_path / "in"
    text(folder / "data.yaml", NAMES)
    save_image(folder / "images/train/a.jpg")
    text(folder / "labels/train/a.txt", line(1, 0, 0, 40, 8), line(0, 5, 5, 15, 15), "", line(0, 20, 5, 25, 15))
    save_image(folder / "images/train/b.jpg", 90)
    return folder


def opened(root: Path, stuff: tuple[str, ...] = ("sky",), overlap: OverlapRule = "last") -> Yolo:
    return open_yolo(root, None, stuff, overlap)


def converted(root: Path, overlap: OverlapRule = "last") -> CocoPanoptic:
    return converted_train(opened(root, overlap=overlap))


def test_polygons_become_segments(root: Path) -> None:
    data = converted(root)
    assert [(c.id, c.name, c.is_thing) for c in data.categories.categories] == [
        (0, "car", True),
        (2, "bus", True),
        (1, "sky", False),
    ]
    assert areas(data, 0) == [
        ("sky", 320 - 45, (0, 0, 40, 8)),
        ("car", 100, (5, 5, 10, 10)),
        ("car", 50, (20, 5, 5, 10)),
    ]
    assert areas(data, 1) == [] and not data.annotation(1).ids.any()
    assert verify(root.parent / "out", (), VerifyOptions(), SilentReporter())[0].is_good


def test_the_overlap_rule_can_be_chosen(root: Path) -> None:
    assert [area for _, area, _ in areas(converted(root, overlap="first"))] == [320, 70, 35]


def test_overlap_can_be_an_error(root: Path) -> None:
    with pytest.raises(DataError, match=r"a.txt: line 2 \(car\) and line 1 \(sky\) share 30 pixels"):
        converted(root, overlap="error")


def test_the_layout_of_roboflow(tmp_path: Path) -> None:
    root = tmp_path / "in"
    text(root / "data.yaml", "names: ['car', 'sky']")
    for split in ("train", "valid", "test"):
        save_image(root / split / "images/town/a.jpg")
        text(root / split / "labels/town/a.txt", line(0, 1, 1, 3, 3))
    save_image(root / "new/images/a.jpg")  # has no labels
    source = opened(root)
    assert source.splits() == ["test", "train", "valid"]
    (image,) = source.images("valid")
    assert (image.id, image.file_name, image.path) == (1, "town/a.jpg", root / "valid/images/town/a.jpg")
    assert areas(converted(root)) == [("car", 4, (1, 1, 2, 2))]
    with pytest.raises(DataError, match=r"the folder .*new/labels is missing; expected images/<split>/"):
        source.images("new")
    with pytest.raises(
        DataError, match=r"has no split 'val' \(available splits: test, train, valid\); expected images/<split>/"
    ):
        source.images("val")


def test_coordinates_may_be_outside_by_a_rounding_error(root: Path) -> None:
    text(root / "labels/train/a.txt", "0 -0.01 0 1.0099 -1e-4 1.0001 1 0 1.0009", line(0, 0, 0, 4, 4))
    assert areas(converted(root))[0] == ("car", 800 - 16, (0, 0, 40, 20))
    summary = json.loads((root.parent / "out/summary.json").read_text())["train"]
    (changed,) = summary["annotations_changed"]
    assert (changed["reason"], changed["count"]) == ("clipped to the image", 1)
    assert changed["first"][0].endswith("a.txt, line 1: the polygon extends out of the image by up to 1 %")


def test_a_polygon_without_pixels_at_the_edge_is_dropped(root: Path) -> None:
    text(root / "labels/train/a.txt", "0 1.0005 0.1 1.0005 0.2 1.0005 0.3", line(2, 0, 0, 4, 4))
    assert areas(converted(root)) == [("bus", 16, (0, 0, 4, 4))]


def test_the_command(root: Path) -> None:
    (root / "data.yaml").rename(root / "mine.yaml")
    out = root.parent / "out"
    arguments = ["--root", str(root), "--out", str(out), "--workers", "1", "--classes", str(root / "mine.yaml")]
    result = CliRunner().invoke(yolo, arguments)
    assert result.exit_code == 0, result.output
    assert [name for name, _, _ in areas(CocoPanoptic(out, "train"))] == ["sky", "car", "car"]
    assert CocoPanoptic(out, "train").categories.num_stuff == 0
    assert json.loads((out / "manifest.json").read_text())["train"]["setting"]["overlap"] == "last"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (line(0, 1, 1, 3, 3) + "\n0 0.5 0.5 0.2 0.2", "line 2 is a detection box; expected a polygon"),
        ("0 0.1 0.1 0.2 0.2 0.3", "line 1 has 5 numbers after the class; expected x and y of 3 or more points"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "line 1 has 7 numbers"),
        ("0", "line 1 has 0 numbers"),
        (
            line(0, 1, 1, 3, 3) + "\n" + line(3, 1, 1, 3, 3),
            "line 2 starts with '3'; expected a class number, one of 0, 1, 2; correct it",
        ),
        (line("car", 1, 1, 3, 3), "starts with 'car'"),
        (line("-1", 1, 1, 3, 3), "starts with '-1'"),
        (line("0.5", 1, 1, 3, 3), "starts with '0.5'"),
        (line("1e", 1, 1, 3, 3), "starts with '1e'"),
        (line("1_0", 1, 1, 3, 3), "starts with '1_0'"),
        (line("nan", 1, 1, 3, 3), "starts with 'nan'"),
        (line("٣", 1, 1, 3, 3), "starts with"),
        ("0 10 10 20 10 20 20", "has the coordinate 10; expected fractions of width and height from 0 to 1"),
        ("0 0.1 0.1 0.2 0.2 0.3 -0.0101", "has the coordinate -0.0101"),
        ("0 0.1 0.1 0.2 0.2 0.3 nan", "has the coordinate nan"),
        ("0 0.1 0.1 0.2 0.2 0.3 0_1", "line 1 contains non-numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 \u0661", "line 1 contains non-numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 x", "line 1 contains non-numbers; expected numbers from 0 to 1"),
        ("0 " * 8 + "1e999", "line 1 has the coordinate inf"),
    ],
)
def test_invalid_lines(root: Path, content: str, message: str) -> None:
    path = text(root / "labels/train/a.txt", content)
    with pytest.raises(
        DataError, match=f"1 of 2 images(.|\n)*{path}, {message}|1 of 2 images(.|\n)*{path}.*{message}"
    ) as caught:
        converted(root)
    assert len(str(caught.value).splitlines()) == 2
    assert not (root.parent / "out/annotations/panoptic_train.json").exists()


def unreadable(root: Path) -> None:
    (root / "labels/train/a.txt").unlink()
    (root / "labels/train/a.txt").mkdir()


def linked_away(root: Path) -> None:
    outside = text(root.parent / "outside.txt", "secret")
    (root / "labels/train/b.txt").symlink_to(outside)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "labels/train/a.txt").write_bytes(b"\xff\xfe0"),
            "a.txt looks like utf-16 but is corrupt",
        ),
        (unreadable, "a.txt cannot be read"),
        (linked_away, "'b.txt' points outside"),
        (
            lambda root: (root / "images/train/b.jpg").write_bytes(b"no image"),
            "b.jpg is not an image",
        ),
        (lambda root: (root / "labels/train/a.txt").rename(root / "labels/train/c.txt"), "no image in .* has a text"),
        (lambda root: save_image(root / "images/train/a.png"), "have the same name a"),
        (lambda root: (root / "data.yaml").unlink(), r"has no data.yaml with the classes, .*--classes FILE"),
        (lambda root: (root / "data.yaml").write_text(""), "data.yaml"),
        (lambda root: (root / "data.yaml").write_text("names: ["), "is not plain YAML"),
        (lambda root: (root / "data.yaml").write_text("names: [car]"), "--stuff sky: unknown class"),
        (lambda root: (root / "labels").rename(root / "texts"), r"the folder .*labels/train is missing"),
    ],
)
def test_invalid_folders(root: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(root)
    with pytest.raises(DataError, match=message):
        converted(root)
    assert not (root.parent / "out/annotations/panoptic_train.json").exists()


def test_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing does not exist"):
        opened(tmp_path / "missing")
    text(tmp_path / "data.yaml", NAMES)
    with pytest.raises(DataError, match=r"data.yaml names train: images/train, val: images/val, which is not in "):
        opened(tmp_path)
    text(tmp_path / "data.yaml", "names: [car, sky]")
    with pytest.raises(DataError, match="has no split with images and labels; found 1 file with .yaml; expected "):
        opened(tmp_path).splits()


def test_classes_txt_among_the_labels_is_ignored(root: Path) -> None:
    text(root / "labels/train/classes.txt", "car\nsky\n")
    assert len(converted(root)) == len(list((root / "images/train").iterdir()))


def test_a_text_file_without_an_image_is_reported(root: Path) -> None:
    text(root / "labels/train/lone.txt", line(0, 1, 1, 3, 3))
    with pytest.raises(DataError, match=r"lone\.txt has no image in .*images/train"):
        converted(root)


def test_classes_of_one_name_stay_apart(root: Path) -> None:
    text(root / "data.yaml", "names: [car, sky, car]")
    text(root / "labels/train/a.txt", line(0, 0, 0, 4, 4), line(2, 10, 0, 14, 4))
    assert [s.category_id for s in converted_train(opened(root)).annotation(0).segments] == [0, 2]


def test_the_only_yaml_is_in_another_encoding(root: Path) -> None:
    (root / "data.yaml").unlink()
    (root / "mine.yaml").write_bytes("names: [caf\u00e9, sky]".encode("cp1252"))
    with pytest.raises(DataError, match=r"no class names that can be read:\n  .*mine\.yaml is not UTF-8: .*cp1252"):
        open_yolo(root, None, (), "last")
    assert open_yolo(root, None, (), "last", encoding="cp1252").categories.categories[0].name == "caf\u00e9"
