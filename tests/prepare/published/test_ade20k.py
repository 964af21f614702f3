"""ADE20K: Mask2Former's rules on hand-made maps and on the real sample, and invalid files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from panformer_cli.cli.prepare_data.street import ade20k
from panformer_cli.data.ade20k_classes import CATEGORIES, INSTANCE_CLASSES
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.published.ade20k import Ade20k
from panformer_cli.reporting import SilentReporter
from panformer_cli.verify.check import VerifyOptions, verify

NAME = "ADE_val_00000001"
SEMANTIC, INSTANCES = f"annotations/validation/{NAME}.png", f"annotations_instance/validation/{NAME}.png"
IMAGE = f"images/validation/{NAME}.jpg"


def semantic_map() -> Any:
    """10 x 12 pixels, values 1 wall, 4 floor, 8 bed, 20 chair, 0 unlabeled."""
    values = np.full((10, 12), 1, np.uint8)
    values[6:] = 4
    values[5:8, 1:5] = 8
    values[6:9, 7:9] = 20
    values[0] = 0
    return values


def instance_map() -> Any:
    """A bed (class 1) is object 3 and overlaps wall and floor but not all of the bed; a chair (class 8) is 200."""
    values = np.zeros((10, 12, 3), np.uint8)
    values[4:7, 1:4] = (1, 3, 0)
    values[6:9, 7:9] = (8, 200, 77)
    values[9, 9] = (8, 0, 5)  # a class without a number is not an object
    return values


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "ADEChallengeData2016"
    write(folder / SEMANTIC, semantic_map())
    write(folder / INSTANCES, instance_map())
    write(folder / IMAGE, np.zeros((10, 12, 3), np.uint8))
    return folder


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def converted(root: Path, *splits: str) -> Path:
    out = root.parent / "out"
    convert(Ade20k(root), out, splits, ConvertOptions(), SilentReporter())
    return out


def test_classes_match_the_challenge() -> None:
    assert [row.id for row in sorted(CATEGORIES.categories, key=lambda row: row.id)] == list(range(150))
    assert CATEGORIES.num_things == 100
    for number, name, is_thing, color in (
        (0, "wall", False, (120, 120, 120)),
        (7, "bed", True, (204, 5, 255)),
        (8, "window", True, (230, 230, 230)),
        (12, "person", True, (150, 5, 61)),
        (48, "skyscraper", False, (140, 140, 200)),
        (59, "stairway, staircase", False, (31, 0, 255)),
        (149, "flag", True, (92, 0, 255)),
    ):
        row = CATEGORIES.by_id(number)
        assert (row.name, row.is_thing, row.color) == (name, is_thing, color)
    assert len({row.color for row in CATEGORIES.categories}) == len({row.name for row in CATEGORIES.categories}) == 150


def test_instance_map_classes() -> None:
    """Rows of ade20k_instance_catid_mapping.txt: class of the instance map, and value of the semantic map."""
    assert len(INSTANCE_CLASSES) == 101 and INSTANCE_CLASSES[0] is None
    for instance_class, value in ((1, 8), (4, 13), (9, 21), (28, 48), (36, 63), (64, 99), (93, 140), (100, 150)):
        assert INSTANCE_CLASSES[instance_class] == value - 1


def test_things_are_painted_over_stuff(root: Path) -> None:
    out = converted(root)
    sample = CocoPanoptic(out, "validation")[0]
    assert (sample.image_id, sample.file_name, sample.png_name) == (NAME, f"{NAME}.jpg", f"{NAME}.png")
    expected = np.zeros((10, 12), np.int32)
    semantic = semantic_map()
    expected[semantic == 1], expected[semantic == 4] = 1, 4
    expected[4:7, 1:4] = 256 * 8 + 3
    expected[6:9, 7:9] = 256 * 20 + 200
    np.testing.assert_array_equal(sample.annotation.ids, expected)
    assert expected[7, 1] == 0, "a thing of the semantic map that no object covers is void"
    assert [(s.id, s.category_id, s.area) for s in sample.annotation.segments] == [
        (1, 0, int((expected == 1).sum())),
        (4, 3, int((expected == 4).sum())),
        (2051, 7, 9),
        (5320, 19, 6),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["training", "validation"])
def test_the_real_sample_with_objects_from_its_classes(shared: Path, tmp_path: Path, split: str) -> None:
    root = tmp_path / "in"
    shutil.copytree(shared / "data/ade20k_mini/ADEChallengeData2016", root)
    (label,) = (root / "annotations" / split).glob("*.png")
    label.chmod(0o644)
    semantic = np.asarray(Image.open(label)).astype(int)
    classes = {category + 1: number for number, category in enumerate(INSTANCE_CLASSES) if category is not None}
    objects = np.zeros((*semantic.shape, 3), np.uint8)
    left = np.arange(semantic.shape[1]) < semantic.shape[1] // 2
    number, expected = 0, np.where(np.isin(semantic, list(classes)), 0, semantic)
    for value in sorted(set(semantic.flat) & set(classes)):
        for half in (left, ~left):
            number += 1
            mask = (semantic == value) & half
            objects[mask] = (classes[value], number, 0)
            expected[mask] = 256 * value + number
    write(root / f"annotations_instance/{split}/{label.name}", objects)
    out = converted(root, split)
    sample = CocoPanoptic(out, split)[0]
    np.testing.assert_array_equal(sample.annotation.ids, expected)
    assert {s.category_id + 1 for s in sample.annotation.segments} == set(semantic.flat) - {0}
    assert verify(out, (split,), VerifyOptions(), SilentReporter())[0].is_good


def test_without_objects_all_things_are_void(root: Path) -> None:
    write(root / INSTANCES, np.zeros((10, 12, 3), np.uint8))
    assert [s.id for s in CocoPanoptic(converted(root), "validation")[0].annotation.segments] == [1, 4]


def test_the_command_accepts_the_parent_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("result") / "out"
    result = CliRunner().invoke(ade20k, ["--root", str(root.parent), "--out", str(out), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert len(CocoPanoptic(out, "validation")) == 1


def test_missing_instances_name_the_download(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations_instance/training, .* is missing.*annotations_instance\.tar"):
        convert(Ade20k(shared / "data/ade20k_mini"), tmp_path, (), ConvertOptions(), SilentReporter())


def changed(values: Any, place: Any, value: Any) -> Any:
    values[place] = value
    return values


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no root": (lambda root: shutil.rmtree(root), "has no folder annotations"),
    "no split": (lambda root: (root / "annotations/validation").rename(root / "annotations/v"), "has no split"),
    "semantic missing": (lambda root: (root / SEMANTIC).unlink(), f"{SEMANTIC} is missing"),
    "instances missing": (lambda root: (root / INSTANCES).unlink(), f"{INSTANCES} is missing"),
    "empty": (lambda root: (root / SEMANTIC).write_bytes(b""), f"{SEMANTIC} is empty"),
    "cut": (lambda root: (root / INSTANCES).write_bytes((root / INSTANCES).read_bytes()[:-40]), "corrupt or truncated"),
    "no PNG": (lambda root: (root / INSTANCES).write_text("none"), f"{INSTANCES} is not a PNG"),
    "gray instances": (lambda root: write(root / INSTANCES, semantic_map()), f"{INSTANCES} is a PNG of mode L"),
    "colored semantic": (lambda root: write(root / SEMANTIC, instance_map()), f"{SEMANTIC} is a PNG of mode RGB"),
    "value 151": (lambda root: write(root / SEMANTIC, changed(semantic_map(), (0, 0), 151)), "contains the value 151"),
    "class 101": (
        lambda root: write(root / INSTANCES, changed(instance_map(), (0, 0), (101, 9, 0))),
        f"{INSTANCES} assigns object 9 the class 101; expected 1 to 100",
    ),
    "class 0": (
        lambda root: write(root / INSTANCES, changed(instance_map(), (0, 0), (0, 9, 0))),
        "assigns object 9 the class 0",
    ),
    "two classes": (
        lambda root: write(root / INSTANCES, changed(instance_map(), (0, 0), (2, 3, 0))),
        "assigns object 3 the classes 1 and 2",
    ),
    "no image": (
        lambda root: shutil.copy(root / SEMANTIC, (root / SEMANTIC).with_name("lone.png")),
        r"lone\.png has no image in .*images/validation",
    ),
    "another size": (lambda root: write(root / SEMANTIC, semantic_map()[1:]), f"{SEMANTIC} is 12x9 but its image"),
    "instances of another size": (lambda root: write(root / INSTANCES, instance_map()[1:]), f"{INSTANCES} is 12x9"),
    "corrupt image": (lambda root: (root / IMAGE).write_text("no"), f"{NAME}.jpg is not an image"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_invalid_files_are_reported_by_name(root: Path, fault: str) -> None:
    damage, message = FAULTS[fault]
    damage(root)
    with pytest.raises(DataError, match=message):
        converted(root)
    assert not list(root.parent.glob("out/annotations/*.json"))


def test_links_out_of_the_folder_and_unknown_splits_are_rejected(root: Path) -> None:
    with pytest.raises(DataError, match="has no split training; available splits: validation"):
        converted(root, "training")
    (root / SEMANTIC).rename(root.parent / "outside.png")
    (root / SEMANTIC).symlink_to(root.parent / "outside.png")
    with pytest.raises(DataError, match="points outside"):
        converted(root)
