from __future__ import annotations

from pathlib import Path
from typing import Any

from panformer_cli.pages.summary import MAX_IMAGE_SIZES, write_summary
from tests.pages.html import Html
from tests.pages.samples import split_summary


def html_of(tmp_path: Path, **splits: dict[str, Any]) -> Html:
    write_summary(tmp_path / "summary.html", "my data", splits)
    return Html.of_file(tmp_path / "summary.html")


def test_a_page_has_the_counts_of_every_split(tmp_path: Path) -> None:
    page = html_of(tmp_path, train=split_summary(), val=split_summary())
    assert [line for line in page.lines() if line in ("my data", "train", "val")] == [
        "my data",
        "my data",
        "train",
        "val",
    ]
    assert page.lines().count("Images1,234") == 2 and page.lines().count("Void12.5%") == 2
    assert len(page.all("table")) == 8


def test_categories_are_sorted_by_segments(tmp_path: Path) -> None:
    lines = html_of(tmp_path, train=split_summary("cat")).lines()
    assert lines.index("catthing122134,567") == lines.index("skystuff0000") - 1


def test_bars_are_proportional_to_counts(tmp_path: Path) -> None:
    page = html_of(tmp_path, train=split_summary())
    widths = [rect["width"] for rect in page.all("rect") if rect.get("class") in ("things", "stuff")]
    assert widths[:5] == ["100.0", "0.0", "50.0", "100.0", "33.33"]
    assert "rgb(1, 2, 3)" in [rect.get("fill") for rect in page.all("rect")]


def test_only_the_most_frequent_image_sizes_are_listed(tmp_path: Path) -> None:
    page = html_of(tmp_path, train=split_summary())
    assert (
        "640 x 4802" in page.lines() and f"Image sizesThe {MAX_IMAGE_SIZES} most frequent of 31 sizes." in page.lines()
    )
    assert "0 x 1001" in page.lines() and "29 x 1001" not in page.lines()


def test_a_split_without_images(tmp_path: Path) -> None:
    empty = {
        **split_summary(),
        "images": 0,
        "categories": [],
        "image_sizes": [],
        "segments_per_image": [],
        "left_out": [],
        "annotations_left_out": [],
        "annotations_changed": [],
    }
    page = html_of(tmp_path, train=empty)
    assert "Left out" not in page.text and len(page.all("table")) == 4


def test_annotations_left_out_are_listed_by_reason(tmp_path: Path) -> None:
    groups = [{"reason": "no segmentation", "count": 1234, "first": ["annotation 7 of a.json is empty"]}]
    new = split_summary() | {"annotations_left_out": groups, "annotations_changed": []}
    old = {key: value for key, value in split_summary().items() if not key.startswith("annotations_")}
    text = html_of(tmp_path, new=new, old=old).text  # summaries of version 0.2.0 do not have the key
    assert text.count("Annotations left out") == 1 and "Annotations changed" not in text
    assert "1,234 x no segmentation, first: annotation 7 of a.json is empty" in text
