"""`prepare-data cvat`: XML as in CVAT's documentation, with areas computed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from panformer_cli.cli.prepare_data.annotation_tools import cvat
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.cvat import Cvat, open_cvat
from panformer_cli.prepare.annotation_tools.cvat_xml import read_images
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.overlap import OverlapRule
from panformer_cli.reporting import SilentReporter
from panformer_cli.verify.check import VerifyOptions, verify
from tests.prepare.annotation_tools.converted import areas, converted_train

LABELS = {"car": "#0000ff", "road": "#80ff80", "__ignore__": "#000000", "sun": ""}


def head(labels: dict[str, str] = LABELS) -> str:
    rows = "".join(
        f"<label><name>{name}</name><color>{color}</color><type>any</type><attributes><attribute><name>age</name>"
        "</attribute></attributes></label>"
        for name, color in labels.items()
    )
    task = f"<id>4</id><name>mine</name><size>2</size><mode>annotation</mode><labels>{rows}</labels>"
    return f"<version>1.1</version><meta><task>{task}</task><dumped>2024-01-01</dumped></meta>"


def polygon(label: str, x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    """A polygon around the pixels x1..x2 - 1, y1..y2 - 1."""
    points = f"{x1:.2f},{y1:.2f};{x2:.2f},{y1:.2f};{x2:.2f},{y2:.2f};{x1:.2f},{y2:.2f}"
    attribute = '<attribute name="age">3</attribute>'
    return f'<polygon label="{label}" source="manual" occluded="0" points="{points}" {more}>{attribute}</polygon>'


def image(name: str, *shapes: str, number: int | str = 0, more: str = "", size: str = 'width="40" height="30"') -> str:
    return f'<image id="{number}" name="{name}" {more} {size}>{"".join(shapes)}</image>'


def write(root: Path, *images: str, labels: dict[str, str] = LABELS) -> Path:
    root.mkdir(exist_ok=True)
    path = root / "annotations.xml"
    body = "\n".join(images)
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n{head(labels)}\n{body}\n</annotations>\n')
    return path


def save_image(path: Path, tone: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (tone, 10, 200)).save(path)


def opened(root: Path, stuff: tuple[str, ...] = ("road",), overlap: OverlapRule = "last") -> Cvat:
    return open_cvat(root, None, stuff, overlap)


def converted(root: Path, overlap: OverlapRule = "last") -> CocoPanoptic:
    return converted_train(opened(root, overlap=overlap))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the image a.jpg of 40 x 30 (width x height) and no XML yet."""
    save_image(tmp_path / "in/images/a.jpg")
    return tmp_path / "in"


def test_all_shape_types(root: Path) -> None:
    write(
        root,
        image(
            "a.jpg",
            '<tag label="sun" source="manual"></tag>',
            polygon("road", 0, 20, 40, 30),
            '<box label="car" xtl="2.00" ytl="3.00" xbr="12.00" ybr="8.00" occluded="1" z_order="0"></box>',
            '<box label="car" xtl="1.00" ytl="23.00" xbr="5.00" ybr="25.00" rotation="90.00" z_order="0"></box>',
            '<ellipse label="sun" cx="30.00" cy="8.00" rx="6.00" ry="3.00" rotation="90.00" z_order="0"></ellipse>',
            '<mask label="car" rle="2, 4, 1, 3, 2" left="20" top="14" width="4" height="3" z_order="0"></mask>',
            number=7,
        ),
    )
    data = converted(root)
    assert [(c.id, c.name, c.is_thing, c.color) for c in data.categories.categories] == [
        (1, "car", True, (0, 0, 255)),
        (3, "sun", True, None),
        (2, "road", False, (128, 255, 128)),
    ]
    y, x = np.mgrid[:30, :40] + 0.5
    ellipse = int(((x - 30) ** 2 / 9 + (y - 8) ** 2 / 36 < 1).sum())
    assert areas(data) == [
        ("road", 400 - 8, (0, 20, 40, 10)),
        ("car", 50, (2, 3, 10, 5)),
        ("car", 8, (2, 22, 2, 4)),
        ("sun", ellipse, (27, 2, 6, 12)),
        ("car", 7, (20, 14, 4, 3)),
    ]
    assert abs(ellipse - 56.5) < 4, "pi a b"
    drawn = data.annotation(0).ids[14:17, 20:24] > 0
    assert drawn.astype(int).tolist() == [[0, 0, 1, 1], [1, 1, 0, 1], [1, 1, 0, 0]]
    assert data.image_info(0).id == 7
    assert verify(root.parent / "out", (), VerifyOptions(), SilentReporter())[0].is_good


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("last", [("car", 50), ("car", 100), ("sun", 100)]),
        ("first", [("car", 100), ("car", 100), ("sun", 50)]),
    ],
)
def test_z_order_takes_precedence_over_the_rule(root: Path, rule: OverlapRule, expected: list[tuple[str, int]]) -> None:
    """The shape with the highest z_order is the last one; shapes with equal z_order keep their order."""
    shapes = [
        polygon("sun", 0, 0, 10, 10, 'z_order="5"'),
        polygon("car", 5, 0, 15, 10, 'z_order="-1"'),
        polygon("car", 20, 0, 30, 10),
    ]
    write(root, image("a.jpg", *shapes))
    assert [(name, area) for name, area, _ in areas(converted(root, rule))] == expected


