"""What class values, instance numbers and names of a source mean is reported, and never assumed in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.masks.coco_instances import open_coco_instances
from panformer_cli.prepare.masks.mask_folder import open_mask_folder
from panformer_cli.prepare.masks.png_pairs import CrowdInstance, open_png_pairs
from panformer_cli.prepare.published.ade20k import Ade20k
from panformer_cli.prepare.published.cityscapes import Cityscapes
from panformer_cli.prepare.published.mapillary import MapillaryVistas
from panformer_cli.prepare.source import Source
from panformer_cli.prepare.summary import SplitSummary
from tests.cli.prepare_folders import mapillary
from tests.helpers import run
from tests.prepare.reporters import RecordingReporter

PERSON, CAR, SKY = 1, 3, 7
CLASSES = f"id,name,isthing\n{PERSON},person,1\n{CAR},car,1\n{SKY},sky,0\n"
HEIGHT, WIDTH = 20, 30

Values = npt.NDArray[np.int64]
Box = tuple[int, int, int, int]


def painted(background: int, *boxes: tuple[Box, int]) -> Values:
    """Return values (20, 30) with boxes (top, left, bottom, right) of other values."""
    values = np.full((HEIGHT, WIDTH), background)
    for (top, left, bottom, right), value in boxes:
        values[top:bottom, left:right] = value
    return values


def save(path: Path, values: Any, kind: Any = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values).astype(kind)).save(path)
    return path


def pairs(root: Path, classes: Values, instances: Values, split: str = "val") -> Path:
    save(root / f"images/{split}/a.jpg", np.zeros((HEIGHT, WIDTH, 3)))
    save(root / f"panoptic/{split}/a.png", np.stack([classes, instances % 256, instances // 256], axis=-1))
    (root / "classes.csv").write_text(CLASSES)
    return root


def converted(source: Source, out: Path) -> tuple[SplitSummary, RecordingReporter]:
    reporter = RecordingReporter()
    (summary,) = convert(source, out, [], ConvertOptions(), reporter)
    return summary, reporter


def segments(out: Path, split: str = "val") -> list[tuple[int, int, bool]]:
    """Return category, area and crowd flag of each segment of the first image."""
    found = CocoPanoptic(out, split)[0].annotation.segments
    return sorted((segment.category_id, segment.area, segment.is_crowd) for segment in found)


# Two persons of 12 and 20 pixels and a car of 30; the numbers of the persons and the car vary.
BOXES: tuple[Box, Box, Box] = ((0, 0, 3, 4), (5, 5, 10, 9), (12, 10, 15, 20))


def numbered(root: Path, first: int, second: int, car: int, sky: int = 0) -> Path:
    classes = painted(SKY, *zip(BOXES, (PERSON, PERSON, CAR), strict=True))
    return pairs(root, classes, painted(sky, *zip(BOXES, (first, second, car), strict=True)))


@pytest.mark.parametrize(
    ("numbers", "passed", "crowds"),
    [
        # objects from 0 and crowds 255, as in two-channel PNGs of panopticapi
        ((0, 255, 0), "255", {20}),
        ((0, 255, 0), "none", set()),
        ((0, 255, 0), "0", {12, 30}),
        # objects from 1 and crowds 0, as in KITTI-STEP
        ((1, 0, 1), None, {20}),
        ((1, 0, 300), "0", {20}),
        ((1, 0, 1), "none", set()),
        # neither number
        ((1, 2, 1), None, set()),
        ((1, 2, 1), "255", set()),
        # a 255th object
        ((254, 255, 1), None, set()),
        ((254, 255, 1), "255", {20}),
    ],
)
def test_crowd_instances(
    tmp_path: Path, numbers: tuple[int, int, int], passed: CrowdInstance | None, crowds: set[int]
) -> None:
    root = numbered(tmp_path / "in", *numbers)
    source = open_png_pairs(root, root / "classes.csv", crowd_instance=passed)
    summary, _ = converted(source, tmp_path / "out")
    assert segments(tmp_path / "out")[:-1] == [
        (PERSON, 12, 12 in crowds),
        (PERSON, 20, 20 in crowds),
        (CAR, 30, 30 in crowds),
    ]
    assert summary.crowd == len(crowds)


@pytest.mark.parametrize("numbers", [(0, 255, 1), (0, 1, 255), (255, 3, 0)])
def test_ambiguous_instances_are_refused(tmp_path: Path, numbers: tuple[int, int, int]) -> None:
    root = numbered(tmp_path / "in", *numbers)
    with pytest.raises(
        DataError, match=r"val: thing classes have instance 0 \(\d+ pixels\) and instance 255"
    ) as caught:
        converted(open_png_pairs(root, root / "classes.csv"), tmp_path / "out")
    assert all(f"--crowd-instance {value}" in str(caught.value) for value in ("0", "255", "none"))
    assert not (tmp_path / "out/annotations/panoptic_val.json").exists()
    # The same command with the option continues in the same folder.
    converted(open_png_pairs(root, root / "classes.csv", crowd_instance="none"), tmp_path / "out")
    assert not any(is_crowd for *_, is_crowd in segments(tmp_path / "out"))


def test_all_splits_are_checked_before_a_json_is_written(tmp_path: Path) -> None:
    """Also if one split has only instance 0, and the other only 255."""
    root, out = numbered(tmp_path / "in", 1, 0, 1), tmp_path / "out"
    pairs(root, np.full((HEIGHT, WIDTH), CAR), painted(1, ((0, 0, 2, 5), 255)), "test")
    with pytest.raises(
        DataError, match=r"in: .*instance 0 \(20 pixels\) in val and instance 255 \(10 pixels\) in test,"
    ):
        converted(open_png_pairs(root, root / "classes.csv"), out)
    pairs(root, np.full((HEIGHT, WIDTH), CAR), painted(0, ((0, 0, 2, 5), 255)), "test")
    with pytest.raises(DataError, match=r"in, test: thing classes have instance 0 \(590 pixels\) and instance 255"):
        converted(open_png_pairs(root, root / "classes.csv"), out)
    assert not list(out.glob("annotations/*.json"))


def test_instances_of_stuff_and_of_void_are_not_ambiguous(tmp_path: Path) -> None:
    root = numbered(tmp_path / "in", 1, 2, 1, sky=255)
    path = root / "panoptic/val/a.png"
    pixels = np.array(Image.open(path))
    pixels[19] = (255, 0, 0)  # void, instance 0
    save(path, pixels)
    summary, reporter = converted(open_png_pairs(root, root / "classes.csv"), tmp_path / "out")
    assert reporter.warnings == [] and summary.conventions == []
    assert summary.void_values == {"255": 30}


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        (
            (1, 0, 1),
            "val: instance 0 (20 pixels) of thing classes was taken as a crowd; if objects are numbered from 0",
        ),
        ((1, 255, 1), "val: instance 255 (20 pixels) of thing classes was taken as an object; if it marks crowds"),
    ],
)
def test_an_assumed_convention_is_reported_and_kept(
    tmp_path: Path, numbers: tuple[int, int, int], sentence: str
) -> None:
    root, out = numbered(tmp_path / "in", *numbers), tmp_path / "out"
    for _ in range(2):  # also when there is nothing to do
        summary, reporter = converted(open_png_pairs(root, root / "classes.csv"), out)
        (warning,) = reporter.warnings
        assert warning.startswith(sentence)
    for name in ("summary.json", "manifest.json"):
        assert json.loads((out / name).read_text())["val"]["conventions"] == summary.conventions
    assert "crowd_instance" not in json.loads((out / "manifest.json").read_text())["val"]["setting"]


def test_the_shared_two_channel_case(tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = shared / "cases" / "png-pairs-two-channel"
    command = ["prepare-data", "png-pairs", "--root", str(case), "--classes", str(case / "classes.csv")]
    command += ["--out", str(tmp_path / "out"), "--workers", "1"]
    assert run(*command) == 2
    assert "--crowd-instance 255" in capsys.readouterr().err
    assert run(*command, "--crowd-instance", "255") == 0
    crowds = [(category, area) for category, area, is_crowd in segments(tmp_path / "out") if is_crowd]
    assert crowds == [(PERSON, 560)]


def class_maps(root: Path, values: Values) -> Path:
    save(root / "images/a.jpg", np.zeros((HEIGHT, WIDTH, 3)))
    save(root / "masks/a.png", values)
    (root / "classes.csv").write_text(CLASSES)
    return root


def masks(root: Path) -> Source:
    class_maps(root, painted(SKY, ((0, 0, 2, 5), 0), ((4, 0, 7, 10), 255)))
    return open_mask_folder(root, root / "classes.csv")


def colored_masks(root: Path) -> Source:
    class_maps(root, painted(0))
    pixels = np.zeros((HEIGHT, WIDTH, 3))
    pixels[4:] = (9, 9, 9)
    save(root / "masks/a.png", pixels)
    (root / "classes.csv").write_text("id,name,isthing,color\n7,sky,0,9 9 9\n")
    return open_mask_folder(root, root / "classes.csv")


def void_pairs(root: Path) -> Source:
    pairs(root, painted(SKY, ((0, 0, 2, 5), 0), ((4, 0, 7, 10), 99)), painted(0))
    return open_png_pairs(root, root / "classes.csv", void=[99])


def stuff_masks(root: Path) -> Source:
    """Stuff 7, an unlisted 0 and 255, and pixels of the thing class 1, some of them below an object."""
    save(root / "images/val/a.jpg", np.zeros((HEIGHT, WIDTH, 3)))
    segmentation = [[0, 0, 5, 0, 5, 2, 0, 2]]  # 10 pixels
    row = {"id": 1, "image_id": 1, "category_id": PERSON, "iscrowd": 0, "segmentation": segmentation}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [row],
        "categories": [{"id": PERSON, "name": "person"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    values = painted(SKY, ((0, 0, 2, 6), PERSON), ((4, 0, 7, 10), 255), ((9, 0, 10, 3), 0))
    save(root / "stuff/a.png", values)
    (root / "classes.csv").write_text(CLASSES)
    return open_coco_instances(root, classes=root / "classes.csv", stuff_masks=root / "stuff")


def ade20k(root: Path) -> Source:
    """Wall, unlabeled, and a bed (value 8) of 30 pixels of which the object has 20."""
    save(root / "images/validation/a.jpg", np.zeros((HEIGHT, WIDTH, 3)))
    save(root / "annotations/validation/a.png", painted(1, ((0, 0, 2, 5), 0), ((4, 0, 7, 10), 8)))
    objects = np.zeros((HEIGHT, WIDTH, 3))
    objects[4:6, :10] = (1, 3, 0)
    save(root / "annotations_instance/validation/a.png", objects)
    return Ade20k(root)


def cityscapes(root: Path) -> Source:
    """Road, unlabeled, two caravans, and a trailer without a number."""
    frame = "ulm_000000_000019"
    save(root / f"leftImg8bit/val/ulm/{frame}_leftImg8bit.png", np.zeros((HEIGHT, WIDTH, 3)))
    values = painted(7, ((0, 0, 2, 5), 0), ((4, 0, 5, 4), 29001), ((6, 0, 7, 4), 29002), ((8, 0, 9, 3), 30))
    save(root / f"gtFine/val/ulm/{frame}_gtFine_instanceIds.png", values, np.uint16)
    return Cityscapes(root)


def vistas(root: Path) -> Source:
    """Sky, a car, and a label that is not evaluated, with two object numbers."""
    mapillary(root)
    config = json.loads((root / "config_v1.2.json").read_text())
    config["labels"].append({**config["labels"][0], "name": "void", "readable": "void", "evaluate": False})
    (root / "config_v1.2.json").write_text(json.dumps(config))
    (root / "training/images/b.jpg").unlink()
    (root / "training/v1.2/instances/b.png").unlink()
    save(root / "training/images/a.jpg", np.zeros((HEIGHT, WIDTH, 3)))
    values = painted(0, ((0, 0, 2, 5), 512), ((4, 0, 5, 4), 513))
    save(root / "training/v1.2/instances/a.png", values, np.uint16)
    return MapillaryVistas.open(root)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (masks, {"255": 30, "0": 10}),
        (colored_masks, {"#000000": 120}),
        (void_pairs, {"99": 30, "0": 10}),
        (stuff_masks, {"255": 30, "0": 3, "1 (person) without an object": 2}),
        (ade20k, {"0": 10, "7 (bed) without an object": 10}),
        (cityscapes, {"0 (unlabeled)": 10, "29 (caravan)": 8, "30 (trailer)": 3}),
        (vistas, {"2": 14}),
    ],
)
def test_class_values_that_became_void(
    tmp_path: Path, make: Callable[[Path], Source], expected: dict[str, int]
) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    summary, reporter = converted(make(root), out)
    assert summary.void == sum(expected.values())
    assert list(summary.void_values.most_common()) == list(expected.items())
    values = ", ".join(f"{value} in {pixels} pixels" for value, pixels in expected.items())
    assert reporter.messages == [f"{summary.split}: class values that became void: {values}"]
    for name in ("summary.json", "manifest.json"):
        assert json.loads((out / name).read_text())[summary.split]["void_values"] == expected
    assert SplitSummary.from_json(summary.split, summary.to_json()) == summary


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        (painted(0), "train: the image has no segment, so there is nothing to learn"),
        (painted(255, ((0, 0, 10, 29), SKY)), "train: 51.7 % of all pixels are void; predictions there do not count"),
        (painted(255, ((0, 0, 10, 30), SKY)), None),
    ],
)
def test_splits_of_void_are_reported(tmp_path: Path, values: Values, warning: str | None) -> None:
    root = class_maps(tmp_path / "in", values)
    _, reporter = converted(open_mask_folder(root, root / "classes.csv"), tmp_path / "out")
    assert [text.startswith(warning or "") for text in reporter.warnings] == ([] if warning is None else [True])


@pytest.mark.parametrize(
    ("rows", "warning"),
    [
        ("1,cat,1\n3,cat,1\n", "categories 1 and 3 are both named 'cat'; expected unique names"),
        ("1,cat,1\n3,7,1\n", "category 3 has the name '7', a number; expected words that describe the category"),
    ],
)
def test_unusual_names_are_reported_by_a_conversion(tmp_path: Path, rows: str, warning: str) -> None:
    root = numbered(tmp_path / "in", 1, 2, 1)
    (root / "classes.csv").write_text(f"id,name,isthing\n{rows}7,sky,0\n")
    _, reporter = converted(open_png_pairs(root, root / "classes.csv"), tmp_path / "out")
    assert reporter.warnings == [f"{root}: {warning}"]


@pytest.mark.parametrize(
    ("case", "found"), [("dup", "both named 'cat'"), ("empty", "an empty name"), ("number", "a number")]
)
def test_the_shared_category_names(
    tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str], case: str, found: str
) -> None:
    root = Path(shutil.copytree(shared / "cases" / "category-names" / case, tmp_path / "in"))
    assert run("prepare-data", "verify", str(root), "--workers", "1") == 0  # other tools accept them
    assert found in capsys.readouterr().out
    assert run("prepare-data", "custom", "--root", str(root), "--workers", "1") == 0
    assert found in capsys.readouterr().err


def objects(root: Path, *names: str) -> Path:
    save(root / "images/a.jpg", np.zeros((HEIGHT, WIDTH, 3)))
    for row, name in enumerate(names):
        save(root / f"masks/a/{name}.png", painted(0, ((row, 0, row + 1, 5), 255)))
    return root


def test_a_text_file_of_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = objects(tmp_path / "in", "car", "road", "car_2")
    (root / "labels.txt").write_text("car\nroad\n")
    command = ["prepare-data", "masks", "--root", str(root), "--classes", str(root / "labels.txt"), "--workers", "1"]
    assert run(*command, "--stuff", "road", "--out", str(tmp_path / "out")) == 0
    assert segments(tmp_path / "out", "train") == [(1, 5, False), (1, 5, False), (2, 5, False)]
    assert [c.is_thing for c in CocoPanoptic(tmp_path / "out", "train").categories.categories] == [True, False]
    save(root / "images/b.jpg", np.zeros((HEIGHT, WIDTH, 3)))
    save(root / "masks/b.png", painted(1))
    capsys.readouterr()
    assert run(*command, "--out", str(tmp_path / "out2")) == 2
    assert "b.png is a map of class ids, but the class file lists only names" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "warning"),
    [
        (["cat", "cat"], "categories 1 and 2 are both named 'cat'"),
        (["cat", " cat"], "categories 1 and 2 are both named ' cat'"),
        (["cat", 7], "category 2 has the name '7', a number"),
        (["cat", 2.5], "category 2 has the name '2.5', a number"),
        (["cat", ""], "category 2 has an empty name"),
        (["cat", None], "category 2 has an empty name"),
        (["cat", "nan"], None),
        (["cat", "3d printer"], None),
    ],
)
def test_names_in_a_coco_json(tmp_path: Path, names: list[Any], warning: str | None) -> None:
    """pycocotools accepts all of them."""
    root = tmp_path / "in"
    save(root / "images/val/a.jpg", np.zeros((HEIGHT, WIDTH, 3)))
    box = [[0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT]]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "iscrowd": 0, "segmentation": box}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }
    (root / "annotations").mkdir()
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    summary, reporter = converted(open_coco_instances(root), tmp_path / "out")
    assert [text.partition(";")[0] for text in reporter.warnings] == ([f"{root}: {warning}"] if warning else [])
    assert [category.id for category in summary.categories.categories] == [1, 2]


@pytest.mark.parametrize("names", ["[cat, cat]", "[0, 1]", "['', dog]", "{3: cat, 8: cat}"])
def test_names_in_a_data_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str], names: str) -> None:
    """Ultralytics accepts all of them, since its labels are numbers."""
    root = tmp_path / "in"
    save(root / "images/train/a.jpg", np.zeros((HEIGHT, WIDTH, 3)))
    (root / "labels/train").mkdir(parents=True)
    number = 8 if "8" in names else 1
    (root / "labels/train/a.txt").write_text(f"{number} 0 0 1 0 1 1 0 1\n")
    (root / "data.yaml").write_text(f"names: {names}\n")
    command = ["prepare-data", "yolo", "--root", str(root), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert run(*command) == 0
    assert segments(tmp_path / "out", "train") == [(number, HEIGHT * WIDTH, False)]
    assert f"Warning: {root}: categor" in capsys.readouterr().err
