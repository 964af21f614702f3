"""Pairing the images of predictions and ground truth by id or by file name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from panformer_cli.data.coco.image_pairing import same_name
from panformer_cli.data.coco.panoptic_pairs import PanopticPairs
from panformer_cli.errors import DataError
from tests.data.coco.pair_files import Pairs, write_pairs


def files_with(
    tmp_path: Path, images: int, truth: Callable[[int], tuple[Any, str]], predicted: Callable[[int], tuple[Any, str]]
) -> Pairs:
    """Write pairs whose image ids and file names are those of two functions of the image's number."""
    files = write_pairs(tmp_path, images)
    for side, naming in ((files.truth, truth), (files.prediction, predicted)):

        def rename(content: dict[str, Any], naming: Callable[[int], tuple[Any, str]] = naming) -> None:
            named = [naming(number) for number in range(images)]
            content["images"] = [{"id": number, "file_name": name} for number, name in named]
            for row, (number, _) in zip(content["annotations"], named, strict=True):
                row["image_id"] = number

        side.edit(rename)
    return files


def partners(files: Pairs) -> list[str]:
    """Return the PNG of the prediction of each image; the right ones are 0.png, 1.png, ..."""
    pairs = PanopticPairs(files.truth.json, files.prediction.json)
    return [pairs.prediction_path(index).name for index in range(len(pairs))]


def note_of(files: Pairs) -> str:
    return "\n".join(PanopticPairs(files.truth.json, files.prediction.json).notes)


TWELVE = sorted((f"{number}.jpg" for number in range(1, 13)), key=str)
"""The names 1.jpg to 12.jpg in the order of a listing, in which 10.jpg is the second."""


@pytest.mark.parametrize(
    ("truth", "predicted"),
    [
        pytest.param(lambda k: (k + 1, TWELVE[k]), lambda k: (int(TWELVE[k][:-4]), TWELVE[k]), id="other numbers"),
        pytest.param(lambda k: (k, f"{k}.jpg"), lambda k: (str(k), f"{k}.png"), id="ids as text"),
        pytest.param(lambda k: (k, f"{k}.jpg"), lambda k: (k + 1, f"{k}.jpg"), id="counted from 1"),
        pytest.param(lambda k: (k, f"val/{k}.jpg"), lambda k: (11 - k, f"{k}.jpg"), id="folder in one of them"),
        pytest.param(
            lambda k: (k, f"{k % 2}/{k // 2}.jpg"), lambda k: (11 - k, f"{k % 2}\\{k // 2}.jpg"), id="Windows"
        ),
        pytest.param(lambda k: (k, f"{k}\u00e9.jpg"), lambda k: (11 - k, f"{k}e\u0301.jpg"), id="accents decomposed"),
        pytest.param(lambda k: (k, f"a.{k}"), lambda k: (11 - k, f"a.{k}"), id="numbers as suffix"),
        pytest.param(
            lambda k: (k, f"{k // 2}.{'jpg' if k % 2 else 'png'}"),
            lambda k: (11 - k, f"{k // 2}.{'jpg' if k % 2 else 'png'}"),
            id="equal without suffix",
        ),
    ],
)
def test_ids_that_stand_for_other_files_are_paired_by_file_name(
    tmp_path: Path, truth: Callable[[int], tuple[Any, str]], predicted: Callable[[int], tuple[Any, str]]
) -> None:
    files = files_with(tmp_path, 12, truth, predicted)
    assert partners(files) == [f"{number}.png" for number in range(12)]
    note = note_of(files)
    assert "paired by file name" in note and str(files.prediction.json) in note and "\n" not in note


@pytest.mark.parametrize(
    "predicted",
    [
        lambda k: (k, f"{k}.jpg"),
        lambda k: (k, f"/somewhere/images/{k}.jpg"),
        lambda k: (k, f"{k}.png"),
    ],
)
def test_ids_are_used_where_the_names_agree(tmp_path: Path, predicted: Callable[[int], tuple[Any, str]]) -> None:
    files = files_with(tmp_path, 3, lambda k: (k, f"{k}.jpg"), predicted)
    assert partners(files) == ["0.png", "1.png", "2.png"]
    assert note_of(files) == ""


