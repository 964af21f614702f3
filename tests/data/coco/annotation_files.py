"""Panoptic annotations as hypothesis makes them, and what they say, spelt out in a plain loop."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from panformer_cli.data.coco.panoptic_annotation import PanopticAnnotation

CATEGORIES = [
    {"id": 10**12, "name": "ä thing", "isthing": 1, "color": [1, 2, 3]},
    {"id": 3, "name": "ball", "isthing": 1},
    {"id": 0, "name": "sky", "isthing": 0},
]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(-(2.0**53), 2.0**53)
SIZES = st.none() | st.integers(1, 700) | st.integers(1, 10**30)
IDS = st.integers() | st.text(max_size=5)


@st.composite
def segments(draw: st.DrawFn) -> dict[str, Any]:
    """A row of `segments_info`, its id aside: all that may be left out, sometimes is."""
    usual = st.integers(0, 700)
    whole = {
        "category_id": draw(st.sampled_from([row["id"] for row in CATEGORIES])),
        "area": draw(st.none() | usual | st.integers(0, 2**53)),
        "bbox": draw(st.none() | st.lists(usual | NUMBERS, min_size=4, max_size=4)),
        "iscrowd": draw(st.sampled_from([0, 1])),
        "score": draw(st.none() | st.floats(0, 10)),
    }
    return {
        key: value for key, value in whole.items() if key == "category_id" or value is not None or draw(st.booleans())
    }


@st.composite
def panoptic_jsons(draw: st.DrawFn) -> dict[str, Any]:
    """The content of a panoptic JSON: lists in any order, images without annotation, segments without geometry."""
    ids = draw(st.lists(IDS, max_size=6, unique=True))
    images = [
        {"id": i, "file_name": draw(NAMES), "height": draw(SIZES), "width": draw(SIZES), "coco_url": "x"} for i in ids
    ]
    rows = []
    for image_id in draw(st.permutations(ids))[: draw(st.integers(0, 6))]:
        numbers = draw(st.lists(st.integers(1, 2**24 - 1), max_size=4, unique=True))
        info = [{"id": number, **draw(segments())} for number in numbers]
        rows.append({"image_id": image_id, "file_name": draw(NAMES), "segments_info": info})
    content = {"images": images, "annotations": rows, "categories": CATEGORIES, "info": {"year": 2017}}
    return {key: content[key] for key in draw(st.permutations(list(content)))}


def told(content: dict[str, Any]) -> list[Any]:
    """What the content says, as `read_back` says it: NaN as None, so that it can be compared."""
    rows = {row["image_id"]: row for row in content["annotations"]}
    images = [image for image in content["images"] if image["id"] in rows]
    return [
        [(i["id"], i["file_name"], rows[i["id"]]["file_name"], i.get("height"), i.get("width")) for i in images],
        [[_segment(segment) for segment in rows[image["id"]]["segments_info"]] for image in images],
        [image["file_name"] for image in content["images"] if image["id"] not in rows],
        sorted((row["id"], row["name"], row["isthing"], row.get("color")) for row in content["categories"]),
    ]


def _segment(row: dict[str, Any]) -> tuple[Any, ...]:
    area, bbox = row.get("area"), row.get("bbox")
    return (
        row["id"],
        row["category_id"],
        -1 if area is None else area,
        [None] * 4 if bbox is None else bbox,
        bool(row.get("iscrowd", 0)),
        row.get("score"),
    )


def read_back(annotation: PanopticAnnotation) -> list[Any]:
    """All that can be asked of an annotation."""
    segments_of = [annotation.segments(index) for index in range(len(annotation.images))]
    # NumPy's small floats are equal to Python's, but do not count like them.
    assert {type(x) for found in segments_of for s in found for x in s.bbox} <= {float}
    assert {type(x) for found in segments_of for s in found for x in (s.id, s.area)} <= {int}
    rows = [
        [
            (s.id, s.category_id, s.area, [None if math.isnan(x) else x for x in s.bbox], s.is_crowd, s.score)
            for s in segments
        ]
        for segments in segments_of
    ]
    table = annotation.categories.categories
    return [
        [(info.id, info.file_name, info.png_name, info.height, info.width) for info in annotation.images],
        rows,
        list(annotation.unannotated),
        sorted((c.id, c.name, int(c.is_thing), list(c.color) if c.color else None) for c in table),
    ]
