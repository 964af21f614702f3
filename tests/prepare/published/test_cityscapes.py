"""Cityscapes: hand-made maps, a real panoptic sample, and invalid files."""

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

from panformer_cli.cli.prepare_data.street import cityscapes
from panformer_cli.data.cityscapes_labels import CATEGORIES, IGNORED, LABELS
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.published.cityscapes import Cityscapes
from panformer_cli.reporting import SilentReporter
from panformer_cli.verify.check import VerifyOptions, verify

FRAME = "ulm_000000_000019"
MAP = f"gtFine/val/ulm/{FRAME}_gtFine_instanceIds.png"
IMAGE = f"leftImg8bit/val/ulm/{FRAME}_leftImg8bit.png"


def instance_map() -> Any:
    """12 x 16 pixels: road, sky, two cars, a group of cars, a caravan (not evaluated), void, and a terrain."""
    values = np.full((12, 16), 7, np.uint16)
    values[:4] = 23
    values[4:6, 2:5] = 26000
    values[4:6, 7:12] = 26001
    values[5, 14:] = 26
    values[6, :3] = 29001
    values[11] = 1
    values[8, 8] = 22
    return values


EXPECTED = [
    (7, 7, 16 * 7 - 6 - 10 - 2 - 3 - 1, False),
    (22, 22, 1, False),
    (23, 23, 64, False),
    (26, 26, 2, True),
    (26000, 26, 6, False),
    (26001, 26, 10, False),
]


def write_map(root: Path, values: Any, frame: str = FRAME, split: str = "val") -> None:
    city = frame.split("_")[0]
    label = root / f"gtFine/{split}/{city}/{frame}_gtFine_instanceIds.png"
    image = root / f"leftImg8bit/{split}/{city}/{frame}_leftImg8bit.png"
    for path in (label, image):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(label)
    Image.new("RGB", values.shape[::-1], (9, 9, 9)).save(image)


