"""Mapillary Vistas: one scene as a 16-bit map and as a panoptic PNG, in both layouts, and invalid files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from panformer_cli.cli.prepare_data.street import mapillary
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.published.mapillary import MapillaryVistas, Version
from panformer_cli.reporting import SilentReporter

KEY = "--jRsD9anHdGxv4ZOCQktA"
IMAGE = f"training/images/{KEY}.jpg"
MAP = f"training/v2.0/instances/{KEY}.png"
JSON, PNG = "training/v2.0/panoptic/panoptic_2020.json", f"training/v2.0/panoptic/{KEY}.png"

ROWS = (
    ("animal--bird", "Bird", True, True, [165, 42, 42]),
    ("construction--barrier--ambiguous", "Ambiguous Barrier", False, False, [250, 170, 31]),
    ("nature--sky", "Sky", False, True, [70, 130, 180]),
    ("object--vehicle--car", "Car", True, True, [0, 0, 142]),
    ("void--unlabeled", "Unlabeled", False, False, [0, 0, 0]),
)
"""The second label is not evaluated, so that category ids and label indices differ from there on."""


def config() -> dict[str, Any]:
    keys = ("name", "readable", "instances", "evaluate", "color")
    return {"labels": [dict(zip(keys, row, strict=True)) for row in ROWS], "version": "2.0"}


def instance_map() -> Any:
    """10 x 12 pixels: sky, a bird that is object 0, cars 0 and 5, an ambiguous barrier, unlabeled."""
    values = np.full((10, 12), 2 * 256, np.uint16)
    values[0, 0] = 0
    values[5:7, 1:4] = 3 * 256
    values[5:7, 6:10] = 3 * 256 + 5
    values[8] = 256
    values[9] = 4 * 256
    return values


EXPECTED = {(1, "Bird", 1), (2, "Sky", 81), (3, "Car", 6), (3, "Car", 8)}
"""Category ids (1 to 3, the evaluated labels), names, areas."""


def panoptic_json() -> dict[str, Any]:
    categories = [(1, "Bird", 1, "animal--bird"), (2, "Sky", 0, "nature--sky"), (3, "Car", 1, "object--vehicle--car")]
    segments = [(70001, 2, 0), (5, 1, 0), (6, 3, 0), (7, 3, 1), (8, 2, 0)]
    return {
        "images": [{"id": KEY, "file_name": f"{KEY}.jpg", "height": 10, "width": 12}],
        "annotations": [
            {
                "image_id": KEY,
                "file_name": f"{KEY}.png",
                "segments_info": [{"id": i, "category_id": c, "iscrowd": crowd, "area": 3} for i, c, crowd in segments],
            }
        ],
        "categories": [
            {"id": number, "name": name, "isthing": thing, "supercategory": long, "color": [number, 2, 3]}
            for number, name, thing, long in categories
        ],
    }


def panoptic_ids() -> Any:
    """The scene of `instance_map`, but the sky has two ids, which no release should have."""
    ids = np.full((10, 12), 70001, np.int64)
    ids[0, 0] = 5
    ids[0, 4:] = 8
    ids[5:7, 1:4], ids[5:7, 6:10] = 6, 7
    ids[8:] = 0
    return ids


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        path.write_text(json.dumps(content))
    else:
        Image.fromarray(content).save(path)


def write_ready(root: Path, content: dict[str, Any], folder: str = "training/v2.0/panoptic") -> None:
    ids = panoptic_ids()
    write(root / folder / f"{KEY}.png", np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8))
    write(root / folder / "panoptic_2020.json", content)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A release with only instance maps."""
    folder = tmp_path / "vistas"
    write(folder / "config_v2.0.json", config())
    write(folder / IMAGE, np.zeros((10, 12, 3), np.uint8))
    write(folder / "testing/images/other.jpg", np.zeros((4, 4, 3), np.uint8))
    write(folder / MAP, instance_map())
    return folder


def converted(root: Path, version: Version | None = None, *splits: str) -> Path:
    out = root.parent / "out"
    convert(MapillaryVistas.open(root, version), out, splits, ConvertOptions(), SilentReporter())
    return out


def found(out: Path) -> set[tuple[int, str, int]]:
    data = CocoPanoptic(out, "training")
    return {(s.category_id, data.categories.by_id(s.category_id).name, s.area) for s in data[0].annotation.segments}


