"""The compact representation of an annotation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from panformer_cli.data.coco.panoptic_annotation import SEGMENT_ROW, ImageInfo, JsonRows, narrowed

ROWS: list[tuple[Any, ...]] = [
    (7, "ä.jpg", "ä.png", 4, None),
    ("8", 'quo"te.jpg', "8.png", None, 10**30),
    (10**40, "c", "d", 1, 2),
]


def test_json_rows_are_a_sequence() -> None:
    rows, expected = JsonRows.of(ImageInfo, ROWS), tuple(ImageInfo(*row) for row in ROWS)
    assert tuple(rows) == expected and len(rows) == 3
    assert (rows[1], rows[-1], rows[1:], rows[::-1]) == (expected[1], expected[-1], expected[1:], expected[::-1])
    for beyond in (3, -4):
        with pytest.raises(IndexError):
            rows[beyond]
    assert not JsonRows.of(ImageInfo, []) and list(JsonRows.of(str, [])) == []


@pytest.mark.parametrize(
    ("field", "values", "kind"),
    [
        ("id", [1, 2**24 - 1], "<i4"),
        ("label", [0, 132], "<i2"),
        ("label", [0, 127], "|i1"),
        ("area", [-1, 640 * 480], "<i4"),
        ("area", [0, 2**53], "<i8"),
        ("bbox", [[0, 2048, 3, 0.5], [float("nan")] * 4], "<f2"),
        ("bbox", [[0, 2049, 3, 4], [0, 0, 1, 1]], "<f4"),
        ("bbox", [[0.1, 0, 1, 1], [0, 0, 1, 1]], "<f8"),
        ("bbox", [[70000, 0, 1, 1], [0, 0, 1, 1]], "<f4"),
        ("score", [float("nan"), float("nan")], "<f2"),
        ("score", [float("nan"), 0.9], "<f8"),
        ("is_crowd", [True, False], "|b1"),
    ],
)
def test_the_smallest_dtype_that_represents_all_values(field: str, values: list[object], kind: str) -> None:
    rows = np.zeros(2, SEGMENT_ROW)
    rows[field] = values
    small = narrowed(rows)
    assert small.dtype[field].base.str == kind
    assert str(small[field].tolist()) == str(rows[field].tolist())  # as text, NaN equals NaN
