"""CVAT's export `Segmentation mask 1.1`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.cvat import open_cvat_export
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.recognize import recognize
from panformer_cli.reporting import SilentReporter

CAR, ROAD = (250, 50, 83), (51, 221, 255)
LABEL_MAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:51,221,255::\ncar:250,50,83::\n"


def paint(path: Path, *areas: tuple[slice, tuple[int, int, int]], palette: bool = False) -> None:
    """Save an image of 20 x 30 pixels with colored columns, as RGB or palette PNG."""
    colors = np.zeros((20, 30, 3), np.uint8)
    for columns, color in areas:
        colors[:, columns] = color
    image = Image.fromarray(colors)
    path.parent.mkdir(parents=True, exist_ok=True)
    (image.convert("P", palette=Image.Palette.ADAPTIVE, colors=8) if palette else image).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return an export of one image: two touching cars, a road with two object colors, and background."""
    root = tmp_path / "export"
    first, second, left, right = slice(0, 5), slice(5, 12), slice(12, 16), slice(16, 20)
    paint(root / "JPEGImages/a b.jpg")
    paint(root / "SegmentationClass/a b.png", (first, CAR), (second, CAR), (left, ROAD), (right, ROAD))
    objects = ((first, (128, 0, 0)), (second, (0, 128, 0)), (left, (128, 128, 0)), (right, (0, 0, 128)))
    paint(root / "SegmentationObject/a b.png", *objects)
    (root / "labelmap.txt").write_text(LABEL_MAP)
    return root


def segments(root: Path, out: Path, split: str = "train") -> list[tuple[str, int, object]]:
    """Return name, area and box of each segment of the first image."""
    convert(open_cvat_export(root, None, ["road"], "last"), out, [], ConvertOptions(), SilentReporter())
    data = CocoPanoptic(out, split)
    return [(data.categories.by_id(s.category_id).name, s.area, s.bbox) for s in data.annotation(0).segments]


@pytest.mark.parametrize("palette", [False, True])
def test_objects_are_kept_apart_and_stuff_is_joined(root: Path, tmp_path: Path, palette: bool) -> None:
    for path in root.glob("Segmentation*/*.png") if palette else ():
        Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=8).save(path)
    (form,) = recognize(root)
    assert (form.source, form.title) == ("cvat", "CVAT's segmentation masks")
    assert segments(root, tmp_path / "out") == [
        ("road", 160, (12, 0, 8, 20)),
        ("car", 140, (5, 0, 7, 20)),
        ("car", 100, (0, 0, 5, 20)),
    ]
    data = CocoPanoptic(tmp_path / "out", "train")
    assert [(c.id, c.name, c.is_thing, c.color) for c in data.categories.categories] == [
        (2, "car", True, CAR),
        (1, "road", False, ROAD),
    ]


def test_lists_are_splits(root: Path, tmp_path: Path) -> None:
    paint(root / "JPEGImages/deep/b.png")
    for name in ("SegmentationClass", "SegmentationObject"):
        paint(root / name / "deep/b.png", (slice(0, 3), CAR))
    paint(root / "JPEGImages/without.jpg")
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text('"a b"\n')
    (lists / "Val.txt").write_text("deep/b\n")
    assert sorted(open_cvat_export(root, None, (), "last").splits()) == ["Val", "train"]
    assert segments(root, tmp_path / "out", "Val") == [("car", 60, (0, 0, 3, 20))]
    assert len(CocoPanoptic(tmp_path / "out", "train")) == 1


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ("car:250,50,83::\n", "has the colors #33ddff, which labelmap.txt does not list"),
        ("background:0,0,0::\n", "lists no class besides the background"),
        ("car:250,50\n", "labelmap.txt, line 1 is 'car:250,50'; expected name:red,green,blue"),
        ("car:1,2,3::\nbus:1,2,3::\n", "line 2: 'bus:1,2,3::' repeats a name or a color"),
    ],
)
def test_label_maps_that_cannot_be_used(label_map: str, message: str, root: Path, tmp_path: Path) -> None:
    (root / "labelmap.txt").write_text(label_map)
    with pytest.raises(DataError, match=message):
        convert(open_cvat_export(root, None, (), "last"), tmp_path / "out", [], ConvertOptions(), SilentReporter())


def test_folders_that_are_missing(root: Path) -> None:
    (root / "JPEGImages").rename(root / "images")
    with pytest.raises(DataError, match="has labelmap.txt but not JPEGImages; expected .* with `Save images`"):
        open_cvat_export(root, None, (), "last")
