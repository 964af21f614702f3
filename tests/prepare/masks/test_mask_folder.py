"""Folders of masks: each format gives the map drawn here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from PIL import Image

from panformer_cli.cli.prepare_data.masks import masks
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.left_out import AnnotationLog
from panformer_cli.prepare.masks.mask_folder import open_mask_folder
from panformer_cli.reporting import SilentReporter
from panformer_cli.verify.check import VerifyOptions, verify

CAR, LIGHT, ROAD = 3, 5, 9
CLASSES = f"id,name,kind\n{CAR},car,thing\n{LIGHT},traffic-light_2,thing\n{ROAD},road,stuff\n"
COLORS = {CAR: (0, 0, 142), LIGHT: (250, 170, 30), ROAD: (128, 64, 128)}
COLORED = CLASSES.replace("kind\n", "kind,color\n").replace("car,thing", "car,thing,#00008e")
COLORED = COLORED.replace("2,thing", "2,thing,250 170 30").replace("road,stuff", "road,stuff,128 64 128")
HEIGHT, WIDTH = 10, 14

Box = tuple[int, int, int, int]


def mask(*boxes: Box) -> npt.NDArray[np.bool_]:
    """Return a mask that is True in boxes (top, left, bottom, right)."""
    drawn = np.zeros((HEIGHT, WIDTH), np.bool_)
    for top, left, bottom, right in boxes:
        drawn[top:bottom, left:right] = True
    return drawn


def save(path: Path, pixels: npt.NDArray[Any] | Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image without masks, and the class file."""
    save(tmp_path / "in/images/train/a.jpg", Image.new("RGB", (WIDTH, HEIGHT)))
    (tmp_path / "in/masks/train").mkdir(parents=True)
    (tmp_path / "in/classes.csv").write_text(CLASSES)
    return tmp_path / "in"


def converted(root: Path, **options: Any) -> CocoPanoptic:
    out = root.parent / "out"
    convert(open_mask_folder(root, root / "classes.csv", **options), out, [], ConvertOptions(), SilentReporter())
    return CocoPanoptic(out, "train")


def rows(data: CocoPanoptic) -> list[str]:
    """Return the map of the first image, with one digit per id."""
    return ["".join(map(str, row)) for row in data[0].annotation.ids.tolist()]


def segments(data: CocoPanoptic) -> list[tuple[int, int, int]]:
    """Return id, category and area of each segment."""
    return [(s.id, s.category_id, s.area) for s in data[0].annotation.segments]


OBJECTS = {
    "car_2": mask((2, 2, 6, 6)),
    "car_10": mask((4, 4, 8, 8)),
    "car": mask((0, 0, 1, 1)),
    "traffic-light_2": mask((0, 9, 4, 10)),
    "traffic-light_2-1": mask((0, 11, 4, 12)),
    "road": mask((7, 0, 10, WIDTH), (6, 0, 7, 2)),
    "road3": mask((6, 12, 7, 14)),
}
DRAWN = [  # car, car_2, car_10, road, the two lights: the last mask wins
    "10000000050600",
    "00000000050600",
    "00222200050600",
    "00222200050600",
    "00223333000000",
    "00223333000000",
    "44003333000044",
    "44444444444444",
    "44444444444444",
    "44444444444444",
]


def write_objects(folder: Path) -> None:
    for name, drawn in OBJECTS.items():
        save(folder / f"{name}.png", drawn.astype(np.uint8) * 255)


def test_one_mask_per_object(root: Path) -> None:
    write_objects(root / "masks/train/a")
    data = converted(root)
    assert rows(data) == DRAWN
    assert [category for _, category, _ in segments(data)] == [CAR, CAR, CAR, ROAD, LIGHT, LIGHT]
    report = verify(root.parent / "out", (), VerifyOptions(), SilentReporter())[0]
    assert report.is_good


def test_one_folder_per_class(root: Path) -> None:
    save(root / "masks/train/a/traffic-light_2/x.png", mask((0, 0, 2, 2)))
    save(root / "masks/train/a/car/9.png", mask((1, 1, 3, 3)))
    save(root / "masks/train/a/car/10.png", mask((1, 5, 3, 7)))
    assert segments(converted(root)) == [(1, CAR, 3), (2, CAR, 4), (3, LIGHT, 4)]


@pytest.mark.parametrize(("rule", "areas"), [("last", (12, 16)), ("first", (16, 12)), ("smallest", (16, 12))])
def test_overlap_follows_the_rule(root: Path, rule: str, areas: tuple[int, int]) -> None:
    for name in ("car_2", "car_10"):
        save(root / f"masks/train/a/{name}.png", OBJECTS[name])
    assert segments(converted(root, overlap=rule)) == [(1, CAR, areas[0]), (2, CAR, areas[1])]


