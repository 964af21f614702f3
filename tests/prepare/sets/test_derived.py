"""Deriving data sets."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.errors import DataError
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.sets.category_map import merged_tables, read_map
from panformer_cli.prepare.sets.choose import stratified
from panformer_cli.prepare.sets.derived import merge, remap, split, subset
from panformer_cli.prepare.sets.existing import ExistingSets, remapped
from panformer_cli.reporting import SilentReporter
from tests.data.coco.coco_files import BALL, BOX, SKY, write_coco
from tests.helpers import run

TABLE = CategoryTable(
    [
        Category(1, "car", True, (1, 2, 3)),
        Category(2, "truck", True),
        Category(5, "sky", False),
        Category(6, "tree", False),
    ]
)


def written(source: ExistingSets, out: Path) -> Path:
    convert(source, out, (), ConvertOptions(), SilentReporter())
    return out


def names(data: CocoPanoptic) -> list[str]:
    return [data.image_info(index).file_name for index in range(len(data))]


def a_map(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "map.yaml"
    path.write_text(text)
    return path


def test_stratified_selection_keeps_class_frequencies() -> None:
    rng = np.random.default_rng(0)
    frequency = np.array([0.9, 0.5, 0.2, 0.05, 0.02])
    has_class = rng.random((2000, 5)) < frequency
    packed = np.packbits(has_class, axis=1)
    chosen = stratified(packed, 500, 3).tolist()
    assert len(set(chosen)) == 500 and chosen == sorted(chosen) == stratified(packed, 500, 3).tolist()
    found, expected = has_class[chosen].sum(0), has_class.sum(0) / 4
    assert np.abs(found - expected).max() <= 8 and np.abs(found - expected)[3:].max() <= 1
    by_chance = [np.abs(has_class[rng.choice(2000, 500, replace=False)].sum(0) - expected).max() for _ in range(20)]
    assert np.abs(found - expected).max() < np.mean(by_chance)


@pytest.mark.parametrize("count", [0, 1, 7, 12])
def test_stratified_selection_has_the_requested_size(count: int) -> None:
    has_class = np.zeros((12, 3), np.bool_)
    has_class[:4, 0] = has_class[3:6, 1] = True  # half of the images have no segments
    assert len(stratified(np.packbits(has_class, axis=1), count, 0)) == count


def test_a_subset_has_the_same_images_and_annotations(tmp_path: Path) -> None:
    write_coco(tmp_path / "in", images=10)
    whole = CocoPanoptic(tmp_path / "in", "val")
    out = written(subset(tmp_path / "in", (), 4, seed=1), tmp_path / "out")
    part = CocoPanoptic(out, "val")
    assert len(part) == 4 and set(names(part)) < set(names(whole)) and part.categories == whole.categories
    for sample in part:
        (same,) = (other for other in whole if other.image_id == sample.image_id)
        assert np.array_equal(sample.image, same.image) and np.array_equal(sample.annotation.ids, same.annotation.ids)
        by_id = {segment.id: segment for segment in same.annotation.segments}
        assert {segment.id: segment for segment in sample.annotation.segments} == by_id


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_subset_from_a_list_of_ids_and_names(tmp_path: Path, encoding: str) -> None:
    write_coco(tmp_path / "in", images=5)
    chosen = tmp_path / "list.txt"
    chosen.write_text("103\n\n 1.png \n103\n", encoding=encoding)
    out = written(subset(tmp_path / "in", ["val"], chosen), tmp_path / "out")
    assert names(CocoPanoptic(out, "val")) == ["1.png", "3.png"]
    chosen.write_text("103\nnowhere.png\n")
    with pytest.raises(DataError, match="line 2: no image has the id or file name 'nowhere.png'"):
        subset(tmp_path / "in", ["val"], chosen)
    with pytest.raises(DataError, match="annotates only 5 images; expected 6 or more"):
        subset(tmp_path / "in", (), 6)


def test_the_faster_decoder_is_loaded_only_if_a_split_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: list[int] = []
    monkeypatch.setattr("panformer_cli.prepare.convert.expect_reads", expected.append)
    write_coco(tmp_path / "in", images=5)
    for _ in range(2):
        written(subset(tmp_path / "in", (), 4), tmp_path / "out")
    assert expected == [4]


@pytest.mark.parametrize(("val", "held_out"), [(0.2, 2), (3, 3)])
def test_split_has_no_common_images(tmp_path: Path, val: float, held_out: int) -> None:
    write_coco(tmp_path / "in", images=10)
    out = written(split(tmp_path / "in", None, val), tmp_path / "out")
    train, held = names(CocoPanoptic(out, "train")), names(CocoPanoptic(out, "val"))
    assert len(held) == held_out and sorted(train + held) == sorted(names(CocoPanoptic(tmp_path / "in", "val")))
    with pytest.raises(DataError, match="at least one image in each split"):
        split(tmp_path / "in", None, 10)


def test_remapping_merges_segments(tmp_path: Path) -> None:
    ids = np.array([[1, 1, 2, 2], [3, 3, 4, 4], [0, 5, 5, 5]], np.int32)
    segments = tuple(
        Segment(number, category, int((ids == number).sum()), (0, 0, 1, 1), crowd)
        for number, category, crowd in [(1, 1, False), (2, 2, True), (3, 5, False), (4, 6, False), (5, 1, False)]
    )
    table = CategoryTable([Category(1, "vehicle", True), Category(6, "nature", False)])
    result = remapped(PanopticMap(ids, segments), {1: 1, 2: 1, 5: 6, 6: 6}, table)
    assert result.ids.tolist() == [[1, 1, 2, 2], [3, 3, 3, 3], [0, 5, 5, 5]]
    assert [(s.id, s.category_id, s.area, s.bbox, s.is_crowd) for s in result.segments] == [
        (1, 1, 2, (0, 0, 2, 1), False),
        (2, 1, 2, (2, 0, 2, 1), True),
        (3, 6, 4, (0, 1, 4, 1), False),
        (5, 1, 3, (1, 2, 3, 1), False),
    ]
    void = remapped(PanopticMap(ids, segments), {1: None, 2: 6, 5: None, 6: 6}, table)
    assert void.ids.tolist() == [[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 0, 0]]
    assert [(s.id, s.category_id, s.is_crowd) for s in void.segments] == [(2, 6, False)]


def test_a_remapped_set_on_disk(tmp_path: Path) -> None:
    write_coco(tmp_path / "in")
    path = a_map(tmp_path, "box: toy\nball: toy\n")
    data = CocoPanoptic(written(remap(tmp_path / "in", (), path), tmp_path / "out"), "val")
    assert [(c.id, c.name, c.is_thing) for c in data.categories.categories] == [(1, "toy", True), (SKY, "sky", False)]
    assert {segment.category_id for segment in data[0].annotation.segments} == {1, SKY}
    assert np.array_equal(data[0].annotation.ids, CocoPanoptic(tmp_path / "in", "val")[0].annotation.ids)


def test_category_maps(tmp_path: Path) -> None:
    row = "{name: above, id: 40, isthing: 1, color: [9, 9, 9]}"
    text = f"map: {{truck: car, tree: void, sky: above}}\ncategories:\n  - {row}\n"
    table, new_id = read_map(a_map(tmp_path, text), TABLE)
    assert table == CategoryTable([Category(1, "car", True, (1, 2, 3)), Category(40, "above", True, (9, 9, 9))])
    assert new_id == {1: 1, 2: 1, 5: 40, 6: None}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bus: car", "has 'bus', which is not in the data set"),
        ("car: mixed\nsky: mixed", "things and stuff are both mapped to 'mixed'"),
        ("car: void\ntruck: void\nsky: void\ntree: void", "all categories become void"),
        ("car: 3", "has 'car': 3"),
        ("- car", r"is \['car'\]"),
        ("", "is empty"),
        ("car: [", "cannot be read"),
        ("map: {car: a}\ncategories: [{name: b}]", "no category is mapped to 'b'"),
        ("map: {car: a}\ncategories: [{name: a, isthing: 3}]", "has isthing 3"),
        ("map: {car: a}\ncategories: [a]", "expected an object with a name"),
        ("map: {car: a}\ncategories: [{name: a, id: 5}]", "appear more than once"),
    ],
)
def test_invalid_category_maps(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_map(a_map(tmp_path, text), TABLE)


def test_tables_are_merged_by_name() -> None:
    second = CategoryTable(
        [Category(1, "sky", False), Category(2, "dog", True), Category(9, "cat", True), Category(5, "car", True)]
    )
    table, new_id = merged_tables(TABLE, second, "a and b")
    assert new_id == {1: 5, 2: 3, 9: 9, 5: 1}
    assert Counter(category.id for category in table.categories) == Counter([1, 2, 5, 6, 3, 9])
    assert table.by_id(3) == Category(3, "dog", True)
    with pytest.raises(DataError, match="'car' is a thing in the first and stuff in the second"):
        merged_tables(TABLE, CategoryTable([Category(1, "car", False)]), "a and b")


def test_merging_two_data_sets(tmp_path: Path) -> None:
    write_coco(tmp_path / "a", images=2)
    write_coco(tmp_path / "b", images=3)
    write_coco(tmp_path / "b2", images=1, split="train")
    for part in ("images/train", "annotations/panoptic_train", "annotations/panoptic_train.json"):
        (tmp_path / "b2" / part).rename(tmp_path / "b" / part)
    path = a_map(tmp_path, "box: parcel\n")
    source = merge(tmp_path / "a", tmp_path / "b", (), path)
    out = written(source, tmp_path / "out")
    val, train = CocoPanoptic(out, "val"), CocoPanoptic(out, "train")
    assert names(val) == ["0.png", "1.png", "b/0.png", "b/1.png", "b/2.png"] and names(train) == ["b/0.png"]
    assert [val.image_info(index).id for index in range(5)] == [100, 101, 103, 104, 102]
    parcel = {category.name: category.id for category in val.categories.categories}["parcel"]
    assert {segment.category_id for segment in val[0].annotation.segments} == {BOX, BALL, SKY}
    assert {segment.category_id for segment in val[4].annotation.segments} == {parcel, BALL, SKY}
    assert np.array_equal(val[4].annotation.ids, CocoPanoptic(tmp_path / "b", "val")[2].annotation.ids)


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (-3, [-3, -2, -1, 0]),
        (-2, [-2, -1, 0, 1]),
        (2**63 - 1, [2**63 - 1, 2**63, 2**63 + 1, 2**63 + 2]),
        (2**70, [2**70, 2**70 + 1, 2**70 + 2, 2**70 + 3]),
    ],
)
def test_ids_of_any_size_can_be_merged(tmp_path: Path, first: int, expected: list[int]) -> None:
    for name in ("a", "b"):
        path = write_coco(tmp_path / name, images=2)
        text = path.read_text().replace('"id": 100,', f'"id": {first},').replace('"id": 101,', f'"id": {first + 1},')
        text = text.replace('"image_id": 100', f'"image_id": {first}').replace(
            '"image_id": 101', f'"image_id": {first + 1}'
        )
        path.write_text(text)
    source = merge(tmp_path / "a", tmp_path / "b", ())
    assert [image.id for image in source.images("val")] == expected


def test_a_merged_data_set_does_not_overwrite_its_parts(tmp_path: Path) -> None:
    write_coco(tmp_path / "a", images=2)
    write_coco(tmp_path / "b", images=2)
    (tmp_path / "b" / "images").rename(tmp_path / "images")
    (tmp_path / "b" / "coco").mkdir()
    (tmp_path / "images").rename(tmp_path / "b" / "coco" / "images")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for out in ("b", "b/coco"):
        with pytest.raises(DataError, match="is inside the input folder"):
            written(merge(tmp_path / "a", tmp_path / "b" / "coco", ()), tmp_path / out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_ids_that_differ_only_in_type_are_the_same(tmp_path: Path) -> None:
    write_coco(tmp_path / "a", images=2)
    path = write_coco(tmp_path / "b", images=2)
    path.write_text(
        path.read_text().replace('"id": 101,', '"id": "101",').replace('"image_id": 101', '"image_id": "101"')
    )
    source = merge(tmp_path / "a", tmp_path / "b", ())
    assert [image.id for image in source.images("val")] == [100, 101, 102, 103]


def test_a_data_set_cannot_be_merged_with_itself(tmp_path: Path) -> None:
    write_coco(tmp_path / "a")
    (tmp_path / "again").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match="are the same data set"):
        merge(tmp_path / "a", tmp_path / "again", ())


def test_splits_with_different_categories_are_rejected(tmp_path: Path) -> None:
    write_coco(tmp_path)
    write_coco(tmp_path / "other", split="train")
    annotation = tmp_path / "other" / "annotations" / "panoptic_train.json"
    content: dict[str, Any] = json.loads(annotation.read_text())
    content["categories"][0]["name"] = "crate"
    annotation.write_text(json.dumps(content))
    for part in ("images/train", "annotations/panoptic_train", "annotations/panoptic_train.json"):
        (tmp_path / "other" / part).rename(tmp_path / part)
    with pytest.raises(DataError, match="have different categories"):
        subset(tmp_path, (), 1)
    with pytest.raises(DataError, match="choose one of them with --split"):
        split(tmp_path, None, 0.5)


@pytest.mark.parametrize(
    "arguments",
    [
        ["subset", "--images", "2"],
        ["split", "--val", "1", "--split", "val"],
        ["remap", "--map", "MAP"],
        ["merge", "--with", "OTHER"],
    ],
)
def test_the_commands(tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "in")
    write_coco(tmp_path / "other")
    paths = {"MAP": str(a_map(tmp_path, "ball: void")), "OTHER": str(tmp_path / "other")}
    words = [paths.get(argument, argument) for argument in arguments]
    where = ["--root", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert run("prepare-data", *words, *where) == 0
    assert len(CocoPanoptic(tmp_path / "out", "val")) == {"subset": 2, "split": 1, "remap": 3, "merge": 6}[arguments[0]]
    assert "Next: panformer prepare-data verify" in capsys.readouterr().out


def test_images_outside_of_their_folder_are_rejected(tmp_path: Path) -> None:
    write_coco(tmp_path / "in")
    annotation = tmp_path / "in" / "annotations" / "panoptic_val.json"
    content: dict[str, Any] = json.loads(annotation.read_text())
    content["images"][1]["file_name"] = "../../secret.png"
    annotation.write_text(json.dumps(content))
    Image.new("RGB", (60, 40)).save(tmp_path / "secret.png")
    with pytest.raises(DataError, match="points outside"):
        written(subset(tmp_path / "in", (), 3), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize("val", [float("nan"), float("inf"), 1.5, -1])
def test_an_invalid_number_of_validation_images(tmp_path: Path, val: float) -> None:
    write_coco(tmp_path, images=4)
    with pytest.raises(DataError, match="expected an integer that leaves at least"):
        split(tmp_path, None, val)


def test_a_list_with_no_image_or_an_ambiguous_name(tmp_path: Path) -> None:
    annotation = write_coco(tmp_path / "in", images=2)
    (tmp_path / "in/images/val/town").mkdir()
    (tmp_path / "in/images/val/1.png").rename(tmp_path / "in/images/val/town/0.png")
    content: dict[str, Any] = json.loads(annotation.read_text())
    content["images"][1]["file_name"] = "town/0.png"
    annotation.write_text(json.dumps(content))
    chosen = tmp_path / "list.txt"
    chosen.write_text("town/0.png\n0.png\n")
    with pytest.raises(DataError, match="line 2: 2 images have the id or file name '0.png'"):
        subset(tmp_path / "in", (), chosen)
    chosen.write_text("\n \n")
    with pytest.raises(DataError, match="lists no images"):
        subset(tmp_path / "in", (), chosen)
    chosen.write_text("town/0.png\n101\n")
    assert names(CocoPanoptic(written(subset(tmp_path / "in", (), chosen), tmp_path / "out"), "val")) == ["town/0.png"]


def test_ambiguous_category_names_are_rejected(tmp_path: Path) -> None:
    twice = CategoryTable([Category(1, "tree", True), Category(2, "tree", False), Category(3, "car", True)])
    words = "categories 1 and 2 are both named 'tree'"
    with pytest.raises(DataError, match=words):
        read_map(a_map(tmp_path, "car: truck"), twice)
    for pair in ((twice, TABLE), (TABLE, twice)):
        with pytest.raises(DataError, match=words):
            merged_tables(*pair, "a and b")


def test_images_without_annotation_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotation = write_coco(tmp_path / "in")
    content: dict[str, Any] = json.loads(annotation.read_text())
    content["images"].append({"id": 900, "file_name": "lonely.png", "height": 40, "width": 60})
    annotation.write_text(json.dumps(content))
    options = ["--root", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert run("prepare-data", "split", "--val", "1", *options) == 0
    err = capsys.readouterr().err
    assert "skipped 1 image, listed but not annotated" in err and "lonely.png" in err