def test_groups_are_one_object_and_ignored_parts_are_void(root: Path) -> None:
    shapes = [
        polygon("car", 0, 0, 4, 4, 'group_id="2"'),
        polygon("car", 10, 0, 14, 4, 'group_id="2"'),
        polygon("sun", 20, 0, 24, 4, 'group_id="2"'),
        polygon("car", 30, 0, 34, 4, 'group_id="0"'),
        polygon("car", 30, 10, 34, 14, 'group_id="0"'),
        polygon("__ignore__", 32, 0, 40, 20),
    ]
    write(root, image("a.jpg", *shapes))
    assert areas(converted(root)) == [
        ("car", 32, (0, 0, 14, 4)),
        ("sun", 16, (20, 0, 4, 4)),
        ("car", 8, (30, 0, 2, 4)),
        ("car", 8, (30, 10, 2, 4)),
    ]


def test_overlap_can_be_an_error(root: Path) -> None:
    path = write(root, image("a.jpg", polygon("car", 0, 0, 9, 9), polygon("sun", 8, 0, 12, 9)))
    with pytest.raises(
        DataError, match=rf"{path}: image a.jpg: polygon 2 \(sun\) and polygon 1 \(car\) share 9 pixels"
    ):
        converted(root, overlap="error")


def test_subsets_are_splits_and_repeated_ids_are_renumbered(root: Path) -> None:
    """As in the export of a project; images may also be in subset folders or next to the XML."""
    save_image(root / "images/town/b.jpg")
    save_image(root / "images/Validation/c.jpg")
    save_image(root / "d.jpg")
    save_image(root / "images/frame_000003.PNG")
    write(
        root,
        image("a.jpg", number=0, more='subset="Train" task_id="1"'),
        image("town\\b.jpg", number=0, more='subset="Train" task_id="2"'),
        image("c.jpg", number=4, more='subset="Validation"'),
        image("d.jpg", polygon("car", 0, 0, 4, 4), number=9, more='subset="default"'),
        image("frame_000003", number=3),
        labels={"car": "", "road": ""},
    )
    source = opened(root)
    assert source.splits() == ["Train", "Validation", "train"]
    assert [(i.id, i.file_name) for i in source.images("Train")] == [(1, "a.jpg"), (2, "town/b.jpg")]
    assert [(i.id, i.path) for i in source.images("Validation")] == [(4, root / "images/Validation/c.jpg")]
    assert [(i.id, i.file_name) for i in source.images("train")] == [(9, "d.jpg"), (3, "frame_000003.PNG")]
    assert areas(converted(root)) == [("car", 16, (0, 0, 4, 4))]
    with pytest.raises(DataError, match="has no split val; expected one of Train, Validation, train"):
        source.images("val")


def test_the_command(root: Path) -> None:
    write(root, image("a.jpg", polygon("road", 0, 0, 40, 30), polygon("car", 0, 0, 4, 4)))
    (root.parent / "classes.yaml").write_text("car: thing\nroad: stuff\n")
    out = root.parent / "out"
    arguments = ["--root", str(root), "--out", str(out), "--workers", "1", "--overlap", "smallest"]
    result = CliRunner().invoke(cvat, [*arguments, "--classes", str(root.parent / "classes.yaml")])
    assert result.exit_code == 0, result.output
    data = CocoPanoptic(out, "train")
    assert areas(data) == [("road", 1184, (0, 0, 40, 30)), ("car", 16, (0, 0, 4, 4))]
    assert len(data.categories) == 2
    assert json.loads((out / "manifest.json").read_text())["train"]["setting"]["overlap"] == "smallest"


