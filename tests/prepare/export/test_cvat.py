"""Export to CVAT's XML, read back by a plain XML parser and by `prepare-data cvat`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.cvat import open_cvat
from panformer_cli.prepare.export.cvat import CvatFormat, run_lengths
from panformer_cli.prepare.export.label_format import ShapeKind
from tests.prepare.export.labeled import (
    CATEGORIES,
    HEIGHT,
    WIDTH,
    converted_back,
    exported,
    filled,
    masks_of,
    truth,
    without_crowds,
)

KINDS: tuple[ShapeKind, ...] = ("masks", "polygons")


def drawn(shape: ElementTree.Element) -> npt.NDArray[np.bool_]:
    """Return the pixels of a shape, as CVAT's documentation defines them."""
    values = shape.attrib
    if shape.tag == "polygon":
        return filled([[float(number) for number in point.split(",")] for point in values["points"].split(";")])
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    left, top, width = (int(values[key]) for key in ("left", "top", "width"))
    position, is_inside = 0, False
    for count in map(int, values["rle"].split(",")):
        for pixel in range(position, position + count):
            mask[top + pixel // width, left + pixel % width] = is_inside
        position, is_inside = position + count, not is_inside
    assert position == width * int(values["height"])
    return mask


def objects(image: ElementTree.Element) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yield label and mask of each object, which may have several shapes."""
    groups: dict[str, list[ElementTree.Element]] = {}
    for number, shape in enumerate(image):
        groups.setdefault(shape.get("group_id", f"shape {number}"), []).append(shape)
    for shapes in groups.values():
        (label,) = {shape.attrib["label"] for shape in shapes}
        yield label, np.any([drawn(shape) for shape in shapes], axis=0)


@pytest.mark.parametrize("shapes", KINDS)
def test_a_plain_parser_finds_the_same_segments(tmp_path: Path, shapes: ShapeKind) -> None:
    exported(CvatFormat(shapes), tmp_path)
    root = ElementTree.parse(tmp_path / "out/annotations.xml").getroot()
    images = root.findall("image")
    assert [image.attrib for image in images] == [
        {"id": "101", "name": "a.png", "subset": "val", "width": "24", "height": "18"},
        {"id": "102", "name": "b/c d.png", "subset": "val", "width": "24", "height": "18"},
    ]
    for number, image in enumerate(images):
        found = list(objects(image))
        for category in CATEGORIES:
            masks = [mask.tobytes() for label, mask in found if label == category["name"]]
            assert sorted(masks) == truth(category["name"], number)
    assert (tmp_path / "out/images/val/b/c d.png").is_file()


def test_labels_have_names_and_different_colors(tmp_path: Path) -> None:
    exported(CvatFormat(), tmp_path)
    labels = ElementTree.parse(tmp_path / "out/annotations.xml").getroot().findall("meta/task/labels/label")
    colors = {label.findtext("name"): label.findtext("color") for label in labels}
    assert set(colors) == {category["name"] for category in CATEGORIES}
    assert colors['car, "red" & <big>'] == "#c80010"
    assert len(set(colors.values())) == len(colors)
    rows = json.loads((tmp_path / "out/labels.json").read_text())
    assert {row["name"]: row["color"] for row in rows} == colors


@pytest.mark.parametrize("shapes", KINDS)
def test_converted_back_it_is_the_same_data_set(tmp_path: Path, shapes: ShapeKind) -> None:
    written = exported(CvatFormat(shapes), tmp_path)
    source = open_cvat(tmp_path / "out", tmp_path / "out/classes.csv", (), "error")
    assert converted_back(source, tmp_path) == without_crowds(masks_of(tmp_path / "in"))
    before, after = CocoPanoptic(tmp_path / "in", "val"), CocoPanoptic(tmp_path / "back", "val")
    assert after.categories == before.categories
    assert [after.image_info(index).id for index in range(2)] == [101, 102]
    assert (
        "2 crowd segments left out, because CVAT has no crowds; their pixels are void when read back"
        in written.report.sentences()
    )


def test_holes_are_masks_and_parts_are_groups(tmp_path: Path) -> None:
    report = exported(CvatFormat("polygons"), tmp_path, names=["a.png"]).report
    assert report.sentences()[0] == "2 segments with holes written as masks, because polygons in CVAT have no holes"
    # Seven other segments, one of them in two parts, of which CVAT makes two shapes.
    assert (report.segments, dict(report.shapes)) == (9, {"mask": 2, "polygon": 8})


def test_run_lengths_start_outside() -> None:
    assert run_lengths(np.array([[False, True, True], [True, False, False]])) == [1, 3, 2]
    assert run_lengths(np.array([[True]])) == [0, 1]


def test_a_file_name_that_xml_cannot_contain_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="XML cannot contain; rename the image"):
        exported(CvatFormat(), tmp_path, names=["a\x01.png"])
    assert not (tmp_path / "out").exists()
