"""Reading panoptic JSONs, compared with a plain loop; invalid files are in test_coco_panoptic.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco import panoptic_json
from panformer_cli.data.coco.panoptic_json import read_annotation, read_predictions
from panformer_cli.errors import DataError
from tests.data.coco.annotation_files import CATEGORIES, expected_content, panoptic_jsons, read_back


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("annotations") / "panoptic_x.json"


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(content=panoptic_jsons())
def test_the_complete_content_is_read(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panoptic_json, "_BLOCK", 2)
        assert read_back(read_annotation(path)) == expected_content(content)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(content=panoptic_jsons())
def test_predictions_are_read_in_their_own_order(path: Path, content: dict[str, Any]) -> None:
    table = CategoryTable.from_coco(CATEGORIES, "test")
    path.write_text(json.dumps({"annotations": content["annotations"]}))
    images = [{"id": row["image_id"], "file_name": ""} for row in content["annotations"]]
    assert read_back(read_predictions(path, table)) == expected_content({**content, "images": images})


def _content(**changes: Any) -> dict[str, Any]:
    segments = [[{"id": 5, "category_id": 3}], [], [{"id": 6, "category_id": 0}, {"id": 7, "category_id": 3}]]
    rows = [{"image_id": k, "file_name": f"{k}.png", "segments_info": found} for k, found in enumerate(segments)]
    images = [{"id": k, "file_name": f"{k}.jpg"} for k in range(3)]
    return {"annotations": rows, "images": images, "categories": CATEGORIES, **changes}


@pytest.mark.parametrize("order", [("images", "annotations", "categories"), ("categories", "annotations", "images")])
@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda rows: rows[2]["segments_info"][1].update(category_id=99), "image 2: segment 7 has the category_id 99;"),
        (lambda rows: rows[2]["segments_info"][0].update(category_id=10**30), "image 2: segment 6 has the category_id"),
        (lambda rows: rows[2]["segments_info"][0].update(category_id=[3]), r"image 2: segment 6 .* category_id \[3\];"),
        (lambda rows: rows[1].update(image_id=77), "image 77 is annotated but not listed in `images`"),
        (lambda rows: rows[1].update(image_id="1"), "image '1' is annotated but not listed in `images`"),
        (lambda rows: rows[1].update(image_id=2), "image 2 is annotated twice"),
    ],
)
def test_contradictions_between_lists_are_reported(
    path: Path, order: tuple[str, ...], edit: Any, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panoptic_json, "_BLOCK", 1)
    content = _content()
    edit(content["annotations"])
    path.write_text(json.dumps({key: content[key] for key in order}))
    with pytest.raises(DataError, match=expected) as caught:
        read_annotation(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
