"""Reading the panoptic JSON and its files, and checking them against each other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_json import read_annotation
from panformer_cli.data.structures import Segment
from panformer_cli.errors import DataError, PanformerError
from tests.data.coco.coco_files import BALL, BOX, SKY, colors, scene, write_coco


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_a_sample_equals_what_was_written(tmp_path: Path) -> None:
    write_coco(tmp_path)
    data = CocoPanoptic(tmp_path, "val")
    assert len(data) == len(list(data)) == 3
    assert [category.id for category in data.categories.categories] == [BALL, BOX, SKY]
    sample = data[1]
    assert (sample.image_id, sample.file_name) == (101, "1.png")
    assert sample.image.shape == (40, 60, 3) and np.unique(sample.image).tolist() == [30]
    assert np.array_equal(sample.annotation.ids, scene(1)[0])
    assert sample.annotation.segments[1] == Segment(70001, BOX, 210, (10.0, 5.0, 21.0, 10.0))
    assert [segment.is_crowd for segment in sample.annotation.segments] == [False, False, True]


def test_infos_and_annotations_do_not_open_the_image(tmp_path: Path) -> None:
    write_coco(tmp_path)
    data = CocoPanoptic(tmp_path, "val")
    data.image_path(2).unlink()
    info = data.image_info(2)
    assert (info.id, info.file_name, info.png_name) == (102, "2.png", "2.mask.png")
    assert (info.height, info.width) == (40, 60)
    assert np.array_equal(data.annotation(2).ids, scene(2)[0])
    with pytest.raises(IndexError):
        data.image_info(3)


def test_geometry_missing_from_the_json_is_computed(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    expected = CocoPanoptic(tmp_path, "val").annotation(0)

    def drop(content: dict[str, Any]) -> None:
        for segment in content["annotations"][0]["segments_info"]:
            del segment["area"], segment["bbox"]

    change(path, drop)
    assert CocoPanoptic(tmp_path, "val").annotation(0).segments == expected.segments


def test_images_without_annotation_are_left_out_on_request_only(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    change(path, lambda content: content["annotations"].pop(1))
    with pytest.raises(DataError, match="lists 1 image without annotation, first "):
        CocoPanoptic(tmp_path, "val")
    data = CocoPanoptic(tmp_path, "val", skip_unannotated=True)
    assert len(data.skipped) == 1 and "does not annotate it" in data.skipped[0]
    assert [data.image_info(number).id for number in range(len(data))] == [100, 102]
    assert [data[number].image_id for number in range(len(data))] == [100, 102]
    change(path, lambda content: content["annotations"].clear())
    with pytest.raises(DataError, match="contains no annotated image"):
        CocoPanoptic(tmp_path, "val")


def _segments(content: dict[str, Any]) -> list[dict[str, Any]]:
    return list(content["annotations"][0]["segments_info"])


BROKEN: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda c: c.pop("images"), "is missing the lists images"),
    (lambda c: (c.pop("annotations"), c.pop("categories")), "is missing the lists annotations, categories"),
    (lambda c: c["categories"].clear(), "category table is empty"),
    (lambda c: c["images"].append(c["images"][0]), "image id 100 appears twice"),
    (lambda c: c["images"].append({"id": 5}), "an image is .*expected an object with id and file_name"),
    (lambda c: c["images"][0].update(height=0), "height 0"),
    (lambda c: c["annotations"].append(c["annotations"][0]), "image 100 is annotated twice"),
    (lambda c: c["annotations"][0].update(image_id=9), "image 9 is annotated but not listed"),
    (lambda c: c["annotations"][0].pop("segments_info"), "an annotation is .*expected image_id"),
    (lambda c: c["annotations"][0].update(segments_info=[1]), "image 100 has the segment 1"),
    (lambda c: _segments(c)[0].update(id=0), "image 100 has the segment"),
    (lambda c: _segments(c)[0].update(id=256**3), "image 100 has the segment"),
    (lambda c: _segments(c)[1].update(id=300), "two segments with id 300"),
    (lambda c: _segments(c)[0].update(category_id=4), "segment 300 has the category_id 4"),
    (lambda c: _segments(c)[0].pop("category_id"), "segment 300 has the category_id None"),
    (lambda c: _segments(c)[0].update(bbox=[1, 2, 3]), r"bbox \[1, 2, 3\]"),
    (lambda c: _segments(c)[0].update(iscrowd="yes"), "iscrowd 'yes'"),
]


@pytest.mark.parametrize(("edit", "expected"), BROKEN, ids=[expected for _, expected in BROKEN])
def test_an_inconsistent_json_is_rejected(tmp_path: Path, edit: Callable[[dict[str, Any]], Any], expected: str) -> None:
    path = write_coco(tmp_path)
    change(path, edit)
    with pytest.raises(DataError, match=expected) as caught:
        read_annotation(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"), [('{"images": [', "truncated"), ("[1]", "contains a list"), ("", "empty")]
)
def test_a_file_that_is_not_a_panoptic_json_is_rejected(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "panoptic.json"
    path.write_text(text)
    with pytest.raises(DataError, match=expected) as caught:
        read_annotation(path)
    assert str(path) in str(caught.value)


def test_missing_and_corrupt_files_are_named(tmp_path: Path) -> None:
    write_coco(tmp_path)
    data = CocoPanoptic(tmp_path, "val")
    data.image_path(0).unlink()
    data.png_path(1).unlink()
    data.image_path(2).write_bytes(data.image_path(2).read_bytes()[:60])
    for number, path in [(0, data.image_path(0)), (1, data.png_path(1)), (2, data.image_path(2))]:
        with pytest.raises(DataError, match=re.escape(str(path))):
            data[number]


def test_different_sizes_are_reported(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    data = CocoPanoptic(tmp_path, "val")
    Image.new("RGB", (60, 41)).save(data.image_path(0))
    with pytest.raises(DataError, match=r"0\.png is 60x41 but its panoptic PNG .*0\.mask\.png is 60x40"):
        data[0]
    change(path, lambda content: content["images"][1].update(width=61))
    with pytest.raises(DataError, match=r"1\.mask\.png is 60x40 but .*panoptic_val\.json gives 61x40"):
        CocoPanoptic(tmp_path, "val")[1]


def test_sizes_in_the_json_are_optional(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    change(path, lambda content: [content["images"][0].pop(side) for side in ("height", "width")])
    data = CocoPanoptic(tmp_path, "val")
    assert data.image_info(0).height is None and data[0].image.shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("new_id", "expected"),
    [(301, "301 only in the PNG and 300 only in the segments_info"), (0, "300 only in the segments_info")],
)
def test_ids_missing_from_the_png_or_the_json_are_listed(tmp_path: Path, new_id: int, expected: str) -> None:
    write_coco(tmp_path)
    data = CocoPanoptic(tmp_path, "val")
    ids, _ = scene(0)
    ids[ids == 300] = new_id
    Image.fromarray(colors(ids)).save(data.png_path(0))
    with pytest.raises(DataError, match=rf"0\.mask\.png .*disagree: segment ids {expected}; "):
        data[0]


def test_unlisted_ids_are_reported(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    change(path, lambda content: content["annotations"][0]["segments_info"].pop(0))
    with pytest.raises(DataError, match="segment ids 300 only in the PNG; "):
        CocoPanoptic(tmp_path, "val")[0]


@pytest.mark.parametrize("key", ["images", "annotations"])
def test_names_that_leave_the_folder_are_rejected(tmp_path: Path, key: str) -> None:
    path = write_coco(tmp_path)
    change(path, lambda content: content[key][0].update(file_name="../../secret.png"))
    with pytest.raises(PanformerError, match="points outside"):
        CocoPanoptic(tmp_path, "val")[0]


def test_the_official_images_agree_with_their_annotation(shared: Path) -> None:
    data = CocoPanoptic(shared / "data" / "coco_mini", "val2017")
    samples = list(data)
    assert len(data.categories) == 133 and data.categories.num_things == 80
    segments = [segment for sample in samples for segment in sample.annotation.segments]
    assert (len(samples), len(segments), sum(segment.is_crowd for segment in segments)) == (5, 88, 3)
    for sample in samples:
        for segment in sample.annotation.segments:
            assert int((sample.annotation.ids == segment.id).sum()) == segment.area