def test_a_large_file_is_read_in_chunks(root: Path) -> None:
    """More than three chunks of a mebibyte, whose boundaries are inside tags."""
    shape = polygon("car", 0, 0, 4, 4)
    path = write(root, *(image(f"{number}.jpg", *[shape] * 30, number=number) for number in range(800)))
    assert path.stat().st_size > 3 * 2**20
    found = list(read_images(path))
    assert [row.attributes["name"] for row in found] == [f"{number}.jpg" for number in range(800)]
    assert {len(row.shapes) for row in found} == {30}
    assert {shape.attributes["points"] for row in found for shape in row.shapes} == {
        "0.00,0.00;4.00,0.00;4.00,4.00;0.00,4.00"
    }


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<blob label="car"/>', r"blob 1 \(car\) has no area; .* draw its outline as a polygon"),
        (polygon("bike", 0, 0, 4, 4), r"the label of polygon 1 \(bike\) is not one of the classes car, sun, road;"),
        ('<polygon points="0,0;4,0;4,4"/>', r"the label of polygon 1 \(\) is empty; expected one of the classes car"),
        ('<polygon label="car"/>', r"has the points ''; expected x,y;x,y;... in pixels"),
        ('<polygon label="car" points="1,2;3,4;5"/>', "has the points"),
        ('<polygon label="car" points="1,2;3,x;5,6"/>', "has the points"),
        ('<polygon label="car" points="1,2;3,4"/>', "has 2 points; expected 3"),
        ('<polygon label="car" points="1,2;3,4;nan,4"/>', "non-finite coordinate"),
        ('<polygon label="car" points="1,2;3,4;1e300,4"/>', "far outside of its 40x30 image"),
        (polygon("car", 60, 0, 70, 9), "is outside of its 40x30 image"),
        (polygon("car", 0, 0, 4, 4, 'z_order="top"'), "has the z_order 'top'; expected an integer"),
        ('<box label="car" xtl="1" ytl="1" xbr="9"/>', r"box 1 \(car\) has the ybr None; expected a number"),
        ('<box label="car" xtl="1" ytl="1" xbr="9" ybr="nine"/>', "has the ybr 'nine'"),
        ('<ellipse label="car" cx="1" cy="1" rx="inf" ry="2"/>', "non-finite coordinate"),
        ('<ellipse label="car" cx="9" cy="9" rx="5" ry="-5"/>', "has the radius -5; expected 0 or more"),
        ('<box label="car" xtl="1_0" ytl="1" xbr="19" ybr="9"/>', "has the xtl '1_0'; expected a number"),
        ('<polygon label="car" points="1,2;3,4;5,1_0"/>', "has the points"),
        (
            '<mask label="car" rle="4" left="0" top="0" width="\u0662" height="2"/>',
            "has the width .*; expected an integer",
        ),
        ('<mask label="car" rle="0_4" left="0" top="0" width="2" height="2"/>', "has the rle '0_4'"),
        ('<mask label="car" rle="2, x" left="0" top="0" width="2" height="2"/>', "has the rle '2, x'"),
        ('<mask label="car" rle="2, 1" left="0" top="0" width="2" height="2"/>', "run lengths of 3 pixels in total"),
        ('<mask label="car" rle="4" left="39" top="0" width="2" height="2"/>', "expected a part of its 40x30 image"),
        ('<mask label="car" rle="3600000000" left="0" top="0" width="60000" height="60000"/>', "expected a part"),
        ('<mask label="car" rle="4" left="0" top="0" width="2"/>', "has the height None"),
    ],
)
def test_invalid_shapes(root: Path, shape: str, message: str) -> None:
    save_image(root / "images/b.jpg", 90)
    path = write(root, image("a.jpg", polygon("car", 0, 0, 4, 4)), image("b.jpg", shape, number=1))
    with pytest.raises(DataError, match=f"1 of 2 images(.|\n)*{path}: image b.jpg: .*{message}|{message}") as caught:
        converted(root)
    assert len(str(caught.value).splitlines()) == 2 and f"{path}: image b.jpg" in str(caught.value)
    assert not (root.parent / "out/annotations/panoptic_train.json").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (image("a.jpg", size='width="30" height="40"'), "image a.jpg is for an image of 30x40 but .* as 40x30 .*EXIF"),
        (image("a.jpg", size='width="60000" height="60000"'), "is for an image of 60000x60000"),
        (image("a.jpg", size='width="wide" height="30"'), "has the width 'wide'; expected an integer"),
        (image("a.jpg", size=""), "has the height None"),
        (image("b.jpg"), r"the image .*images/b.jpg is missing"),
        (image("x" * 5000 + ".jpg"), r"the image .*images/x+\.jpg is missing"),
        (image("../a.jpg"), "the file name '../a.jpg' points outside"),
        (image("/etc/a.jpg"), "the file name '/etc/a.jpg' points outside"),
        (image("C:\\a.jpg"), "points outside"),
        (image(""), "annotations.xml: the image with the id '0' has no name"),
        ("<image/>", "annotations.xml: the image with the id None has no name"),
        (image("a.jpg") * 2, r"images/a\.jpg is labeled twice, both times in .*annotations\.xml; keep one of them"),
        (
            image("a.jpg", more='subset=".."') + image("a.jpg", more='subset="train"'),
            r"the subset '\.\.' is not a valid folder name",
        ),
        (image("a.jpg", more='subset="a/b"'), "the subset 'a/b' is not a valid folder name"),
    ],
)
def test_invalid_images(root: Path, row: str, message: str) -> None:
    write(root, row)
    with pytest.raises(DataError, match=message):
        converted(root)
    assert not (root.parent / "out/annotations/panoptic_train.json").exists()


