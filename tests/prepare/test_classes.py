"""Class files: all formats give the expected table, and errors name the line or row."""

from __future__ import annotations

from pathlib import Path

import pytest

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.prepare.classes import read_classes

CAR, ROAD = Category(4, "car", True, (0, 0, 142)), Category(9, "road", False, (128, 64, 128))
TABLE = CategoryTable([CAR, ROAD])
WITHOUT_COLORS = CategoryTable([Category(1, "car", True), Category(2, "road", False)])
ROUND = CategoryTable([Category(4, "car", True), Category(9, "road", False)])
NAMES = CategoryTable([Category(1, "car", True), Category(2, "road", True)])
FROM_0 = CategoryTable([Category(0, "car", True), Category(1, "road", False)])


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "table"),
    [
        ("a.csv", "id,name,isthing,color\n4,car,1,0 0 142\n9,road,0,#804080\n", TABLE),
        ("a.CSV", "color, kind, id, name\r\n#00008E, thing, 4, car\r\n\r\n128 64 128,stuff,9,road\r\n", TABLE),
        ("bom.csv", b"\xef\xbb\xbfid,name,isthing\n1,car,1\n2,road,0\n", WITHOUT_COLORS),
        ("a.csv", "id,name,isthing,color\n1,car,1,\n2,road,0,\n,,,\n", WITHOUT_COLORS),
        (
            "a.yaml",
            "- {id: 9, name: road, isthing: 0, color: [128, 64, 128]}\n"
            "- {id: 4, name: car, kind: thing, color: '#00008e'}\n",
            TABLE,
        ),
        ("a.yml", "car: thing\nroad: stuff\n", WITHOUT_COLORS),
        ("a.yml", "car: thing\nnames: stuff\n", CategoryTable([Category(1, "car", True), Category(2, "names", False)])),
        ("a.yaml", "path: ../x\nnc: 2\nnames: [car, road]\nstuff: [road]\n", FROM_0),
        ("a.csv", 'id,name,isthing\n"4.0",car,1.0\n " 09",road,0\n', ROUND),
        ("a.csv", "id,name,isthing\n+4,car,1\n9e0,road,00\n", ROUND),
        ("a.yaml", "- {id: 4.0, name: car, isthing: 1}\n- {id: '9.00', name: road, kind: stuff}\n", ROUND),
        ("a.yaml", "- {id: 4, name: car, isthing: true}\n- {id: 9, name: road, isthing: false}\n", ROUND),
        ("a.txt", "__ignore__\n_background_\ncar\r\n\n road \n", NAMES),
        ("a.yaml", "7: thing\n2.5: thing\n", CategoryTable([Category(1, "7", True), Category(2, "2.5", True)])),
        ("a.yaml", "names:\n  0: car\n  1: road\nstuff:\n- road\n", FROM_0),
        (
            "a.yaml",
            "names: [car, 'on', no]",
            CategoryTable(Category(i, n, True) for i, n in enumerate(("car", "on", "no"))),
        ),
    ],
)
def test_formats(tmp_path: Path, name: str, content: str | bytes, table: CategoryTable) -> None:
    assert read_classes(write(tmp_path, name, content)) == table


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "car", r"a\.json ends in '\.json'; expected \.csv or \.yaml or \.yml or \.txt"),
        ("a.txt", "\n_background_\n", r"a\.txt lists no classes"),
        ("a.txt", "car\ncar\n", r"a\.txt, line 2: the name 'car' is used twice"),
        ("a.txt", "# label:color_rgb:parts:actions\ncar:0,0,142::\n", r"a\.txt, line 1 is '# label"),
        ("a.txt", "car:0,0,142::\n", r"a\.txt, line 1 is 'car:0,0,142::'; expected a class name"),
        ("a.csv", "id,name,isthing\n7.5,car,1\n", "line 2: the id is '7.5'"),
        ("a.csv", "id,name,isthing\n1e12,car,1\n", "line 2: the id is '1e12'"),
        ("a.csv", "id,name,isthing\nnan,car,1\n", "line 2: the id is 'nan'"),
        ("a.csv", "id,name,isthing\n7,car,1\n07,road,0\n", "line 3: the id 7 is used twice"),
        ("a.yaml", "null: thing\n", "row 1: the name is None; expected text"),
        ("a.csv", b"id,name,isthing\n1,\xed\xa0\x80,1\n", r"a\.csv, line 2: the name is .*, not valid Unicode"),
        ("a.csv", "", r"a\.csv is empty \(0 bytes\)"),
        (
            "a.csv",
            b"id,name,isthing\n1,Stra\xdfe,1\n",
            r"a\.csv is not UTF-8: byte 0xdf .* on line 2; it may be cp1252",
        ),
        ("a.csv", "id,name,isthing\n", r"a\.csv lists no classes"),
        ("a.csv", "id;name;isthing\n1;car;1\n", r"a\.csv, line 1: the columns are 'id;name;isthing'"),
        ("a.csv", "id,name,isthing\n1,car\n", r"a\.csv, line 2: 2 cells for 3 columns"),
        ("a.csv", "id,name,isthing,hue\n1,car,1,red\n", r"line 2: unknown key 'hue'"),
        ("a.csv", "id,name\n1,car\n", "line 2: needs either isthing or kind"),
        ("a.csv", "id,name,isthing,kind\n1,car,1,thing\n", "line 2: needs either isthing or kind"),
        ("a.csv", "id,name,isthing\n1,car,1\nx,road,0\n", "line 3: the id is 'x'"),
        ("a.csv", "id,name,isthing\n-1,car,1\n", "line 2: the id is '-1'"),
        ("a.csv", "id,name,isthing\n1,car,yes\n", "line 2: isthing is 'yes'"),
        ("a.csv", "id,name,kind\n1,car,object\n", "line 2: the kind is 'object'"),
        ("a.csv", "id,name,isthing\n1,car,1\n1,road,0\n", "line 3: the id 1 is used twice"),
        ("a.csv", "id,name,isthing\n1,car,1\n2,car,0\n", "line 3: the name 'car' is used twice"),
        ("a.csv", "id,name,isthing,color\n1,car,1,0 0 256\n", "line 2: the color is '0 0 256'"),
        ("a.csv", "id,name,isthing,color\n1,car,1,blue\n", "line 2: the color is 'blue'"),
        ("a.csv", 'id,name,isthing\n1,"' + "c" * 200_000 + '",1\n', r"a\.csv, line 2: field larger than"),
        ("a.yaml", "a: [", r"a\.yaml is not plain YAML: line 1"),
        ("a.yaml", "a: thing\na: stuff\n", r"a\.yaml is not plain YAML: line 2, .* appears twice"),
        ("a.yaml", "car", r"a\.yaml contains 'car'"),
        ("a.yaml", "- car\n", "row 1 is 'car'"),
        ("a.yaml", "car: thing\nroad: [stuff]\n", r"row 2: the kind is \['stuff'\]"),
        ("a.yaml", "- {id: 1.5, name: car, isthing: 1}\n", "row 1: the id is 1.5"),
        ("a.yaml", "- {id: true, name: car, isthing: 1}\n", "row 1: the id is True"),
        ("a.yaml", "- {id: 1, name: car, isthing: [1]}\n", r"row 1: isthing is \[1\]"),
        ("a.yaml", "- id: 1\n  name: car\n  isthing: 1\n  color: #ff0000\n", "row 1: the color is None .in YAML, #"),
        ("a.yaml", "- {id: 1, name: car, isthing: 1, color: [1, 2]}\n", r"row 1: the color is \[1, 2\]"),
        ("a.yaml", "names: [car]\nstuff: [road]\n", "stuff lists 'road', which is not in names"),
        ("a.yaml", "names: [car]\nstuff: car\n", "stuff is 'car'; expected a list of names"),
        ("a.yaml", "names: {-1: car}\n", "names: -1: the id is -1"),
        ("a.yaml", "names: []\n", r"a\.yaml lists no classes"),
    ],
)
def test_errors(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_classes(write(tmp_path, name, content))
    assert name in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["names: [cat, dog, cat]", "names: {0: cat, 1: '', 5: cat}"])
