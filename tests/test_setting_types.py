"""Ranges of settings: which values are refused, with which reason, and how paths are expanded."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, get_args, get_type_hints

import pytest

from panformer_cli.errors import RecipeError
from panformer_cli.models.panoptic_segformer.settings import MergingSettings, PanopticSegFormerSettings
from panformer_cli.recipe import Recipe
from panformer_cli.setting_types import Count, FilePath, FractionBelowOne, Range, Section, range_of
from panformer_cli.settings import DataSettings, TrainSettings

SECTIONS: tuple[type[Section], ...] = (
    Recipe,
    DataSettings,
    TrainSettings,
    PanopticSegFormerSettings,
    MergingSettings,
)


@dataclass(frozen=True)
class Oven(Section):
    """Settings that exist only in these tests."""

    section = "oven"
    trays: Count = 2
    most_trays: Count | None = None
    fan: FractionBelowOne = 0.5
    heat: Annotated[float, Range(0, 300, above=True, unit="degrees")] = 200.0
    shelves: Annotated[tuple[int, ...], Range(1, 5, values=1)] = (1, 3)
    tare: float = 0.0
    timer: bool = True
    cook: str = "Ann"
    note: str = ""
    book: FilePath = "book.txt"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"trays": 0}, "oven.trays is 0: expected 1 or more"),
        ({"trays": 10**10}, "oven.trays is 10000000000: expected 1 or more and no number beyond 1000000000"),
        ({"trays": math.nan}, "oven.trays is nan: expected 1 or more"),
        ({"most_trays": -1}, "oven.most_trays is -1: expected 1 or more"),
        ({"fan": 1.0}, "oven.fan is 1.0: expected 0 or more and less than 1"),
        ({"fan": math.nan}, "oven.fan is nan: expected 0 or more and less than 1"),
        ({"fan": -math.inf}, "oven.fan is -inf: expected 0 or more and less than 1"),
        ({"heat": 0.0}, "oven.heat is 0.0: expected more than 0 degrees and at most 300 degrees"),
        ({"heat": 301.0}, "oven.heat is 301.0: expected more than 0 degrees and at most 300 degrees"),
        ({"shelves": ()}, "oven.shelves is []: expected 1 to 1000 values"),
        ({"shelves": (1,) * 1001}, "expected 1 to 1000 values"),
        ({"shelves": (1, 6)}, "oven.shelves is [1, 6]: expected values of 1 to 5"),
        ({"tare": math.inf}, "oven.tare is inf: expected any number and no number beyond 1000000000"),
        ({"tare": -1e300}, "oven.tare is -1e+300: expected any number and no number beyond 1000000000"),
        ({"tare": math.nan}, "oven.tare is nan: expected any number"),
        ({"tare": 1e-320}, "oven.tare is 1e-320: expected any number and no number this close to 0"),
        ({"fan": -1e-13}, "oven.fan is -1e-13: expected 0 or more and less than 1 and no number this close to 0"),
        ({"cook": "é" * 128}, ": expected at most 255 bytes"),
        ({"book": "b" * 4096}, ": expected at most 4095 bytes"),
        ({"cook": ""}, "oven.cook is '': expected text that is not empty"),
        ({"note": "  "}, "oven.note is '  ': expected text that is not empty"),
        ({"cook": "a\nb"}, "oven.cook is 'a\\nb': expected text without line breaks and control characters"),
        ({"book": "a\0b"}, "oven.book is 'a\\x00b': expected text without line breaks and control characters"),
        ({"book": "a\udcff"}, "oven.book is 'a\\udcff': expected text in UTF-8"),
    ],
)
def test_values_out_of_range_are_refused_with_the_reason(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Oven(**values)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_problems_of_a_section_are_reported_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        Oven(trays=0, fan=2.0, cook="")
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["oven.trays", "oven.fan", "oven.cook"]


def test_the_ends_of_ranges_are_accepted() -> None:
    oven = Oven(
        trays=10**9,
        fan=1e-12,
        cook="c" * 255,
        book="b" * 4095,
        heat=300.0,
        shelves=(1, 5),
        tare=-1e9,
        timer=False,
        note="",
    )
    assert replace(oven, most_trays=1).most_trays == 1


def test_tildes_and_variables_of_paths_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("BOOKS", "/books")
    assert Oven(book="~/b").book == "/home/ann/b"
    assert Oven(book="$BOOKS/${BOOKS}x").book == "/books//booksx"
    assert Oven(book="a~/$UNKNOWN").book == "a~/$UNKNOWN"
    assert Oven(cook="~/b $BOOKS").cook == "~/b $BOOKS"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_of_a_recipe_has_a_range(section: type[Section]) -> None:
    """A new setting without a range would accept -5 epochs."""
    hints = get_type_hints(section)
    kinds = {field.name: (hints[field.name], *get_args(hints[field.name])) for field in fields(section)}
    numbers = [name for name, kind in kinds.items() if int in kind or float in kind]
    assert numbers
    assert [name for name in numbers if range_of(section, name) == Range()] == []


def test_paths_of_recipes_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert DataSettings(root="~/coco").root == "/home/ann/coco"
    assert PanopticSegFormerSettings(backbone_weights="~/r50.pth").backbone_weights == "/home/ann/r50.pth"