def test_predictions_without_image_names_are_paired_by_id(tmp_path: Path) -> None:
    files = files_with(tmp_path, 3, lambda k: (k, f"{k}.jpg"), lambda k: (2 - k, "unused.jpg"))
    for images in (None, [], [{"id": 0}, 7, {"id": 1, "file_name": 3}]):

        def replace(content: dict[str, Any], images: Any = images) -> None:
            content.pop("images", None)
            if images is not None:
                content["images"] = images

        files.prediction.edit(replace)
        assert partners(files) == ["2.png", "1.png", "0.png"]


def test_png_names_that_contradict_the_ids_are_reported(tmp_path: Path) -> None:
    files = write_pairs(tmp_path, 3)
    assert note_of(files) == ""

    def shift(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            row["image_id"] = 100 + (row["image_id"] - 99) % 3

    files.prediction.edit(shift)
    assert partners(files) == ["2.png", "0.png", "1.png"]
    assert "3 of 3 PNGs stand for other images (image 100 is 0.jpg and has the PNG 2.png; " in note_of(files)
    for row, png in zip(range(3), "xyz", strict=True):  # names that stand for no image contradict nothing
        files.prediction.png(row).rename(files.prediction.pngs / f"{png}.png")
    files.prediction.edit(
        lambda content: [row.update(file_name=f"{p}.png") for row, p in zip(content["annotations"], "xyz", strict=True)]
    )
    assert note_of(files) == ""


def test_names_that_contradict_the_ids_and_cannot_be_paired_are_refused(tmp_path: Path) -> None:
    files = files_with(tmp_path, 5, lambda k: (k, f"{k}.jpg"), lambda k: (k, f"other_{k}.jpg"))
    with pytest.raises(DataError) as caught:
        partners(files)
    message = str(caught.value)
    assert "different file names under 5 of 5 image ids" in message and "\n" not in message
    for number in range(3):
        assert f"image {number} is {number}.jpg and other_{number}.jpg" in message
    assert "image 3" not in message and "--ids-from" in message


def test_equal_names_in_different_folders_are_not_mixed_up(tmp_path: Path) -> None:
    """`a/0.jpg` and `b/0.jpg` are different images, even if no other image has this name."""
    files = files_with(tmp_path, 3, lambda k: (k, f"a/{k}.jpg"), lambda k: (2 - k, f"b/{k}.jpg"))
    with pytest.raises(DataError, match=r"image 0 is a/0\.jpg and b/2\.jpg"):
        partners(files)


def test_a_name_that_two_predictions_have_is_ambiguous(tmp_path: Path) -> None:
    files = files_with(tmp_path, 3, lambda k: (k, f"{k}.jpg"), lambda k: (2 - k, f"{min(k, 1)}.jpg"))
    with pytest.raises(DataError, match="different file names under 2 of 3"):
        partners(files)


@pytest.mark.parametrize(
    ("truth", "predicted", "words"),
    [
        (lambda k: k, str, r"ids are numbers \(0\), and text \('0'\)"),
        (str, lambda k: k, r"ids are text \('0'\), and numbers \(0\)"),
    ],
)
def test_text_against_numbers_is_named(
    tmp_path: Path, truth: Callable[[int], Any], predicted: Callable[[int], Any], words: str
) -> None:
    files = files_with(tmp_path, 3, lambda k: (truth(k), f"{k}.jpg"), lambda k: (predicted(k), "unused"))
    files.prediction.edit(lambda content: content.pop("images"))
    with pytest.raises(DataError, match=words):
        partners(files)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a.jpg", "a.png", True),
        ("val/a.jpg", "a.png", True),
        ("a.jpg", "ba.jpg", False),
        ("1/a.jpg", "2/a.jpg", False),
        ("a.b.jpg", "a.c.jpg", False),
        ("a", "a.jpg", True),
    ],
)
def test_same_name(first: str, second: str, expected: bool) -> None:
    assert same_name(first, second) == same_name(second, first) == expected