def test_names_may_be_repeated_or_empty_if_labels_have_ids(tmp_path: Path, text: str) -> None:
    table = read_classes(write(tmp_path, "data.yaml", text), matched_by="id")
    assert [category.name for category in table.categories][::2] == ["cat", "cat"]
    with pytest.raises(DataError, match="the name 'cat' is used twice"):
        read_classes(write(tmp_path, "data.yaml", text))


def test_an_empty_name_in_a_csv(tmp_path: Path) -> None:
    table = read_classes(write(tmp_path, "a.csv", "id,name,isthing\n1,,1\n\n2,sky,0\n"), matched_by="id")
    assert [(category.id, category.name) for category in table.categories] == [(1, ""), (2, "sky")]


def test_a_text_file_has_no_ids(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt ends in '\.txt'; expected \.csv or \.yaml or \.yml$"):
        read_classes(write(tmp_path, "a.txt", "car\n"), matched_by="id")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"classes\.csv is missing"):
        read_classes(tmp_path / "classes.csv")


@pytest.mark.parametrize("names", ["car", "3", "null"])
def test_names_that_are_no_list_are_named(names: str, tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(f"train: images\nnames: {names}\n")
    with pytest.raises(DataError, match=r"data\.yaml: names is .*; expected a list of class names, or ids with names"):
        read_classes(path)
