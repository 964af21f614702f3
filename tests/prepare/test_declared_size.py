"""Declared image sizes, of every type that JSON has."""

from __future__ import annotations

from typing import Any

import pytest

from panformer_cli.errors import DataError
from panformer_cli.prepare.declared_size import check_size


@pytest.mark.parametrize("declared", [(3, 4), (3.0, 4), (None, 4), (3, None), (None, None)])
def test_equal_or_missing_sizes_are_accepted(declared: tuple[Any, Any]) -> None:
    check_size(declared, (3, 4), "a.json")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            (3, 5),
            r"^a.json is for an image of 5x3 but the image is displayed as 4x3 \(width x height\); expected equal",
        ),
        ((4, 3), "3x4 but the image is displayed as 4x3 .*EXIF orientation"),
        ((None, 5), "5x3 but the image is displayed as 4x3"),
        (("3", "4"), "^a.json: the height is the text '3'; expected a number"),
        ((3, "4"), "the width is the text '4'; expected a number"),
        ((True, 4), "the height is True; expected a number"),
        (([3], 4), r"the height is \[3\]; expected a number"),
        ((float("nan"), 4), "4xnan but the image is displayed as 4x3"),
        ((float("inf"), 4), "4xinf but"),
    ],
)
def test_other_sizes_are_refused_for_the_true_reason(declared: tuple[Any, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_size(declared, (3, 4), "a.json")