def test_instance_maps(root: Path) -> None:
    out = converted(root)
    data = CocoPanoptic(out, "training")
    assert (data[0].image_id, data[0].file_name) == (KEY, f"{KEY}.jpg")
    assert [(row.id, row.name, row.is_thing, row.color) for row in data.categories.categories] == [
        (1, "Bird", True, (165, 42, 42)),
        (3, "Car", True, (0, 0, 142)),
        (2, "Sky", False, (70, 130, 180)),
    ]
    values = instance_map().astype(np.int32)
    np.testing.assert_array_equal(data[0].annotation.ids, np.where(np.isin(values // 256, (1, 4)), 0, values + 1))
    assert found(out) == EXPECTED and MapillaryVistas.open(root).splits() == ["training"]


def test_stuff_with_several_numbers_is_one_segment(root: Path) -> None:
    values = instance_map()
    values[2] += 7
    write(root / MAP, values)
    assert found(converted(root)) == EXPECTED


def test_panoptic_pngs_are_preferred(root: Path) -> None:
    write_ready(root, panoptic_json())
    write(root / MAP, np.zeros((3, 3), np.uint16))
    out = converted(root)
    sample = CocoPanoptic(out, "training")[0]
    expected = panoptic_ids()
    expected[expected == 8] = 70001
    np.testing.assert_array_equal(sample.annotation.ids, expected)
    assert found(out) == EXPECTED
    assert [(s.id, s.is_crowd) for s in sample.annotation.segments] == [
        (5, False),
        (6, False),
        (7, True),
        (70001, False),
    ]


def test_category_ids_of_the_json_are_kept(root: Path) -> None:
    content = panoptic_json()
    content["categories"][1]["id"] = 30
    for segment in content["annotations"][0]["segments_info"]:
        segment["category_id"] = {2: 30}.get(segment["category_id"], segment["category_id"])
    write_ready(root, content)
    assert {row[0] for row in found(converted(root))} == {1, 3, 30}


def test_categories_that_are_not_evaluated_become_void(root: Path) -> None:
    content = panoptic_json()
    content["categories"].append(
        {"id": 9, "name": "Ambiguous Barrier", "isthing": 0, "supercategory": "construction--barrier--ambiguous"}
    )
    content["annotations"][0]["segments_info"][3]["category_id"] = 9
    write_ready(root, content)
    out = converted(root)
    assert found(out) == EXPECTED - {(3, "Car", 8)}
    assert 9 not in CocoPanoptic(out, "training").categories
    assert json.loads((out / "summary.json").read_text())["training"]["void_values"] == {"9": 8}


def test_a_json_without_label_list(root: Path) -> None:
    write_ready(root, panoptic_json())
    (root / "config_v2.0.json").unlink()
    assert found(converted(root)) == EXPECTED


def both_versions(root: Path) -> None:
    older = config()
    older["labels"][3]["readable"] = "Vehicle"
    write(root / "config_v1.2.json", older)
    shutil.copytree(root / "training/v2.0", root / "training/v1.2")


def test_the_newest_version_is_the_default(root: Path) -> None:
    both_versions(root)
    assert found(converted(root)) == EXPECTED
    (root.parent / "out").rename(root.parent / "v2.0")
    assert (3, "Vehicle", 8) in found(converted(root, "v1.2"))
    manifest = json.loads((root.parent / "out/manifest.json").read_text())
    assert manifest["training"]["setting"]["version"] == "v1.2"


@pytest.mark.parametrize("name", ["config_v2.0.json", "config_v1.2.json", "config.json"])
def test_the_older_layout(root: Path, name: str) -> None:
    (root / "training/v2.0/instances").rename(root / "training/instances")
    (root / "training/v2.0").rmdir()
    (root / "config_v2.0.json").rename(root / name)
    assert found(converted(root)) == EXPECTED
    assert MapillaryVistas.open(root).version == ("v2.0" if "2.0" in name else "v1.2")


def test_the_older_layout_with_panoptic_pngs(root: Path) -> None:
    shutil.rmtree(root / "training/v2.0")
    write_ready(root, panoptic_json(), "training/panoptic")
    assert found(converted(root)) == EXPECTED


def test_the_command(root: Path) -> None:
    both_versions(root)
    out = root.parent / "out"
    arguments = ["--root", str(root), "--out", str(out), "--workers", "1", "--version", "v1.2", "--split", "training"]
    result = CliRunner().invoke(mapillary, arguments)
    assert result.exit_code == 0, result.output
    assert (3, "Vehicle", 8) in found(out)


def changed_config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        content = config()
        change(content)
        write(root / "config_v2.0.json", content)

    return damage


def changed_json(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        content = panoptic_json()
        change(content)
        write_ready(root, content)

    return damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def json_cut(root: Path) -> None:
    write_ready(root, panoptic_json())
    cut(root / JSON)


def png_missing(root: Path) -> None:
    write_ready(root, panoptic_json())
    (root / PNG).unlink()


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no root": (shutil.rmtree, "vistas does not exist"),
    "no label list": (lambda root: (root / "config_v2.0.json").unlink(), "neither config_v2.0.json nor"),
    "label list cut": (
        lambda root: cut(root / "config_v2.0.json"),
        "config_v2.0.json is not valid JSON, or is truncated",
    ),
    "label list empty": (lambda root: (root / "config_v2.0.json").write_text(""), "config_v2.0.json is empty"),
    "no labels": (changed_config(lambda c: c.update(labels={})), "config_v2.0.json has no list `labels`"),
    "label without color": (changed_config(lambda c: c["labels"][2].pop("color")), "has the row .*nature--sky"),
    "color out of range": (changed_config(lambda c: c["labels"][2].update(color=[0, 0, 256])), "has the row .*sky"),
    "name twice": (changed_config(lambda c: c["labels"][2].update(readable="Car")), "has 'Car' twice"),
    "evaluate as text": (changed_config(lambda c: c["labels"][2].update(evaluate="no")), "evaluate .true or false"),
    "no annotations": (lambda root: shutil.rmtree(root / "training/v2.0"), "no split with annotations of v2.0"),
    "map missing": (lambda root: (root / MAP).unlink(), f"{MAP} is missing"),
    "map empty": (lambda root: (root / MAP).write_bytes(b""), f"{MAP} is empty"),
    "map cut": (lambda root: cut(root / MAP), f"{MAP} is corrupt or truncated"),
    "no PNG": (lambda root: (root / MAP).write_text("none"), f"{MAP} is not a PNG"),
    "map of labels": (lambda root: write(root / MAP, np.zeros((10, 12), np.uint8)), "not a 16-bit grayscale PNG"),
    "label 5": (
        lambda root: write(root / MAP, instance_map() + 1024),
        r"value 2048, which is label 8; expected 0 to 4",
    ),
    "no image": (
        lambda root: shutil.copy(root / MAP, (root / MAP).with_name("lone.png")),
        r"lone\.png has no image in .*training/images",
    ),
    "another size": (lambda root: write(root / MAP, instance_map()[1:]), f"{MAP} is 12x9 but"),
    "corrupt image": (lambda root: (root / IMAGE).write_text("no"), f"{KEY}.jpg is not an image"),
    "JSON cut": (json_cut, "is not valid JSON, or is truncated"),
    "no categories": (changed_json(lambda c: c.pop("categories")), "the category table is empty"),
    "foreign category": (
        changed_json(lambda c: c["categories"][1].update(name="Moon", supercategory="nature--moon")),
        "the category 'Moon' is not in the label list",
    ),
    "PNG outside": (
        changed_json(lambda c: c["annotations"][0].update(file_name="../../a.png")),
        "'../../a.png' points outside",
    ),
    "image outside": (changed_json(lambda c: c["images"][0].update(file_name="/a.jpg")), "'/a.jpg' points outside"),
    "image missing": (changed_json(lambda c: c["images"][0].update(file_name="b.jpg")), "b.jpg is missing"),
    "image without annotation": (
        changed_json(lambda c: c["images"].append({"id": "b", "file_name": "b.jpg"})),
        r"lists 1 image that it does not annotate, first b\.jpg",
    ),
    "unlisted segment": (
        changed_json(lambda c: c["annotations"][0]["segments_info"].pop()),
        r"segment ids 8 only in the PNG",
    ),
    "category out of range": (
        changed_json(lambda c: c["annotations"][0]["segments_info"][0].update(category_id=77)),
        "has the category_id 77",
    ),
    "PNG missing": (png_missing, f"{PNG} is missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_invalid_files_are_reported_by_name(root: Path, fault: str) -> None:
    damage, message = FAULTS[fault]
    damage(root)
    with pytest.raises(DataError, match=message):
        converted(root)
    assert not list(root.parent.glob("out/annotations/*.json"))


def test_splits_of_different_releases_are_rejected(root: Path) -> None:
    write_ready(root, panoptic_json())
    content = panoptic_json()
    content["categories"][0]["name"] = "animal--bird"
    write(root / "validation/images/x.jpg", np.zeros((10, 12, 3), np.uint8))
    write_ready(root, content, "validation/v2.0/panoptic")
    with pytest.raises(DataError, match="has different categories from the other splits"):
        converted(root, None, "validation")


def test_a_split_without_annotations_is_reported(root: Path) -> None:
    with pytest.raises(DataError, match="no annotated split testing of v2.0; available splits: training"):
        converted(root, None, "testing")


def test_instance_maps_without_their_label_list(root: Path) -> None:
    write_ready(root, panoptic_json())
    write(root / "validation/images/x.jpg", np.zeros((10, 12, 3), np.uint8))
    write(root / "validation/v2.0/instances/x.png", instance_map())
    (root / "config_v2.0.json").unlink()
    with pytest.raises(DataError, match=r"has no config_v2\.0\.json"):
        converted(root, None, "validation")