def ready(root: Path, change: Callable[[dict[str, Any]], object] = lambda content: None, split: str = "val") -> None:
    """Write the same scene as a panoptic JSON with PNG; category ids are label ids."""
    values = instance_map().astype(np.int64)
    colors = np.stack([values % 256, values // 256, values * 0], axis=-1)
    colors[(values == 1) | (values == 29001)] = 0
    name = f"cityscapes_panoptic_{split}"
    png = root / f"gtFine/{name}/{FRAME}_gtFine_panoptic.png"
    image = root / IMAGE
    for path in (png, image):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colors.astype(np.uint8)).save(png)
    Image.new("RGB", (16, 12)).save(image)
    rows = [{"id": i, "category_id": c, "area": 1, "iscrowd": int(crowd)} for i, c, _, crowd in EXPECTED]
    content = {"annotations": [{"image_id": FRAME, "file_name": png.name, "segments_info": rows}]}
    change(content)
    (root / f"gtFine/{name}.json").write_text(json.dumps(content))


def converted(root: Path, *splits: str) -> Path:
    out = root.parent / "out"
    convert(Cityscapes(root), out, splits, ConvertOptions(), SilentReporter())
    return out


def segments(out: Path, split: str = "val") -> list[tuple[int, int, int, bool]]:
    return [(s.id, s.category_id, s.area, s.is_crowd) for s in CocoPanoptic(out, split)[0].annotation.segments]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_map(tmp_path / "in", instance_map())
    return tmp_path / "in"


def test_classes_match_the_benchmark() -> None:
    assert (CATEGORIES.num_things, CATEGORIES.num_stuff) == (8, 11)
    evaluated = [label.train_id for label in LABELS.values() if label.train_id != IGNORED]
    assert evaluated == list(range(19)) and sorted(LABELS) == list(range(34))


def test_the_table_matches_the_published_one(shared: Path) -> None:
    rows = json.loads((shared / "data/cityscapes_mini/panoptic_cityscapes_categories.json").read_text())
    assert sorted(CATEGORIES.to_coco(), key=lambda row: row["id"]) == sorted(rows, key=lambda row: row["id"])


def test_an_instance_map(root: Path) -> None:
    out = converted(root)
    sample = CocoPanoptic(out, "val")[0]
    assert (sample.image_id, sample.file_name) == (FRAME, f"ulm/{FRAME}_leftImg8bit.png")
    assert segments(out) == EXPECTED
    expected = instance_map().astype(np.int32)
    expected[(expected == 1) | (expected == 29001)] = 0
    np.testing.assert_array_equal(sample.annotation.ids, expected)
    assert {s.id: s.bbox for s in sample.annotation.segments}[26] == (14, 5, 2, 1)
    assert verify(out, (), VerifyOptions(), SilentReporter())[0].is_good


@pytest.mark.parametrize("seed", [0, 1])
def test_matches_the_published_script(tmp_path: Path, seed: int) -> None:
    script = pytest.importorskip("cityscapesscripts.preparation.createPanopticImgs")
    rng = np.random.default_rng(seed)
    known = [*range(34), *(label * 1000 + n for label in range(24, 34) for n in (0, 1, 7, 255))]
    values = rng.choice(known, (6, 8)).astype(np.uint16).repeat(5, 0).repeat(4, 1)
    root = tmp_path / "in"
    write_map(root, values)
    out = converted(root)
    script.convert2panoptic(str(root / "gtFine"), str(tmp_path), False, ["val"])
    theirs = json.loads((tmp_path / "cityscapes_panoptic_val.json").read_text())["annotations"][0]
    ours = json.loads((out / "annotations/panoptic_val.json").read_text())["annotations"][0]
    assert ours["segments_info"] == sorted(theirs["segments_info"], key=lambda row: row["id"])
    with Image.open(tmp_path / "cityscapes_panoptic_val" / theirs["file_name"]) as image:
        np.testing.assert_array_equal(
            np.asarray(image), Image.open(out / "annotations/panoptic_val" / ours["file_name"])
        )


@pytest.mark.slow
@pytest.mark.parametrize("split", ["dummy", None])
def test_the_real_sample(shared: Path, tmp_path: Path, split: str | None) -> None:
    source = shared / "data/cityscapes_mini"
    convert(Cityscapes(source), tmp_path, [split] if split else (), ConvertOptions(), SilentReporter())
    rows = json.loads((source / "gtFine/cityscapes_panoptic_dummy_trainId.json").read_text())["annotations"][0]
    label_of_train_id = {0: 7, 2: 11, 8: 21, 10: 23, 13: 26}
    expected = sorted(
        (row["id"], label_of_train_id[row["category_id"]], row["area"], bool(row["iscrowd"]))
        for row in rows["segments_info"]
    )
    assert segments(tmp_path, "dummy") == expected
    sample = CocoPanoptic(tmp_path, "dummy")[0]
    with Image.open(source / "gtFine/cityscapes_panoptic_dummy_trainId" / rows["file_name"]) as image:
        ids = np.asarray(image).astype(np.int32) @ np.array([1, 256, 65536], np.int32)
    np.testing.assert_array_equal(sample.annotation.ids, ids)
    assert (ids == 0).sum() == 571
    assert verify(tmp_path, (), VerifyOptions(), SilentReporter())[0].problems == ()


TRAIN_ID = {7: 0, 22: 9, 23: 10, 26: 13}


def with_train_ids(content: dict[str, Any]) -> None:
    for row in content["annotations"][0]["segments_info"]:
        row["category_id"] = TRAIN_ID[row["category_id"]]


def with_categories(content: dict[str, Any]) -> None:
    names = {7: "road", 22: "terrain", 23: "sky", 26: "car"}
    content["categories"] = [{"id": number, "name": name} for number, name in names.items()]


def with_categories_of_train_ids(content: dict[str, Any]) -> None:
    with_categories(content)
    with_train_ids(content)
    for row in content["categories"]:
        row["id"] = TRAIN_ID[row["id"]]


def with_nothing(content: dict[str, Any]) -> None:
    del content


@pytest.mark.parametrize(
    "change", [with_nothing, with_train_ids, with_categories, with_categories_of_train_ids], ids=lambda c: c.__name__
)
def test_a_panoptic_json_with_either_kind_of_ids(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    ready(tmp_path / "in", change)
    out = converted(tmp_path / "in")
    assert segments(out) == EXPECTED
    (tmp_path / "out").rename(tmp_path / "ready")
    write_map(tmp_path / "in", instance_map())  # if both exist, the maps are read, which have equal content
    assert segments(converted(tmp_path / "in")) == EXPECTED


def test_segments_of_ignored_classes_become_void(tmp_path: Path) -> None:
    def caravan(content: dict[str, Any]) -> None:
        content["annotations"][0]["segments_info"][4]["category_id"] = 29
        content["categories"] = [{"id": label.id, "name": label.name} for label in LABELS.values()]

    ready(tmp_path / "in", caravan)
    assert segments(converted(tmp_path / "in")) == [row for row in EXPECTED if row[0] != 26000]


def test_the_zips_may_be_unpacked_in_separate_folders(root: Path) -> None:
    for name in ("gtFine", "leftImg8bit"):
        (root / f"{name}_trainvaltest").mkdir()
        (root / name).rename(root / f"{name}_trainvaltest" / name)
    assert segments(converted(root)) == EXPECTED


def test_the_split_without_public_labels_is_skipped_unless_selected(root: Path) -> None:
    write_map(root, np.ones((4, 4), np.uint16), "bonn_000000_000019", "test")
    assert Cityscapes(root).splits() == ["val"]
    assert segments(converted(root, "test"), "test") == []


def test_the_command(root: Path) -> None:
    out = root.parent / "out"
    result = CliRunner().invoke(cityscapes, ["--root", str(root), "--out", str(out), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert segments(out) == EXPECTED


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def rewrite(path: Path, values: Any) -> None:
    Image.fromarray(values).save(path)


def colored(path: Path) -> None:
    Image.new("RGB", (16, 12)).save(path)


MAP_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda root: (root / MAP).rename(root / "other.png"), "(no split|contains neither)"),
    "empty": (lambda root: (root / MAP).write_bytes(b""), "instanceIds.png is empty"),
    "cut": (lambda root: cut(root / MAP), "instanceIds.png is corrupt or truncated"),
    "no PNG": (lambda root: (root / MAP).write_text("no PNG"), "instanceIds.png is not a PNG"),
    "colors": (lambda root: colored(root / MAP), "instanceIds.png is a PNG of mode RGB"),
    "unknown label": (lambda root: rewrite(root / MAP, instance_map() + 40000), "instanceIds.png contains the value"),
    "label 34": (lambda root: rewrite(root / MAP, np.full((12, 16), 34, np.uint16)), "contains the value 34"),
    "another size": (lambda root: rewrite(root / MAP, instance_map()[:, :-1]), "instanceIds.png is 15x12 but"),
    "no image": (lambda root: (root / IMAGE).unlink(), "no images found"),
    "one image less": (
        lambda root: shutil.copy(root / MAP, (root / MAP).with_name("aachen_000009_000019_gtFine_instanceIds.png")),
        "aachen_000009_000019_gtFine_instanceIds.png has no image in .*leftImg8bit",
    ),
    "corrupt image": (lambda root: (root / IMAGE).write_text("no"), "leftImg8bit.png is not an image"),
    "no images": (lambda root: shutil.rmtree(root / "leftImg8bit"), "has no folder leftImg8bit"),
    "no ground truth": (lambda root: shutil.rmtree(root / "gtFine"), "has no folder gtFine"),
}


@pytest.mark.parametrize("fault", MAP_FAULTS)
def test_invalid_maps_are_reported_by_name(root: Path, fault: str) -> None:
    damage, message = MAP_FAULTS[fault]
    damage(root)
    with pytest.raises(DataError, match=message):
        converted(root)
    assert not list(root.parent.glob("out/annotations/*.json"))


def test_a_link_out_of_the_folder_is_rejected(root: Path) -> None:
    (root / MAP).rename(root.parent / "outside.png")
    (root / MAP).symlink_to(root.parent / "outside.png")
    with pytest.raises(DataError, match="points outside"):
        converted(root)


def test_a_missing_split(root: Path) -> None:
    with pytest.raises(DataError, match="has no split train: .*available splits: val"):
        converted(root, "train")


def change_row(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][0]["segments_info"][0].update(fields)


def change_annotation(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][0].update(fields)


def one_of_each(content: dict[str, Any]) -> None:
    content["annotations"][0]["segments_info"][-1]["category_id"] = 13


def with_a_foreign_id(content: dict[str, Any]) -> None:
    with_categories(content)
    content["annotations"][0]["segments_info"][0]["category_id"] = 99


JSON_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no annotations": (lambda content: content.clear(), "is missing the lists annotations"),
    "neither id": (change_row(category_id=8), r"segment 7 of .* has the category id 8; expected 7 .* or 0"),
    "now the one, now the other": (one_of_each, r"segment 26001 .* category id 13; expected 26 .* throughout"),
    "id out of range": (change_row(category_id=4000), "has the category_id 4000"),
    "ids of no convention": (change_row(id=4711000), "segment id 4711000 .* is neither a label id"),
    "segment without pixels": (change_row(id=11, category_id=11), "11 only in its segments_info"),
    "unknown category": (lambda c: c.update(categories=[{"id": 7, "name": "street"}]), "a category is .*street"),
    "foreign category id": (with_a_foreign_id, "segment 7 has the category id 99; expected a label id"),
    "categories no list": (lambda c: c.update(categories="road"), "a category is 'road'"),
    "PNG outside": (change_annotation(file_name="../../a.png"), "points outside"),
    "absolute PNG": (change_annotation(file_name="/etc/a.png"), "points outside"),
    "image outside": (change_annotation(image_id="../../ulm_1"), "points outside"),
    "image missing": (change_annotation(image_id="ulm_000000_000020"), "000020_leftImg8bit.png is missing"),
    "PNG missing": (change_annotation(file_name="other.png"), "other.png is missing"),
}


@pytest.mark.parametrize("fault", JSON_FAULTS)
def test_invalid_panoptic_jsons_are_reported_by_name(tmp_path: Path, fault: str) -> None:
    change, message = JSON_FAULTS[fault]
    ready(tmp_path / "in", change)
    with pytest.raises(DataError, match=message):
        converted(tmp_path / "in")
    assert not list(tmp_path.glob("out/annotations/*.json"))
