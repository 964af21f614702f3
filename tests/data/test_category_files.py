"""Files with categories, and label maps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from panformer_cli.data.category_files import read_categories, read_label_map
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.errors import DataError


def test_a_label_map_has_category_ids_by_label_or_name(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text('{"person": 1, "3": 7}')
    assert read_label_map(path) == {"person": 1, "3": 7}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("{", "is not valid JSON, or is truncated"),
        ("[1]", "the label map is [1]; expected category ids by label or name"),
        ('{"a": "1"}', "'a' has the category id '1'; expected"),
        ('{"a": true}', "'a' has the category id True; expected"),
        ('{"a": 1.5}', "'a' has the category id 1.5; expected"),
        ('{"a": null}', "'a' has the category id None; expected"),
        (b"\xff\xfe", "is not valid JSON"),
        ('{"a": 1, "b": 1, "a": 2}', "the label 'a' is in the label map more than once; give it once"),
    ],
)
def test_other_label_maps_are_refused(text: str | bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        read_label_map(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def test_categories_are_those_of_a_panoptic_json_or_a_list(tmp_path: Path) -> None:
    for content in ({"categories": COCO.to_coco(), "images": []}, COCO.to_coco()):
        path = tmp_path / "categories.json"
        path.write_text(json.dumps(content))
        assert read_categories(path) == COCO
    path.write_text("{}")
    with pytest.raises(DataError, match="categories.json: the category table is empty"):
        read_categories(path)
