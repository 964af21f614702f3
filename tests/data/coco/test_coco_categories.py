"""The table of COCO's categories, compared with COCO's annotation file."""

from __future__ import annotations

import json
from pathlib import Path

from panformer_cli.data.coco.coco_categories import COCO


def test_the_table_equals_that_of_the_annotation(shared: Path) -> None:
    annotation = shared / "data" / "coco_mini" / "annotations" / "panoptic_val2017.json"
    rows = json.loads(annotation.read_text())["categories"]
    ours = {row.id: (row.name, row.is_thing) for row in COCO.categories}
    assert ours == {row["id"]: (row["name"], bool(row["isthing"])) for row in rows}


def test_counts_and_order() -> None:
    """Spec, section 9: 80 things, then 53 stuff classes, each in ascending dataset id."""
    assert (COCO.num_things, COCO.num_stuff) == (80, 53)
    assert [COCO.by_label(label).name for label in (0, 79, 80, 132)] == ["person", "toothbrush", "banner", "rug-merged"]
