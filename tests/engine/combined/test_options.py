"""The options of inference: what is accepted, what is refused, and what is recorded."""

from __future__ import annotations

from typing import Any

import pytest

from panformer_cli.engine.combined.options import InferenceOptions, View, parse_views
from panformer_cli.errors import PanformerError


@pytest.mark.parametrize(
    ("text", "views"),
    [
        ("flip", [View(), View(flipped=True)]),
        ("scales", [View(), View(0.75), View(1.25)]),
        ("0.5, 2", [View(), View(0.5), View(2.0)]),
        ("1", [View()]),
        ("1.5,flip", [View(), View(flipped=True), View(1.5), View(1.5, True)]),
        ("flip,scales", [View(s, f) for s in (1.0, 0.75, 1.25) for f in (False, True)]),
    ],
)
def test_views(text: str, views: list[View]) -> None:
    assert list(parse_views(text)) == views


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected words"),
        ("flop", "expected words"),
        ("flip,", "expected words"),
        ("5", "from 0.25 to 4"),
        ("nan", "expected words"),
        ("-1", "expected words"),
        ("flip,flip", "flip is there twice"),
        ("0.5,0.50", "0.50 is there twice"),
        ("0.75,scales", "scales is there twice"),
    ],
)
def test_invalid_views(text: str, problem: str) -> None:
    with pytest.raises(PanformerError, match=problem):
        parse_views(text)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"tile_overlap": 16}, "--tile-overlap needs --tile N"),
        ({"tile_whole_image": True}, "--tile-whole-image needs --tile N"),
        ({"tile": 63}, "--tile is 63: expected 64 pixels or more"),
        ({"tile": 64, "tile_overlap": 0}, "--tile-overlap is 0: expected 1 to 32 pixels"),
        ({"tile": 64, "tile_overlap": 33}, "--tile-overlap is 33: expected 1 to 32 pixels"),
    ],
)
def test_invalid_tiles(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(PanformerError, match=problem):
        InferenceOptions(**options)


def test_only_what_is_not_the_default_is_recorded() -> None:
    assert InferenceOptions().to_json() == {}
    assert InferenceOptions(tile=1024).to_json() == {"tile": 1024, "tile_overlap": 128, "tile_whole_image": False}
    assert InferenceOptions(views=parse_views("flip"), mask_layers=2).to_json() == {
        "views": ["scale 1", "scale 1, flipped"], "mask_layers": 2,
    }  # fmt: skip