def test_overlap_can_be_an_error(root: Path) -> None:
    for name in ("car_2", "car_10"):
        save(root / f"masks/train/a/{name}.png", OBJECTS[name])
    with pytest.raises(DataError, match=r"a\.jpg: mask car_10\.png and mask car_2\.png share 4 pixels"):
        converted(root, overlap="error")


def palette(drawn: npt.NDArray[np.bool_]) -> Image.Image:
    image = Image.fromarray(drawn.astype(np.uint8) * 7, "P")
    image.putpalette([0, 0, 0] * 7 + [0, 0, 1] + [255] * 3 * 248)
    return image


def transparent(drawn: npt.NDArray[np.bool_]) -> Image.Image:
    """A white image that is opaque where the object is."""
    return Image.fromarray(np.dstack([np.full((*drawn.shape, 3), 255), drawn * 255]).astype(np.uint8))


@pytest.mark.parametrize(
    "kind",
    [
        lambda drawn: Image.fromarray(drawn),
        lambda drawn: Image.fromarray(drawn.astype(np.uint8)),
        lambda drawn: Image.fromarray(drawn.astype(np.uint16) * 60000),
        lambda drawn: Image.fromarray(np.dstack([0 * drawn, 0 * drawn, drawn]).astype(np.uint8)),
        palette,
        transparent,
    ],
)
def test_mask_formats(root: Path, kind: Callable[[npt.NDArray[np.bool_]], Image.Image]) -> None:
    save(root / "masks/train/a/car.png", kind(OBJECTS["car_2"]))
    assert np.array_equal(converted(root)[0].annotation.ids, OBJECTS["car_2"])


def test_an_empty_folder_is_an_image_without_objects(root: Path) -> None:
    (root / "masks/train/a").mkdir()
    save(root / "images/train/b.jpg", Image.new("RGB", (WIDTH, HEIGHT), "red"))
    save(root / "masks/train/b/car_1.png", mask())
    assert all(not sample.annotation.ids.any() for sample in converted(root))


CLASS_MAP = {  # two separate cars, two that touch at a corner, two pieces of road, a light
    CAR: mask((0, 0, 2, 2), (0, 3, 2, 5), (4, 0, 5, 1), (5, 1, 6, 2)),
    LIGHT: mask((0, 8, 3, 9)),
    ROAD: mask((8, 0, 10, 5), (8, 7, 10, 14)),
}
REGIONS = [(CAR, 2), (CAR, 4), (CAR, 4), (LIGHT, 3), (ROAD, 24)]


def class_ids() -> npt.NDArray[np.uint8]:
    return sum((drawn.astype(np.uint8) * number for number, drawn in CLASS_MAP.items()), np.zeros(1, np.uint8))


def class_colors() -> npt.NDArray[np.uint8]:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for number, drawn in CLASS_MAP.items():
        image[drawn] = COLORS[number]
    return image


def check_regions(data: CocoPanoptic) -> None:
    assert sorted((category, area) for _, category, area in segments(data)) == sorted(REGIONS)
    ids = data[0].annotation.ids
    category_of = {0: 0} | {segment.id: segment.category_id for segment in data[0].annotation.segments}
    assert np.array_equal(np.vectorize(category_of.get)(ids), class_ids())
    assert ids[0, 0] != ids[0, 3] and ids[4, 0] == ids[5, 1] and ids[8, 0] == ids[8, 13]


def test_class_ids_as_values(root: Path) -> None:
    values = class_ids()
    values[6, 6] = 255
    save(root / "masks/train/a.png", values)
    with np.errstate(all="raise"):
        data = converted(root)
    values[6, 6] = 0
    check_regions(data)


def test_binary_masks_whose_class_is_255(root: Path) -> None:
    """Two squares: with the id 255 both are objects, with another id both are void."""
    save(root / "masks/train/a.png", mask((0, 0, 2, 2), (5, 5, 8, 8)).astype(np.uint8) * 255)
    (root / "classes.csv").write_text("id,name,kind\n255,defect,thing\n")
    assert segments(converted(root)) == [(1, 255, 4), (2, 255, 9)]
    shutil.rmtree(root.parent / "out")
    (root / "classes.csv").write_text("id,name,kind\n1,defect,thing\n")
    assert segments(converted(root)) == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colors(root: Path, mode: str) -> None:
    (root / "classes.csv").write_text(COLORED)
    image = Image.fromarray(class_colors())
    save(root / "masks/train/a.png", image.quantize(8) if mode == "P" else image.convert(mode))
    check_regions(converted(root))


