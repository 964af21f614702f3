"""Reading predictions with their ground truth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panformer_cli.data.coco.panoptic_pairs import PanopticPairs
from panformer_cli.errors import DataError
from tests.data.coco.coco_files import BALL, BOX, SKY, scene
from tests.data.coco.pair_files import write_pairs


def test_a_pair_is_read_as_it_was_written(tmp_path: Path) -> None:
    files = write_pairs(tmp_path)
    pairs = PanopticPairs(files.truth.json, files.prediction.json)
    assert len(pairs) == 3
    prediction, truth = pairs[1]
    ids, segments = scene(1)
    assert (truth.ids == ids).all()
    assert [(s.id, s.category_id, s.area, s.is_crowd, s.score) for s in truth.segments] == [
        (300, SKY, segments[0]["area"], False, None),
        (70001, BOX, segments[1]["area"], False, None),
        (5, BALL, segments[2]["area"], True, None),
    ]
    assert [(s.id, s.category_id, s.area, s.bbox, s.score) for s in prediction.segments] == [
        (1, SKY, 1200 - 210, (0, 0, 60, 20), 0.5),
        (2, BOX, 210, (12, 5, 21, 10), 1.0),
    ]
    assert np.unique(prediction.ids).tolist() == [0, 1, 2]
    assert (pairs.image_info(1).id, pairs.image_info(1).file_name) == (101, "1.jpg")
    assert (pairs.truth_path(1), pairs.prediction_path(1)) == (files.truth.png(1), files.prediction.png(1))


def test_images_are_in_the_order_of_the_ground_truth(tmp_path: Path) -> None:
    files = write_pairs(tmp_path)
    files.prediction.edit(lambda content: content["annotations"].reverse())
    files.prediction.edit(
        lambda content: content["annotations"].append({"image_id": 7, "file_name": "7.png", "segments_info": []})
    )
    files.truth.edit(lambda content: content["images"].append({"id": 8, "file_name": "8.jpg"}))
    pairs = PanopticPairs(files.truth.json, files.prediction.json)
    assert len(pairs) == 3
    assert [pairs.image_info(index).id for index in range(3)] == [100, 101, 102]
    assert [pairs.prediction_path(index).name for index in range(3)] == ["0.png", "1.png", "2.png"]
    for index in range(3):
        prediction, truth = pairs[index]
        assert (prediction.ids == 2).sum() == (truth.ids == 70000 + index).sum() == 10 * (20 + index)


def test_images_that_are_not_annotated_are_counted_and_a_ground_truth_without_any_is_refused(tmp_path: Path) -> None:
    files = write_pairs(tmp_path)
    files.truth.edit(lambda content: content["annotations"].pop())
    assert PanopticPairs(files.truth.json, files.prediction.json).notes == [
        f"{files.truth.json} annotates 2 of its 3 images; 1 left out"
    ]
    files.truth.edit(lambda content: content["annotations"].clear())
    with pytest.raises(
        DataError, match=r"truth\.json annotates none of its 3 listed images; expected at least one row"
    ):
        PanopticPairs(files.truth.json, files.prediction.json)


def renumber(content: dict[str, Any], ids: dict[int, int]) -> None:
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["category_id"] = ids[segment["category_id"]]


@pytest.mark.parametrize(
    ("categories", "problem"),
    [
        pytest.param([(BOX, "box"), (SKY, "sky")], "", id="equal"),
        pytest.param([(BOX, "Box "), (SKY, "SKY")], "", id="case and spaces"),
        pytest.param([(BOX, "crate"), (SKY, "sky"), (99, "sun")], "", id="other names"),
        pytest.param([(BOX, "sky"), (99, "sky")], "", id="a name twice"),
        pytest.param([(SKY, "box"), (BOX, "sky")], "2 classes differently", id="swapped"),
        pytest.param([(0, "box"), (1, "sky")], "2 classes differently", id="numbered from 0"),
    ],
)
def test_classes_with_other_ids_than_in_the_ground_truth_are_paired_by_name(
    categories: list[tuple[Any, Any]], problem: str, tmp_path: Path
) -> None:
    files = write_pairs(tmp_path)
    before = [
        segment.category_id
        for segment in PanopticPairs(files.truth.json, files.prediction.json).predictions.segments(0)
    ]
    rows = [{"id": number, "name": name} for number, name in categories]
    files.prediction.edit(lambda content: content.update(categories=[*rows, 7]))
    if problem:
        id_of = {name: number for number, name in categories}
        files.prediction.edit(lambda content: renumber(content, {BOX: id_of["box"], SKY: id_of["sky"]}))
    pairs = PanopticPairs(files.truth.json, files.prediction.json)
    assert [segment.category_id for segment in pairs.predictions.segments(0)] == before
    assert len(pairs.notes) == bool(problem)
    assert not problem or f"prediction.json numbers {problem} from the ground truth ('" in pairs.notes[0]


def test_a_class_that_cannot_be_paired_by_name_is_refused(tmp_path: Path) -> None:
    files = write_pairs(tmp_path)
    rows = [{"id": BOX + 1, "name": "box"}, {"id": None, "name": "sky"}, {"id": SKY, "name": None}]
    files.prediction.edit(lambda content: content.update(categories=rows))
    with pytest.raises(
        DataError, match=rf"category_id {SKY}, and `categories` has no name for it .* paired by name; use the"
    ):
        PanopticPairs(files.truth.json, files.prediction.json)


def test_whole_numbers_with_a_fraction_are_integers(tmp_path: Path) -> None:
    files = write_pairs(tmp_path)
    plain = PanopticPairs(files.truth.json, files.prediction.json)[1]
    for file in (files.truth, files.prediction):
        file.json.write_text(
            re.sub(r'("(?:id|image_id|category_id|isthing|height)": \d+)', r"\1.0", file.json.read_text())
        )
    pairs = PanopticPairs(files.truth.json, files.prediction.json)
    assert '"id": 101.0' in files.truth.json.read_text()
    assert [side.segments for side in pairs[1]] == [side.segments for side in plain]
    assert [type(info.id) for info in pairs.truth.images] == [int] * 3


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("image_id", 100.5, "an integer or text"),
        ("file_name", None, "the name of a PNG"),
        ("segments_info", {}, "a list"),
    ],
)
def test_a_wrong_value_of_an_annotation_is_named(key: str, value: Any, expected: str, tmp_path: Path) -> None:
    files = write_pairs(tmp_path)
    files.prediction.edit(lambda content: content["annotations"][0].update({key: value}))
    with pytest.raises(DataError, match=rf"an annotation has the {key} .*; expected {expected}"):
        PanopticPairs(files.truth.json, files.prediction.json)


def test_listed_areas_are_kept_and_missing_ones_are_counted(tmp_path: Path) -> None:
    files = write_pairs(tmp_path)
    files.truth.edit(lambda content: content["annotations"][0]["segments_info"][0].update(area=0))
    files.truth.edit(lambda content: content["annotations"][0]["segments_info"][1].pop("area"))
    files.truth.edit(lambda content: content["annotations"][0]["segments_info"][2].update(area=12.0))
    _, truth = PanopticPairs(files.truth.json, files.prediction.json)[0]
    assert [segment.area for segment in truth.segments] == [0, 200, 12]


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_out_of_range_is_an_error(index: int, tmp_path: Path) -> None:
    files = write_pairs(tmp_path)
    with pytest.raises(IndexError):
        PanopticPairs(files.truth.json, files.prediction.json)[index]


def test_a_corrupt_pair_does_not_affect_the_others(tmp_path: Path) -> None:
    files = write_pairs(tmp_path)
    files.truth.png(1).write_bytes(files.truth.png(1).read_bytes()[:60])
    pairs = PanopticPairs(files.truth.json, files.prediction.json)
    pairs[0], pairs[2]
    with pytest.raises(DataError, match=r"truth/1\.png is corrupt or truncated"):
        pairs[1]


def test_a_missing_folder_is_reported_with_its_option(tmp_path: Path) -> None:
    files = write_pairs(tmp_path)
    for side, option, position in ((files.truth, "--gt-folder", 0), (files.prediction, "--pred-folder", 1)):
        moved = side.pngs.rename(tmp_path / "moved")
        with pytest.raises(DataError, match=rf"the folder of PNGs {side.pngs} of {side.json} does not.*{option}"):
            PanopticPairs(files.truth.json, files.prediction.json)
        folders = [moved if position == number else None for number in range(2)]
        assert len(PanopticPairs(files.truth.json, files.prediction.json, *folders)) == 3
        moved.rename(side.pngs)
