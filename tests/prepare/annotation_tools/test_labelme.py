"""`prepare-data labelme`: files as labelme writes them, with areas computed by hand."""

from __future__ import annotations

import base64
import io
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from PIL import Image

from panformer_cli.cli.prepare_data.annotation_tools import labelme
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.labelme import open_labelme
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.overlap import OverlapRule
from panformer_cli.reporting import SilentReporter
from panformer_cli.verify.check import VerifyOptions, verify
from tests.prepare.annotation_tools.converted import areas

Row = dict[str, Any]


def box(x1: float, y1: float, x2: float, y2: float) -> list[list[float]]:
    """The corners of a polygon that covers the pixels x1..x2 - 1, y1..y2 - 1."""
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


def shape(label: Any, points: Any, kind: Any = "polygon", **more: Any) -> Row:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | more


def write(folder: Path, name: str, shapes: Any, **more: Any) -> Path:
    """An image of 40 x 30 (width x height) and its JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (sum(name.encode()) % 256, 10, 200)).save(folder / f"{name}.jpg")
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg", "imageData": None}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content | {"imageHeight": 30, "imageWidth": 40} | more))
    return path


def converted(
    root: Path, stuff: tuple[str, ...] = (), overlap: OverlapRule = "last", classes: Path | None = None
) -> tuple[CocoPanoptic, Path]:
    out = root.parent / "out"
    convert(open_labelme(root, classes, stuff, overlap), out, (), ConvertOptions(), SilentReporter())
    split = min(path.stem.removeprefix("panoptic_") for path in (out / "annotations").glob("*.json"))
    return CocoPanoptic(out, split), out


def png(mask: npt.NDArray[Any]) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "in"


def test_all_shape_types(root: Path) -> None:
    drawn = np.zeros((4, 6), np.uint8)
    drawn[1:, 2:] = 255
    write(
        root,
        "a",
        [
            shape("road", box(0, 20, 40, 30), "polygon"),
            shape("car", [[12, 8], [2, 3]], "rectangle"),
            shape("sun", [[30, 8], [30, 13]], "circle"),
            shape("dog", [[15, 2], [20, 5]], "mask", mask=png(drawn)),
            shape("car", box(1, 22, 5, 25), "oriented_rectangle"),
            shape("car", box(6, 22, 8, 25), None),
        ],
    )
    data, out = converted(root, stuff=("road",))
    assert [(c.id, c.name, c.is_thing) for c in data.categories.categories] == [
        (1, "car", True),
        (2, "dog", True),
        (4, "sun", True),
        (3, "road", False),
    ]
    y, x = np.mgrid[:30, :40] + 0.5
    circle = int(((x - 30) ** 2 + (y - 8) ** 2 < 25).sum())
    assert areas(data) == [
        ("road", 400 - 12 - 6, (0, 20, 40, 10)),
        ("car", 50, (2, 3, 10, 5)),
        ("sun", circle, (25, 3, 10, 10)),
        ("dog", 12, (17, 3, 4, 3)),
        ("car", 12, (1, 22, 4, 3)),
        ("car", 6, (6, 22, 2, 3)),
    ]
    assert 70 <= circle <= 84, "pi r^2 is 78.5"
    assert verify(out, (), VerifyOptions(), SilentReporter())[0].is_good


def test_a_group_with_one_label_is_one_object(root: Path) -> None:
    parts = [box(0, 0, 4, 4), box(10, 0, 14, 4), box(20, 0, 24, 4), box(30, 0, 34, 4)]
    groups = [("car", 1), ("car", 1), ("dog", 1), ("car", None)]
    write(root, "a", [shape(label, p, group_id=g) for p, (label, g) in zip(parts, groups, strict=True)])
    data, _ = converted(root)
    assert areas(data) == [("car", 32, (0, 0, 14, 4)), ("dog", 16, (20, 0, 4, 4)), ("car", 16, (30, 0, 4, 4))]


def test_stuff_is_one_segment_also_in_a_group(root: Path) -> None:
    rows = [
        shape("sky", box(0, 0, 10, 10), group_id=1),
        shape("car", box(5, 0, 15, 10)),
        shape("sky", box(10, 0, 20, 10), group_id=1),
    ]
    write(root, "a", rows)
    assert areas(converted(root, stuff=("sky",))[0]) == [("sky", 150, (0, 0, 20, 10)), ("car", 50, (5, 0, 5, 10))]


def test_void_labels_erase_shapes_below(root: Path) -> None:
    rows = [
        shape("car", box(0, 0, 10, 10)),
        shape("__ignore__", box(5, 0, 20, 10)),
        shape("dog", box(15, 0, 25, 10)),
        shape("_background_", box(0, 0, 2, 10)),
    ]
    write(root, "a", rows)
    data, _ = converted(root)
    assert [c.name for c in data.categories.categories] == ["car", "dog"]
    assert areas(data) == [("car", 30, (2, 0, 3, 10)), ("dog", 100, (15, 0, 10, 10))]
    assert (data.annotation(0).ids == 0).sum() == 1200 - 130


@pytest.mark.parametrize(("rule", "expected"), [("last", (50, 100)), ("first", (100, 50)), ("smallest", (50, 100))])
def test_overlaps(root: Path, rule: OverlapRule, expected: tuple[int, int]) -> None:
    write(root, "a", [shape("car", box(0, 0, 10, 10)), shape("car", box(5, 0, 15, 10))])
    write(root, "b", [shape("car", box(0, 0, 10, 10)), shape("car", box(5, 0, 9, 10))])
    data, _ = converted(root, overlap=rule)
    if rule == "smallest":
        assert [area for _, area, _ in areas(data, 1)] == [60, 40]
    else:
        assert tuple(area for _, area, _ in areas(data, 0)) == expected


def test_overlap_can_be_an_error(root: Path) -> None:
    path = write(root, "a", [shape("car", box(0, 0, 10, 10)), shape("dog", box(5, 0, 15, 10))])
    with pytest.raises(DataError, match=rf"{path}: polygon 2 \(dog\) and polygon 1 \(car\) share 50 pixels"):
        converted(root, overlap="error")


def test_a_flag_makes_a_crowd_of_things_only(root: Path) -> None:
    rows = [
        shape("car", box(0, 0, 10, 10), flags={"iscrowd": True}),
        shape("car", box(20, 0, 30, 10)),
        shape("sky", box(0, 20, 10, 30), flags={"iscrowd": True}),
    ]
    write(root, "a", rows)
    segments = converted(root, stuff=("sky",))[0].annotation(0).segments
    assert [segment.is_crowd for segment in segments] == [True, False, False]


def test_shapes_over_the_edge_are_clipped_and_empty_ones_dropped(root: Path) -> None:
    rows = [shape("car", box(-5, -5, 5, 5)), shape("dog", [[30, 1], [39, 10], [30, 1]])]
    write(root, "a", rows)
    assert areas(converted(root)[0]) == [("car", 25, (0, 0, 5, 5))]


def test_split_folders_and_images_in_other_folders(root: Path) -> None:
    write(root / "train" / "town", "a", [shape("car", box(0, 0, 4, 4))])
    write(root / "train", "b", [], imagePath="../photos/b.jpg")
    (root / "photos").mkdir()
    (root / "train" / "b.jpg").rename(root / "photos" / "b.jpg")
    write(root / "valid", "c", [shape("dog", box(0, 0, 4, 4))], imagePath=".\\c.jpg")
    source = open_labelme(root, None, (), "last")
    assert source.splits() == ["train", "valid"] and len(source.categories) == 2
    assert [(i.id, i.file_name) for i in source.images("train")] == [(1, "photos/b.jpg"), (2, "town/a.jpg")]
    assert [image.file_name for image in source.images("valid")] == ["c.jpg"]
    data, _ = converted(root)
    assert [len(data.annotation(index).segments) for index in range(2)] == [0, 1]
    with pytest.raises(DataError, match="has no split test; expected one of train, valid"):
        source.images("test")


def test_a_class_file_defines_ids_kinds_and_colors(root: Path) -> None:
    write(root, "a", [shape("sky", box(0, 0, 40, 10)), shape("car", box(0, 0, 4, 4))])
    classes = root.parent / "classes.csv"
    classes.write_text("id,name,isthing,color\n7,car,1,#0000ff\n9,sky,0,#00ff00\n30,bus,1,\n")
    data, _ = converted(root, classes=classes)
    assert [(c.id, c.name, c.color) for c in data.categories.categories] == [
        (7, "car", (0, 0, 255)),
        (30, "bus", None),
        (9, "sky", (0, 255, 0)),
    ]
    assert areas(data) == [("sky", 384, (0, 0, 40, 10)), ("car", 16, (0, 0, 4, 4))]


def test_the_command(root: Path) -> None:
    write(root, "a", [shape("sky", box(0, 0, 40, 10)), shape("car", box(0, 0, 4, 4))])
    out = root.parent / "out"
    arguments = ["--root", str(root), "--out", str(out), "--workers", "1", "--stuff", "sky", "--overlap", "first"]
    result = CliRunner().invoke(labelme, arguments)
    assert result.exit_code == 0, result.output
    assert areas(CocoPanoptic(out, "train")) == [("sky", 400, (0, 0, 40, 10))]
    assert json.loads((out / "manifest.json").read_text())["train"]["setting"]["overlap"] == "first"


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (
            [shape("car", box(0, 0, 4, 4)), shape("car", box(0, 0, 4, 4), "cuboid")],
            {},
            r"cuboid 2 \(car\) has an unknown shape_type; .* draw its outline as a polygon",
        ),
        ([shape("car", [[1, 1], [9, 9]])], {}, r"polygon 1 \(car\) has 2 points; expected 3"),
        ([shape("car", [[1, 1], [9, 9], [5, 5]], "rectangle")], {}, r"rectangle 1 \(car\) has 3 points; expected 2"),
        ([shape("car", [[1, 1]], "circle")], {}, "has 1 point; expected 2"),
        ([shape("car", [])], {}, r"has the points \[\]; expected a list of \[x, y\]"),
        ([shape("car", [[1, "2"], [3, 4], [5, 6]])], {}, "has the points"),
        ([shape("car", [[1, 10**400], [3, 4], [5, 6]])], {}, "non-finite coordinate"),
        ([shape("car", [[float("nan"), 1], [3, 4], [5, 6]])], {}, "non-finite coordinate"),
        ([shape("car", box(50, 0, 60, 9))], {}, "is outside of its 40x30 image"),
        ([shape("car", box(0, 0, 4000, 9))], {}, "far outside of its"),
        ([shape(5, box(0, 0, 4, 4))], {}, "shape 1 is .*; expected an object with label and points"),
        (["car"], {}, "shape 1 is 'car'"),
        ([shape("car", box(0, 0, 4, 4), ["polygon"])], {}, r"has the shape_type \['polygon'\]"),
        ([shape("car", box(0, 0, 4, 4), group_id=[1])], {}, r"has the group_id \[1\]"),
        ([shape("car", [[0, 0], [3, 3]], "mask", mask=None)], {}, r"mask 1 \(car\) has the mask None"),
        ([shape("car", [[0, 0], [3, 3]], "mask", mask="@@")], {}, "not a base64 PNG"),
        ([shape("car", [[0, 0], [3, 3]], "mask", mask=png(np.ones((4, 4), np.uint8))[:-40])], {}, "truncated"),
        ([shape("car", [[0, 0], [3, 3]], "mask", mask=png(np.ones((9, 4), np.uint8)))], {}, "4x9 in a box of 4x4"),
        ([shape("car", [[0, 0], [60000, 60000]], "mask", mask="")], {}, "is larger than its image"),
        ({"label": "car"}, {}, "is not a labelme file: it has no list `shapes`"),
        ([], {"imageHeight": 40, "imageWidth": 30}, "30x40 but the image is displayed as 40x30 .*EXIF orientation"),
        ([], {"imageHeight": "tall"}, "the height is the text 'tall'; expected a number"),
    ],
)
def test_corrupt_files(root: Path, rows: Any, more: Row, message: str) -> None:
    write(root, "good", [shape("car", box(0, 0, 4, 4))])
    path = write(root, "bad", rows, **more)
    with pytest.raises(DataError, match=f"1 of 2 images(.|\n)*{path}.*{message}") as caught:
        converted(root)
    assert len(str(caught.value).splitlines()) == 2
    assert not (root.parent / "out/annotations/panoptic_train.json").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text(path.read_text()[:-9]), "bad.json is not valid JSON, or is truncated"),
        (lambda path: path.write_bytes(b""), "bad.json is empty"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "looks like utf-16 but is corrupt or truncated"),
        (lambda path: path.write_text("[" * 100000), "is not valid JSON"),
        (lambda path: path.write_text("[1]"), "is not a labelme file"),
        (
            lambda path: path.with_suffix(".jpg").write_bytes(b"no image"),
            "bad.jpg is not an image",
        ),
    ],
)
def test_unreadable_files_are_reported_with_the_others(root: Path, damage: Callable[[Path], Any], message: str) -> None:
    write(root, "good", [shape("car", box(0, 0, 4, 4))])
    damage(write(root, "bad", []))
    with pytest.raises(DataError, match=f"1 of 2 images(.|\n)*{message}"):
        converted(root)


@pytest.mark.parametrize("name", ["../../a.jpg", "x/../../../a.jpg"])
def test_images_outside_of_the_folder_are_rejected(root: Path, name: str) -> None:
    path = write(root / "sub", "a", [shape("car", box(0, 0, 4, 4))], imagePath=name)
    with pytest.raises(DataError, match=f"{path}: the file name .* points outside|a.jpg is missing"):
        converted(root)
    assert not (root.parent / "out/annotations/panoptic_train.json").exists()


@pytest.mark.parametrize(
    "name", ["/etc/a.jpg", "C:\\Users\\me\\a.jpg", "C:/a.jpg", "\\\\server\\a.jpg", "file:///C:/me/a.jpg"]
)
def test_the_absolute_path_of_another_computer(root: Path, name: str) -> None:
    """The image is expected next to its JSON."""
    path = write(root / "sub", "a", [shape("car", box(0, 0, 4, 5))], imagePath=name)
    (image,) = open_labelme(root, None, (), "last").images("train")
    assert image.path == root / "sub/a.jpg" and not image.problem
    (root / "sub/a.jpg").unlink()
    with pytest.raises(DataError, match=f"{path} names its image by the absolute path .*a.jpg does not exist"):
        converted(root)


@pytest.mark.parametrize("label", ["", "  ", "\ud800x"])
def test_shapes_without_a_usable_label_are_no_class(root: Path, label: str) -> None:
    path = write(root, "a", [shape("car", box(0, 0, 4, 4)), shape(label, box(9, 9, 14, 14))])
    source = open_labelme(root, None, (), "last")
    assert [category.name for category in source.categories.categories] == ["car"]
    with pytest.raises(DataError, match=f"{path}: .*(is empty; expected one of the classes car|not valid Unicode)"):
        converted(root)


def test_spaces_around_a_label_are_ignored(root: Path) -> None:
    write(root, "a", [shape("car ", box(0, 0, 4, 4)), shape(" car", box(9, 9, 14, 14))])
    write(root, "b", [shape("car", box(0, 0, 9, 9)), shape("__ignore__ ", box(0, 0, 9, 3))])
    data, _ = converted(root)
    assert [category.name for category in data.categories.categories] == ["car"]
    assert areas(data, 0) == [("car", 16, (0, 0, 4, 4)), ("car", 25, (9, 9, 5, 5))]
    assert areas(data, 1) == [("car", 54, (0, 3, 9, 6))]


def test_base64_with_line_breaks(root: Path) -> None:
    mask = "\n".join(textwrap.wrap(png(np.ones((3, 4), np.uint8)), 20))
    data = base64.encodebytes(base64.b64decode(embedded())).decode()
    write(root, "a", [shape("car", [[2, 1], [5, 3]], "mask", mask=mask)], imageData=data)
    (root / "a.jpg").unlink()
    assert areas(converted(root)[0]) == [("car", 12, (2, 1, 4, 3))]


def test_files_outside_of_the_splits_are_counted(root: Path) -> None:
    for folder in ("train", "extra/more", "val"):
        write(root / folder, "a", [shape("car", box(0, 0, 4, 4))])
    source = open_labelme(root, None, (), "last")
    (note,) = source.conventions("train", {})
    assert note.startswith(
        f"not used: 1 JSON file outside of {root}/train, {root}/val, such as {root}/extra/more/a.json"
    )
    assert open_labelme(root / "extra", None, (), "last").conventions("train", {}) == []


def test_a_name_that_is_too_long_for_a_file(root: Path) -> None:
    write(root, "a", [shape("car", box(0, 0, 4, 4))], imagePath="x" * 5000 + ".jpg")
    with pytest.raises(DataError, match=r"1 of 1 images(.|\n)*the image .*x\.jpg (cannot be read|is missing)"):
        converted(root)


def test_a_missing_image_and_one_with_two_label_files(root: Path) -> None:
    path = write(root, "a", [shape("car", box(0, 0, 4, 4))])
    (root / "b.json").write_text(path.read_text())
    with pytest.raises(DataError, match=r"a\.jpg is labeled twice, in .*a\.json and .*b\.json; keep one of them"):
        converted(root)
    (root / "b.json").unlink()
    (root / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"the image .*a.jpg is missing"):
        converted(root)


def test_invalid_folders_and_unknown_names(root: Path) -> None:
    with pytest.raises(DataError, match="in does not exist"):
        open_labelme(root, None, (), "last")
    root.mkdir()
    with pytest.raises(DataError, match="has no .json files; expected the files that labelme saves"):
        open_labelme(root, None, (), "last")
    write(root, "a", [])
    with pytest.raises(DataError, match="has a labeled shape with an area.*; draw some"):
        open_labelme(root, None, (), "last")
    write(root, "b", [shape("street", box(0, 0, 4, 4))])
    write(root, "a", [], imagePath=None)
    with pytest.raises(DataError, match="--stuff stret: unknown class; did you mean street?"):
        open_labelme(root, None, ("stret",), "last")
    with pytest.raises(DataError, match=r"names no image: imagePath is None; .* or the image itself in imageData"):
        converted(root)
    write(root, "a", [], imagePath="a.json")
    with pytest.raises(DataError, match=r"names no image: imagePath is 'a.json'; expected the image's file name"):
        converted(root)
    classes = root.parent / "classes.csv"
    classes.write_text("id,name,isthing\n7,car,1\n")
    write(root, "a", [shape("street", box(0, 0, 4, 4))])
    with pytest.raises(DataError, match=r"the label of polygon 1 \(street\) is not one of the classes car; correct it"):
        converted(root, classes=classes)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([shape(5, box(0, 0, 4, 4)), shape(None, box(0, 0, 4, 4))], "2 without a label that is text"),
        ([shape("car", [[1, 1], [5, 5]], "line"), "car"], "1 without an area, 1 without a label that is text"),
        ([shape("__ignore__", box(0, 0, 4, 4))], "1 labeled __ignore__"),
        ([shape("\ud800x", box(0, 0, 4, 4))], "1 with a label that is not valid Unicode"),
        ([shape(" ", box(0, 0, 4, 4))], "1 with an empty label"),
    ],
)
def test_shapes_that_name_no_class_are_counted(root: Path, rows: Any, found: str) -> None:
    write(root, "a", rows)
    with pytest.raises(DataError, match=rf"has a labeled shape with an area, .* \(found {found}\)"):
        open_labelme(root, None, (), "last")


def test_a_json_that_is_not_a_labelme_file_is_skipped_with_the_bad_images(root: Path) -> None:
    write(root, "good", [shape("car", box(1, 1, 5, 5))])
    (root / "stray.json").write_text('{"images": []}')
    (root / "cut.json").write_text('{"shapes": [')
    out = root.parent / "skipped"
    options = ConvertOptions(skips_bad_images=True)
    (summary,) = convert(open_labelme(root, None, (), "last"), out, (), options, SilentReporter())
    assert [Path(sentence.split()[0]).name for sentence in summary.left_out] == ["cut.json", "stray.json"]
    assert summary.images == 1


def embedded(size: tuple[int, int] = (40, 30), kind: str = "JPEG") -> str:
    file = io.BytesIO()
    Image.new("RGB", size, (9, 9, 9)).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
@pytest.mark.parametrize(
    ("named", "kind", "name"),
    [
        ("a.jpg", "JPEG", "a.jpg"),
        ("photos/b.bmp", "PNG", "photos/b.bmp"),
        ("/home/me/b.jpg", "JPEG", "a.jpg"),
        ("C:\\photos\\b.jpg", "PNG", "a.png"),
        (None, "PNG", "a.png"),
        ("a.json", "JPEG", "a.jpg"),
        ("../b.JSON", "PNG", "a.png"),
    ],
)
def test_an_image_in_the_json_is_used_if_its_file_is_missing(
    root: Path, named: str | None, kind: str, name: str, prefix: str
) -> None:
    data = embedded(kind=kind)
    write(root, "a", [shape("car", box(0, 0, 40, 20))], imageData=prefix + data, imagePath=named)
    (root / "a.jpg").unlink()
    result, out = converted(root)
    assert (out / "images/train" / name).read_bytes() == base64.b64decode(data)
    assert areas(result) == [("car", 800, (0, 0, 40, 20))]
    assert verify(out, (), VerifyOptions(), SilentReporter())[0].problems == ()


def test_the_file_is_used_rather_than_the_image_in_the_json(root: Path) -> None:
    write(root, "a", [shape("car", box(0, 0, 4, 4))], imageData=embedded((9, 9)))
    _, out = converted(root)
    assert (out / "images/train/a.jpg").read_bytes() == (root / "a.jpg").read_bytes()


def test_the_image_in_the_json_is_used_rather_than_an_unrelated_file_beside_it(root: Path) -> None:
    data = embedded()
    write(root, "a", [shape("car", box(0, 0, 4, 4))], imageData=data, imagePath="/home/me/b.jpg")
    _, out = converted(root)
    assert (out / "images/train/a.jpg").read_bytes() == base64.b64decode(data) != (root / "a.jpg").read_bytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("image", "a.json: its image file is missing, and its imageData is not an image in base64"),
        ("aW1hZ2U=", "its imageData is not an image in base64"),
        ("\u00e9", "its imageData is not an image in base64"),
        (embedded((20, 10)), "a.json is for an image of 40x30 but the image is displayed as 20x10"),
        (None, "the image .*a.jpg is missing"),
        ("", "the image .*a.jpg is missing"),
        (5, "the image .*a.jpg is missing"),
    ],
)
def test_invalid_images_in_the_json(root: Path, data: Any, message: str) -> None:
    write(root, "good", [shape("car", box(0, 0, 4, 4))])
    write(root, "a", [shape("car", box(0, 0, 4, 4))], imageData=data)
    (root / "a.jpg").unlink()
    with pytest.raises(DataError, match=f"1 of 2 images(.|\n)*{message}"):
        converted(root)


@pytest.mark.parametrize(
    ("label", "encoding", "guess"),
    [
        ("\u6c7d\u8f66", "gbk", "gb18030"),
        ("Stra\u00dfe", "cp1252", "cp1252"),
        ("\u30cd\u30b3", "shift_jis", "shift_jis"),
    ],
)
def test_files_that_are_not_utf8(root: Path, label: str, encoding: str, guess: str) -> None:
    path = write(root, "a", [])
    text = path.read_text().replace(
        '"shapes": []', f'"shapes": [{json.dumps(shape(label, box(0, 0, 4, 4)), ensure_ascii=False)}]'
    )
    path.write_bytes(text.encode(encoding))
    expected = rf"has no labels that can be read: 1 JSON file cannot be used:\n  {path} is not UTF-8: byte .*{guess}"
    with pytest.raises(DataError, match=f"{expected}.*--encoding NAME"):
        open_labelme(root, None, (), "last")
    out = root.parent / "out"
    arguments = ["--root", str(root), "--out", str(out), "--workers", "1", "--encoding"]
    result = CliRunner().invoke(labelme, [*arguments, encoding])
    assert result.exit_code == 0, result.output
    assert areas(CocoPanoptic(out, "train")) == [(label, 16, (0, 0, 4, 4))]
    assert json.loads((out / "manifest.json").read_text())["train"]["setting"]["encoding"] == encoding
    result = CliRunner().invoke(labelme, [*arguments, "klingon"])
    assert result.exit_code == 2 and "'klingon' is not a text encoding" in result.output


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_unicode_with_and_without_byte_order_mark(root: Path, encoding: str) -> None:
    path = write(root, "a", [shape("car", box(0, 0, 4, 4))])
    path.write_bytes(path.read_text().encode(encoding))
    assert areas(converted(root)[0]) == [("car", 16, (0, 0, 4, 4))]


def test_one_unreadable_file_is_reported_as_a_bad_image(root: Path) -> None:
    write(root, "good", [shape("car", box(0, 0, 4, 4))])
    path = write(root, "bad", [])
    path.write_bytes(path.read_bytes().replace(b"5.5.0", b"\xc6\xfb\xb3\xb5"))
    with pytest.raises(DataError, match=r"1 of 2 images cannot be used(.|\n)*bad.json is not UTF-8"):
        converted(root)


def test_a_class_file_in_another_encoding(root: Path) -> None:
    write(root, "a", [shape("Stra\u00dfe", box(0, 0, 4, 4))])
    classes = root.parent / "classes.csv"
    classes.write_bytes("id,name,isthing\n7,Stra\u00dfe,1\n".encode("cp1252"))
    with pytest.raises(DataError, match="classes.csv is not UTF-8: byte 0xdf .*, on line 2; it may be cp1252"):
        open_labelme(root, classes, (), "last")
    assert [c.name for c in open_labelme(root, classes, (), "last", "cp1252").categories.categories] == ["Stra\u00dfe"]


def test_collected_cases(shared: Path, tmp_path: Path) -> None:
    other, inside = shared / "cases/labelme-other-encoding", shared / "cases/labelme-imagedata-only"
    arguments = ["--out", str(tmp_path / "out"), "--workers", "1", "--root"]
    result = CliRunner().invoke(labelme, [*arguments, str(other)])
    assert (
        result.exit_code != 0 and "a.json is not UTF-8" in str(result.exception) and "gb18030" in str(result.exception)
    )
    result = CliRunner().invoke(labelme, [*arguments, str(other), "--encoding", "gbk"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(labelme, ["--out", str(tmp_path / "second"), "--workers", "1", "--root", str(inside)])
    assert result.exit_code == 0, result.output
    assert len(CocoPanoptic(tmp_path / "second", "train")) == 1
