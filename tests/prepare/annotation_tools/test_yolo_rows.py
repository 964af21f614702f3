"""Which rows of YOLO's text files are polygons, and what is said about the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.yolo import Yolo, open_yolo
from panformer_cli.prepare.annotation_tools.yolo_rows import class_number
from tests.prepare.annotation_tools.converted import areas, converted_train

SQUARE = "0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"  # 40 x 40 pixels of an image of 100 x 100
PENTAGON = "0.1 0.1 0.5 0.1 0.5 0.3 0.5 0.5 0.1 0.5"  # the same pixels


def data_set(folder: Path, *rows: str, config: str = "names: [cat, dog]") -> Path:
    """Write one image and text file for each item of `rows`, which is the content of the text file."""
    for number, row in enumerate(rows):
        for kind, suffix in (("images", "jpg"), ("labels", "txt")):
            (folder / kind / "train").mkdir(parents=True, exist_ok=True)
            path = folder / kind / "train" / f"{number}.{suffix}"
            if suffix == "jpg":
                Image.new("RGB", (100, 100), (number, 20, 30)).save(path)
            else:
                path.write_bytes(row.encode())
    (folder / "data.yaml").write_text(config)
    return folder


def opened(folder: Path, accepts_oriented_boxes: bool = False) -> Yolo:
    return open_yolo(folder, None, (), "last", accepts_oriented_boxes)


def notes(folder: Path) -> str:
    return " ".join(opened(folder).conventions("train", {}))


@pytest.mark.parametrize(
    ("word", "number"),
    [
        *[("1", 1), ("01", 1), ("+1", 1), ("1.0", 1), ("1.", 1), ("1e0", 1), ("0.1E1", 1), ("1000e-3", 1)],
        *[("0.5", None), ("-1", None), ("1e", None), ("nan", None), ("inf", None), ("1_0", None), ("1e99", None)],
        *[("0x1", None), ("car", None), ("٣", None), ("", None), ("true", None)],
    ],
)
def test_class_numbers(word: str, number: int | None) -> None:
    assert class_number(word) == number


@pytest.mark.parametrize(
    "row",
    [
        f"1.0 {PENTAGON}",
        f"1e0 {PENTAGON}  \t ",
        f"\ufeff1 {PENTAGON}\r\n\r\n",
        f"1\t{PENTAGON}".replace(" ", "\t"),
        "1 1e-1 .1 5e-1 0.1 0.5 0.3 0.5 0.5 0.1 0.5",
    ],
)
def test_other_notations_of_one_row(tmp_path: Path, row: str) -> None:
    data = converted_train(opened(data_set(tmp_path / "in", row)))
    assert areas(data) == [("dog", 1600, (10, 10, 40, 40))]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0 0.5 0.5 0.2 0.2"], "the only row of the text files is a detection box"),
        (["0 0.5 0.5 0.2 0.2", "1 0.4 0.4 0.2 0.1\n0 0.1 0.1 0.1 0.1"], "each of the 3 rows .* is a detection box"),
        (["0 0.5 0.5 0.2 0.2 0.9"] * 2, r"is a detection box \(.*, and a confidence or track id\)"),
        (["0 0.5 0.5 0.2 0.2 7", "0 0.5 0.5 0.2 0.2 12"], r"is a detection box \(.*, and a confidence or track id\)"),
        # key points with visibility, and without
        (["0 0.5 0.5 0.4 0.4 0.4 0.4 2 0.6 0.6 1"] * 2, r"each of the 2 rows .* is a pose \(a box and 2 key points\)"),
        (["0 0.5 0.5 0.4 0.4 0.4 0.4 2"], r"is a pose \(a box and 1 key point\)"),
        (["0 0.5 0.5 0.4 0.3 0.35 0.6 0.62 0.44 0.4 0.62 0.66 0.6"] * 2, r"is a pose \(a box and 4 key points\)"),
        # a rectangle of 60 x 20 pixels, rotated by 30 degrees, in an image that is not square
        (["0 0.29 0.3 0.81 0.6 0.71 0.773 0.19 0.473"], "has the four corners of a rectangle, .*oriented boxes"),
    ],
)
def test_rows_that_are_no_masks(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=rf"in, train: .*{message}.*export the data set for segmentation"):
        opened(data_set(tmp_path / "in", *rows)).images("train")


@pytest.mark.parametrize("shape", ["[17, 3]", "[3, 2]", "17"])
def test_key_points_in_the_configuration(tmp_path: Path, shape: str) -> None:
    root = data_set(tmp_path / "in", f"0 {PENTAGON}", config=f"names: [cat]\nkpt_shape: {shape}")
    with pytest.raises(DataError, match=r"data.yaml has kpt_shape .*poses .*remove this key if the rows are polygons"):
        opened(root)
    (root / "classes.csv").write_text("id,name,isthing\n0,cat,1\n")
    with pytest.raises(DataError, match="kpt_shape"):
        open_yolo(root, root / "classes.csv", (), "last")


@pytest.mark.parametrize("task", ["obb", "pose", "detect", "segment"])
def test_the_task_in_the_configuration(tmp_path: Path, task: str) -> None:
    root = data_set(tmp_path / "in", f"0 {PENTAGON}", config=f"names: [cat]\ntask: {task}")
    if task == "segment":
        assert len(list(opened(root).images("train"))) == 1
        return
    with pytest.raises(DataError, match=f"data.yaml has the task '{task}'.*no masks"):
        opened(root)
    if task == "obb":
        assert len(list(opened(root, accepts_oriented_boxes=True).images("train"))) == 1


def test_polygons_of_equal_length_are_not_poses(tmp_path: Path) -> None:
    """A convex polygon does not cross itself, which a box followed by key points usually does."""
    hexagon = "0 0.5 0.4 0.6 0.45 0.6 0.55 0.5 0.6 0.4 0.55 0.4 0.45"
    source = opened(data_set(tmp_path / "in", hexagon, hexagon))
    assert notes(source.root) == "" and len(list(source.images("train"))) == 2


def test_boxes_among_polygons_are_named_by_line(tmp_path: Path) -> None:
    root = data_set(tmp_path / "in", f"0 0.5 0.5 0.2 0.2\n0 {PENTAGON}")
    with pytest.raises(DataError, match=r"0.txt, line 1 is a detection box"):
        converted_train(opened(root))


def test_oriented_boxes_can_be_accepted(tmp_path: Path) -> None:
    diamond = "0 0.5 0.3 0.7 0.5 0.5 0.7 0.3 0.5"  # half of 40 x 40 pixels, but for its edge
    root = data_set(tmp_path / "in", diamond)
    with pytest.raises(DataError, match="--accept-oriented-boxes"):
        opened(root).images("train")
    source = opened(root, accepts_oriented_boxes=True)
    assert source.settings == {"overlap": "last", "accept_oriented_boxes": True}
    ((name, area, _),) = areas(converted_train(source))
    assert name == "cat" and abs(area - 800) <= 40


def test_quadrilaterals_are_polygons_and_reported(tmp_path: Path) -> None:
    """Upright boxes and other quadrilaterals may be outlines."""
    for number, row in enumerate([SQUARE, "0.1 0.1 0.5 0.2 0.45 0.5 0.1 0.5"]):
        root = data_set(tmp_path / str(number), f"0 {row}", f"0 {SQUARE}")
        assert "each of the 2 rows of the text files has four corners and is read as a polygon" in notes(root)
        assert len(list(opened(root).images("train"))) == 2
    mixed = data_set(tmp_path / "mixed", f"0 {SQUARE}", f"0 {PENTAGON}")
    assert notes(mixed) == ""


@pytest.mark.parametrize(("last", "column"), [(("0.91", "0.4"), "confidence"), (("1", "27"), "track id")])
def test_a_last_column_that_is_no_coordinate(tmp_path: Path, last: tuple[str, str], column: str) -> None:
    root = data_set(tmp_path / "in", f"0 {PENTAGON} {last[0]}", f"1 {SQUARE} {last[1]}")
    assert f"the last number of every row is a {column} and is ignored" in notes(root)
    data = converted_train(opened(root))
    assert areas(data, 0) == [("cat", 1600, (10, 10, 40, 40))] and areas(data, 1)[0][1] == 1600
    summary = json.loads((tmp_path / "out/summary.json").read_text())["train"]
    assert summary["conventions"] == [notes(root)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([f"0 {PENTAGON} 0.5"], "0.txt, line 1 has 11 numbers after the class"),  # or a missing coordinate
        ([f"0 {PENTAGON} 0.5", f"0 {PENTAGON}"], "0.txt, line 1 has 11 numbers after the class"),
        ([f"0 {PENTAGON} 1.5"] * 2, "0.txt, line 1 has 11 numbers after the class"),
        ([f"0 {PENTAGON} inf"] * 2, "0.txt, line 1 has 11 numbers after the class"),
        ([f"0 {PENTAGON} nan"] * 2, "0.txt, line 1 has 11 numbers after the class"),
        ([f"0 {PENTAGON} x"] * 2, "0.txt, line 1 has 11 numbers after the class"),
        (["0"] * 2, "0.txt, line 1 has 0 numbers after the class"),
        ([f"0 {PENTAGON} 0.9 7"] * 2, "0.txt, line 1 has the coordinate 7"),
    ],
)
def test_a_last_column_that_could_be_anything(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        converted_train(opened(data_set(tmp_path / "in", *rows)))


def test_the_recorded_cases(shared: Path) -> None:
    """A rotated box of Label Studio that leads out of the image by 0.1 %, and poses of datumaro."""
    source = opened(shared / "cases/yolo-one-percent-outside/data")
    assert "four corners" in " ".join(source.conventions("train", {}))
    (image,) = source.images("train")
    assert image.file_name == "a.jpg"
    with pytest.raises(DataError, match="kpt_shape"):
        opened(shared / "cases/yolo-pose-read-as-polygons/data")
