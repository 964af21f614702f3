"""Class and instance PNGs: maps drawn here and written in both formats."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from PIL import Image

from panformer_cli.cli.prepare_data.masks import png_pairs
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.masks.png_pairs import open_png_pairs
from panformer_cli.reporting import SilentReporter
from panformer_cli.verify.check import VerifyOptions, verify
from tests.data.coco.png_files import END, SIGNATURE, header, image_data

CAR, TREE, ROAD, VOID = 26, 3, 7, 255
CLASSES = f"id,name,kind\n{CAR},car,thing\n{TREE},tree,thing\n{ROAD},road,stuff\n"
HEIGHT, WIDTH = 12, 16

Numbers = npt.NDArray[np.uint16]


def drawn() -> tuple[Numbers, Numbers]:
    """Return classes and instances: road with an instance id, cars 1 and 300, tree 1, a crowd of cars, void."""
    classes, instances = np.zeros((2, HEIGHT, WIDTH), np.uint16)
    classes[6:] = ROAD
    instances[6:, :3] = 9
    classes[2:8, 2:5], instances[2:8, 2:5] = CAR, 1
    classes[2:8, 6:8], instances[2:8, 6:8] = CAR, 300
    classes[0:2, 0:2], instances[0:2, 0:2] = TREE, 1
    classes[0:4, 12:], instances[0:4, 12:] = CAR, 0
    classes[10:, 14:] = VOID
    return classes, instances


EXPECTED = {
    (CAR, False): [(slice(2, 8), slice(2, 5)), (slice(2, 8), slice(6, 8))],
    (CAR, True): [(slice(0, 4), slice(12, None))],
    (TREE, False): [(slice(0, 2), slice(0, 2))],
}


def expected() -> dict[bytes, tuple[int, bool]]:
    """Return category and crowd of each segment by its mask."""
    masks = {}
    for key, regions in EXPECTED.items():
        for region in regions:
            mask = np.zeros((HEIGHT, WIDTH), np.bool_)
            mask[region] = True
            masks[mask.tobytes()] = key
    masks[(drawn()[0] == ROAD).tobytes()] = (ROAD, False)
    return masks


def masks_of(panoptic: PanopticMap) -> dict[bytes, tuple[int, bool]]:
    return {(panoptic.ids == s.id).tobytes(): (s.category_id, s.is_crowd) for s in panoptic.segments}


def write(root: Path, name: str, split: str = "train", form: str = "pairs") -> None:
    """An image and its labels, in two PNGs or one."""
    classes, instances = drawn()
    pngs: dict[str, npt.NDArray[Any]] = {"semantic": classes.astype(np.uint8), "instance": instances}
    if form == "panoptic":
        pngs = {"panoptic": np.stack([classes, instances % 256, instances // 256], axis=-1).astype(np.uint8)}
    for kind, pixels in pngs.items():
        path = root / kind / split / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    image = root / "images" / split / f"{name}.jpg"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (len(split), len(name), 9)).save(image)


@pytest.fixture(params=["pairs", "panoptic"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    write(folder, "a", form=request.param)
    write(folder, "town/b", form=request.param)
    write(folder, "c", "val", request.param)
    (folder / "classes.csv").write_text(CLASSES)
    return folder


def converted(root: Path, split: str = "train", **options: Any) -> CocoPanoptic:
    out = root.parent / "out"
    source = open_png_pairs(root, root / "classes.csv", **options)
    convert(source, out, [split], ConvertOptions(), SilentReporter())
    return CocoPanoptic(out, split)


def test_both_formats_give_the_same_map(root: Path) -> None:
    data = converted(root)
    assert [(s.image_id, s.file_name) for s in data] == [(1, "a.jpg"), (2, "town/b.jpg")]
    for sample in data:
        assert masks_of(sample.annotation) == expected()
        assert [s.category_id for s in sample.annotation.segments] == [TREE, ROAD, CAR, CAR, CAR]
    assert {c.id: c.is_thing for c in data.categories.categories} == {CAR: True, TREE: True, ROAD: False}


def test_palettes_with_borders_as_in_pascal_voc(tmp_path: Path) -> None:
    """Two objects with a border of 255 in both PNGs, on a background of 0."""
    classes, instances = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    classes[1:11, 1:15] = instances[1:11, 1:15] = 255
    classes[2:10, 2:7], instances[2:10, 2:7] = CAR, 1
    classes[2:10, 8:14], instances[2:10, 8:14] = TREE, 2
    root = tmp_path / "in"
    write(root, "a")
    for kind, values in (("semantic", classes), ("instance", instances)):
        palette = Image.fromarray(values, "P")
        palette.putpalette([value for index in range(256) for value in (index, 0, index // 2)])
        palette.save(root / kind / "train/a.png")
    (root / "classes.csv").write_text(CLASSES)
    panoptic = converted(root)[0].annotation
    assert [(s.category_id, s.area, s.is_crowd) for s in panoptic.segments] == [(TREE, 48, False), (CAR, 40, False)]


@pytest.mark.slow
def test_the_command_converts_all_splits(root: Path) -> None:
    out = root.parent / "out"
    arguments = ["--root", str(root), "--classes", str(root / "classes.csv"), "--out", str(out), "--workers", "2"]
    result = CliRunner().invoke(png_pairs, arguments)
    assert result.exit_code == 0, result.output
    reports = verify(out, (), VerifyOptions(), SilentReporter())
    assert [(report.split, report.images) for report in reports] == [("train", 2), ("val", 1)]
    assert all(report.is_good for report in reports)


def test_without_subfolders_there_is_one_split(root: Path) -> None:
    flat = root.parent / "flat"
    for kind in ("images", "semantic", "instance", "panoptic"):
        if (root / kind).is_dir():
            shutil.copytree(root / kind / "val", flat / kind)
    shutil.copy(root / "classes.csv", flat)
    assert [masks_of(sample.annotation) for sample in converted(flat)] == [expected()]


@pytest.mark.parametrize("mode", ["I;16", "P", "L;4"])
def test_png_formats(tmp_path: Path, mode: str) -> None:
    """The same classes in 16 bits, as palette indices, and in the 4 bits that Pillow rescales."""
    write(tmp_path / "in", "a")
    (tmp_path / "in/classes.csv").write_text(CLASSES.replace(str(CAR), "13"))
    classes = drawn()[0]
    classes[classes == CAR], classes[classes == VOID] = 13, 0
    path = tmp_path / "in/semantic/train/a.png"
    if mode == "P":
        image = Image.fromarray(classes.astype(np.uint8), "P")
        image.putpalette(list(range(255, -1, -1)) * 3)
        image.save(path)
    elif mode == "L;4":
        path.write_bytes(four_bits(classes))
    else:
        Image.fromarray(classes).save(path)
    relabeled = {mask: (13 if key[0] == CAR else key[0], key[1]) for mask, key in expected().items()}
    assert masks_of(converted(tmp_path / "in")[0].annotation) == relabeled


def four_bits(values: Numbers) -> bytes:
    """Return a 4-bit gray PNG, written according to the PNG specification."""
    lines = b"".join(b"\0" + bytes((row[0::2] * 16 + row[1::2]).astype(np.uint8)) for row in values)
    return SIGNATURE + header(HEIGHT, WIDTH, (4, 0, 0, 0, 0)) + image_data(zlib.compress(lines)) + END


def test_void_ids_can_be_specified(tmp_path: Path) -> None:
    write(tmp_path / "in", "a")
    (tmp_path / "in/classes.csv").write_text(CLASSES.replace(f"{TREE},tree,thing\n", ""))
    with pytest.raises(
        DataError, match=r"semantic/train/a\.png contains the class ids 3, which are not in the class file"
    ):
        converted(tmp_path / "in")
    annotation = converted(tmp_path / "in", void=[TREE])[0].annotation
    assert masks_of(annotation) == {mask: key for mask, key in expected().items() if key[0] != TREE}


def test_0_and_255_can_be_classes(tmp_path: Path) -> None:
    write(tmp_path / "in", "a")
    (tmp_path / "in/classes.csv").write_text(CLASSES + "0,sky,stuff\n255,ego,thing\n")
    annotation = converted(tmp_path / "in")[0].annotation
    assert (annotation.ids > 0).all()
    assert {(s.category_id, s.is_crowd) for s in annotation.segments} >= {(0, False), (255, True)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "semantic/train/a.png").unlink(), r"semantic/train/a\.png is missing"),
        (lambda root: (root / "instance/train/a.png").write_bytes(b""), r"instance/train/a\.png is empty"),
        (lambda root: cut(root / "instance/train/a.png"), r"instance/train/a\.png is corrupt or truncated"),
        (lambda root: (root / "semantic/train/a.png").write_bytes(b"GIF89a" * 9), r"a\.png is not a PNG"),
        (lambda root: shutil.copy(root / "images/train/a.jpg", root / "semantic/train/a.png"), r"a\.png is not a PNG"),
        (lambda root: Image.new("RGB", (WIDTH, HEIGHT)).save(root / "semantic/train/a.png"), "PNG of mode RGB"),
        (lambda root: Image.new("L", (9, 8)).save(root / "instance/train/a.png"), r"a\.png is 9x8 but .* 16x12"),
        (lambda root: Image.new("L", (WIDTH, HEIGHT), 77).save(root / "semantic/train/a.png"), "class ids 77,"),
        (lambda root: shutil.rmtree(root / "instance"), "found semantic .*prepare-data masks"),
        (lambda root: shutil.rmtree(root / "instance/train"), r"instance/train does not exist"),
        (lambda root: (root / "panoptic").mkdir(), "found semantic and instance and panoptic"),
        (lambda root: shutil.rmtree(root / "images"), "images does not exist"),
        (
            lambda root: (root / "images/train").rename(root / "images/test"),
            "no split 'train' in .*available splits: test",
        ),
        (lambda root: (root / "images/x.jpg").write_bytes(b""), "images contains both images and folders"),
        (lambda root: (root / "images/train/a.jpg").unlink(), "train: no images found"),
        (lambda root: Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images/train/a.png"), "have the same name a"),
        (lambda root: copy_of_a(root / "semantic/train"), r"semantic/train/x\.png has no image in .*images/train"),
        (lambda root: copy_of_a(root / "instance/train"), r"instance/train/x\.png has no image"),
        (lambda root: link_out(root / "semantic/train/a.png"), "points outside"),
        (lambda root: (root / "classes.csv").unlink(), r"classes\.csv is missing"),
    ],
)
def test_corrupt_input(tmp_path: Path, change: Any, message: str) -> None:
    root = tmp_path / "in"
    write(root, "a")
    (root / "classes.csv").write_text(CLASSES)
    change(root)
    with pytest.raises(DataError, match=message) as caught:
        converted(root)
    assert str(root) in str(caught.value)
    assert not (tmp_path / "out/annotations/panoptic_train.json").exists()


def copy_of_a(folder: Path) -> None:
    shutil.copy(folder / "a.png", folder / "x.png")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def link_out(path: Path) -> None:
    outside = path.parents[3] / "outside.png"
    path.rename(outside)
    path.symlink_to(outside)


def test_invalid_panoptic_pngs(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write(root, "a", form="panoptic")
    (root / "classes.csv").write_text(CLASSES)
    path = root / "panoptic/train/a.png"
    Image.open(path).convert("RGBA").save(path)
    with pytest.raises(
        DataError, match=r"panoptic/train/a\.png is a PNG of mode RGBA with 8 bits; expected an 8-bit RGB"
    ):
        converted(root)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), (200, 0, 0), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"a\.png contains the class ids 200,"):
        converted(root)
    with pytest.raises(DataError, match=f"--void {CAR} is a class in .*classes.csv"):
        converted(root, void=[CAR])