BOMB = '<!DOCTYPE a [<!ENTITY b "lol"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>\n<annotations>&c;</annotations>'
THIEF = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>\n<annotations>&b;</annotations>'


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "annotations.xml is missing; expected an unpacked `CVAT for images 1.1` or"),
        (lambda path: path.write_text(""), r"is not valid XML, or is truncated \(line 1, column 0\)"),
        (lambda path: path.write_text(path.read_text()[:-20]), "is not valid XML, or is truncated"),
        (lambda path: path.write_text('{"images": []}'), "is not valid XML"),
        (
            lambda path: path.write_text("<annotation><folder/></annotation>"),
            "starts with <annotation>; expected <annot",
        ),
        (
            lambda path: path.write_text(path.read_text().replace("<image", "<track/><image")),
            "contains both images and tracks",
        ),
        (lambda path: path.write_text("<annotations/>"), "has no labels in its header"),
        (lambda path: write(path.parent, labels={"car": "", "road": ""}), "lists no images"),
        (lambda path: path.write_text(BOMB), "declares a document type"),
        (lambda path: path.write_text(BOMB, encoding="utf-16"), "declares a document type"),
        (lambda path: path.write_text(THIEF), "declares a document type"),
        (lambda path: path.write_text("<annotations>&b;</annotations>"), "is not valid XML"),
        (
            lambda path: path.write_text('<?xml version="1.0" encoding="klingon"?><annotations/>'),
            "is not valid XML|unsupported encoding",
        ),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    ],
)
def test_invalid_xml(root: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(write(root, image("a.jpg")))
    with pytest.raises(DataError, match=message) as caught:
        opened(root).splits()
    assert "\n" not in str(caught.value) and "annotations.xml" in str(caught.value)


def test_an_image_without_a_name_is_a_bad_image(root: Path) -> None:
    write(root, image("", number=1), image("a.jpg", polygon("car", 0, 0, 4, 4), number=2))
    out, options = root.parent / "out", ConvertOptions(skips_bad_images=True)
    (summary,) = convert(opened(root), out, (), options, SilentReporter())
    assert summary.images == 1 and len(summary.left_out) == 1
    assert areas(CocoPanoptic(out, "train")) == [("car", 16, (0, 0, 4, 4))]


def test_ids_that_are_the_same_number_are_renumbered(root: Path) -> None:
    write(root, image("a.jpg", number="007"), image("b.jpg", number="7"))
    assert [row.id for row in opened(root).images("train")] == [1, 2]


def test_unknown_names(root: Path) -> None:
    write(root, image("a.jpg"))
    with pytest.raises(DataError, match="--stuff raod: unknown class; did you mean road?"):
        opened(root, stuff=("raod",))
    with pytest.raises(DataError, match="missing does not exist"):
        opened(root / "missing")


@pytest.mark.parametrize("encoding", ["gbk", "latin-1"])
def test_an_xml_that_is_not_utf8_names_its_encoding_and_is_read_with_it(root: Path, encoding: str) -> None:
    label = "\u6c7d\u8f66\u5728\u8def\u4e0a" if encoding == "gbk" else "Geb\u00e4ude"
    path = write(root, image("a.jpg", polygon(label, 2, 3, 12, 8)), labels={label: "#0000ff"})
    text = path.read_text()
    path.write_bytes(text.encode(encoding))
    likely = "gb18030" if encoding == "gbk" else "cp1252"
    with pytest.raises(DataError, match=rf"annotations\.xml is not UTF-8: .* it may be {likely} .*--encoding"):
        open_cvat(root, None, (), "last")
    source = open_cvat(root, None, (), "last", encoding)
    assert [category.name for category in source.categories.categories] == [label]
    assert [picture.file_name for picture in source.images("train")] == ["a.jpg"]
    assert source.settings == {"overlap": "last", "encoding": encoding}
    if encoding == "latin-1":  # an encoding that the file declares needs no option
        path.write_bytes(text.replace("utf-8", "iso-8859-1").encode(encoding))
        assert label in {category.name for category in open_cvat(root, None, (), "last").categories.categories}