def test_the_command_without_subfolders(root: Path) -> None:
    shutil.move(root / "images/train/a.jpg", root / "images/a.jpg")
    shutil.rmtree(root / "images/train")
    shutil.rmtree(root / "masks/train")
    write_objects(root / "masks/a")
    out = root.parent / "out"
    arguments = ["--root", str(root), "--classes", str(root / "classes.csv"), "--out", str(out), "--workers", "1"]
    result = CliRunner().invoke(masks, [*arguments, "--overlap", "last"])
    assert result.exit_code == 0, result.output
    assert rows(CocoPanoptic(out, "train")) == DRAWN


def objects_and_map(root: Path) -> None:
    save(root / "masks/train/a/car.png", mask())
    save(root / "masks/train/a.png", class_ids())


def link_out(root: Path) -> None:
    save(root.parent / "car.png", mask())
    (root / "masks/train/a").mkdir()
    (root / "masks/train/a/car.png").symlink_to(root.parent / "car.png")


def cut(root: Path) -> None:
    path = root / "masks/train/a/car.png"
    save(path, mask((0, 0, 5, 5)))
    path.write_bytes(path.read_bytes()[:-20])


def colored_with(*color: int) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / "classes.csv").write_text(COLORED)
        save(root / "masks/train/a.png", np.full((HEIGHT, WIDTH, 3), color, np.uint8))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: None, r"masks/train/a\.png is missing"),
        (lambda root: save(root / "masks/train/a/bus_1.png", mask()), r"bus_1\.png: no class is named 'bus'; .*car"),
        (lambda root: save(root / "masks/train/a/bus/1.png", mask()), "no class is named 'bus'"),
        (lambda root: save(root / "masks/train/a/1.png", mask()), r"1\.png: no class is named ''"),
        (cut, r"car\.png is corrupt or truncated"),
        (lambda root: save(root / "masks/train/a/car.png", class_ids()), "several nonzero values"),
        (lambda root: save(root / "masks/train/a/car.png", mask()[:5]), r"car\.png is 14x5 but .* displayed as 14x10"),
        (objects_and_map, r"a\.jpg has both .*a/ and .*a\.png"),
        (link_out, "points outside"),
        (lambda root: save(root / "masks/train/a.png", class_colors()), "PNG of mode RGB; expected one value"),
        (lambda root: save(root / "masks/train/x.png", class_ids()), r"x\.png has no image in .*images/train"),
        (lambda root: save(root / "masks/train/x/car.png", mask()), r"x/car\.png has no image"),
        (lambda root: save(root / "masks/train/a.png", class_ids() + 70), "contains the class ids 70, 73"),
        (colored_with(1, 2, 3), "contains 1 colors that are not in the class file: #010203"),
        (lambda root: shutil.rmtree(root / "masks"), "masks/train does not exist"),
        (lambda root: shutil.rmtree(root / "images/train"), "images contains neither images nor folders"),
        (lambda root: (root / "classes.csv").write_text(COLORED.replace("#00008e", "")), "with and without a color"),
        (lambda root: (root / "classes.csv").write_text(COLORED.replace("128 64 128", "#00008E")), "of one color"),
    ],
)
def test_corrupt_input(root: Path, change: Callable[[Path], object], message: str) -> None:
    change(root)
    with pytest.raises(DataError, match=message) as caught:
        converted(root)
    assert str(root) in str(caught.value)
    assert not (root.parent / "out/annotations/panoptic_train.json").exists()


def test_a_mask_of_an_object_in_another_format_is_an_error_and_png_may_be_in_uppercase(root: Path) -> None:
    """JPEG changes the values of pixels; such a mask must not be missing in silence."""
    box = mask((1, 1, 5, 5)).astype(np.uint8) * 255
    save(root / "masks/train/a/car_1.JPG", box)
    save(root / "masks/train/a/car_2.PNG", box)
    source = open_mask_folder(root, root / "classes.csv")
    (image,) = source.images("train")
    assert [path.name for path in image.labels] == ["car_1.png", "car_2.PNG"]
    log = AnnotationLog(skips_bad=True)
    assert [segment.area for segment in source.read(image, (HEIGHT, WIDTH), log).segments] == [16]
    assert "car_1.png is missing, but there is car_1.JPG; expected a PNG" in log.left_out[0][1]
    shutil.rmtree(root / "masks/train/a")
    save(root / "masks/train/a.PNG", np.full((HEIGHT, WIDTH), CAR, np.uint8))
    (image,) = source.images("train")
    assert [path.name for path in image.labels] == ["a.PNG"]
    assert not image.problem
