"""Corrupt predictions and annotations: one line that names the file or the image, and no files left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.coco.pair_files import Content, Side, write_pairs
from tests.helpers import run
from tests.storage.test_plain_json import nested

Change = Callable[[Side], Any]


def annotation(content: Content, number: int = 0) -> Content:
    row: Content = content["annotations"][number]
    return row


def segment(content: Content, number: int = 0) -> Content:
    row: Content = annotation(content)["segments_info"][number]
    return row


def edit(change: Callable[[Content], Any]) -> Change:
    return lambda side: side.edit(change)


def write(text: str | bytes) -> Change:
    return lambda side: side.json.write_bytes(text if isinstance(text, bytes) else text.encode())


def with_segment(**values: Any) -> Change:
    return edit(lambda content: segment(content).update(values))


def with_annotation(**values: Any) -> Change:
    return edit(lambda content: annotation(content).update(values))


def without(key: str) -> Change:
    return edit(lambda content: segment(content).pop(key))


def raw(old: str, new: str) -> Change:
    """Replace text in the JSON with something that `json` would not write."""

    def replace(side: Side) -> None:
        text = side.json.read_text()
        assert old in text
        side.json.write_text(text.replace(old, new, 1))

    return replace


def png(mode: str) -> Change:
    def convert(side: Side) -> None:
        with Image.open(side.png()) as image:
            image.convert(mode).save(side.png())

    return convert


def cut_png(kept: int) -> Change:
    return lambda side: side.png().write_bytes(side.png().read_bytes()[:kept])


def png_of_16_bits(side: Side) -> None:
    Image.fromarray(np.ones((40, 60), np.uint16)).save(side.png())


def smaller_png(side: Side) -> None:
    with Image.open(side.png()) as image:
        image.crop((0, 0, 50, 40)).save(side.png())


def no_folder(side: Side) -> None:
    side.pngs.rename(side.pngs.with_name("elsewhere"))


def file_instead_of_folder(side: Side) -> None:
    no_folder(side)
    side.pngs.write_text("not a folder")


def link_out(side: Side) -> None:
    outside = side.pngs.parent.parent / "outside.png"
    side.png().rename(outside)
    side.png().symlink_to(outside)


def folder_instead_of_json(side: Side) -> None:
    side.json.unlink()
    side.json.mkdir()


def areas_of_zero(side: Side) -> None:
    """Leave only the sky, with an area of 0."""
    with_segment(area=0)(side)
    side.draw(lambda ids: ids.__setitem__(ids != 300, 0))


def twice(content: Content) -> None:
    content["annotations"].append(content["annotations"][1])


EITHER_SIDE: dict[str, tuple[Change, list[str]]] = {
    "JSON missing": (lambda side: side.json.unlink(), ["the panoptic JSON", "is missing"]),
    "JSON empty": (write(""), ["is empty (0 bytes)"]),
    "JSON is a folder": (folder_instead_of_json, ["the panoptic JSON", "cannot be read", "expected a readable file"]),
    "not JSON": (write("\x89PNG"), ["is not valid JSON", "expected a COCO panoptic JSON"]),
    "not UTF-8": (write(b'{"annotations": ["\xff\xfe\xfa"]}'), ["is not valid JSON"]),
    "JSON truncated": (lambda side: side.json.write_bytes(side.json.read_bytes()[:300]), ["truncated"]),
    "endless nesting": (write('{"annotations": ' + 100_000 * "["), ["is not valid JSON"]),
    "a row nested too deeply": (
        write(f'{{"annotations": [{nested(3000)}]}}'),
        ["lists and objects are nested more than 100 levels deep"],
    ),
    "a list": (write("[]"), ["contains a list; expected an object"]),
    "null": (write("null"), ["contains a NoneType; expected an object"]),
    "no annotations": (edit(lambda content: content.pop("annotations")), ["is missing the lists annotations"]),
    "annotations an object": (edit(lambda content: content.update(annotations={})), ["missing the lists annotations"]),
    "annotation a number": (edit(lambda content: content["annotations"].append(7)), ["an annotation is 7; expected"]),
    "no image_id": (edit(lambda content: annotation(content).pop("image_id")), ["an annotation is", "image_id"]),
    "image_id a list": (with_annotation(image_id=[100]), ["an annotation has the image_id", "expected an integer"]),
    "no file_name": (edit(lambda content: annotation(content).pop("file_name")), ["an annotation is", "file_name"]),
    "no segments_info": (edit(lambda content: annotation(content).pop("segments_info")), ["a list segments_info"]),
    "segments_info null": (with_annotation(segments_info=None), ["the segments_info None", "a list of segments"]),
    "image annotated twice": (edit(twice), ["image 101 is annotated twice"]),
    "segment a list": (with_annotation(segments_info=[[1, 2]]), ["image 100 has the segment [1, 2]"]),
    "segment without id": (without("id"), ["image 100 has the segment {", "an object with an id 1 to 16777215"]),
    "id 0": (with_segment(id=0), ["image 100 has the segment", "id 1 to 16777215"]),
    "id negative": (with_segment(id=-3), ["image 100 has the segment", "id 1 to 16777215"]),
    "id too large for a color": (with_segment(id=256**3), ["image 100 has the segment", "id 1 to 16777215"]),
    "id a string": (with_segment(id="1"), ["image 100 has the segment", "id 1 to 16777215"]),
    "id a fraction": (with_segment(id=1.5), ["image 100 has the segment", "id 1 to 16777215"]),
    "two segments of one id": (
        edit(lambda content: segment(content, 1).update(id=segment(content)["id"])),
        ["image 100 has two segments with id"],
    ),
    "category unknown": (with_segment(category_id=99), ["image 100: segment", "category_id 99", "`categories`"]),
    "category missing": (without("category_id"), ["image 100: segment", "category_id None"]),
    "category a string": (with_segment(category_id="7"), ["image 100: segment", "category_id '7'"]),
    "area a string": (with_segment(area="many"), ["image 100: segment", "area 'many'"]),
    "area negative": (with_segment(area=-1), ["image 100: segment", "area -1", "a whole number of pixels"]),
    "area a fraction": (with_segment(area=99.5), ["image 100: segment", "area 99.5", "a whole number of pixels"]),
    "area NaN": (with_segment(area=float("nan")), ["image 100: segment", "area nan"]),
    "area infinite": (with_segment(area=float("inf")), ["image 100: segment", "area inf"]),
    "area of 400 digits": (with_segment(area=10**400), ["image 100: segment", "area 1000"]),
    "area beyond 64 bits": (with_segment(area=2**70), ["image 100: segment", "area 1180591620717411303424"]),
    "bbox of three": (with_segment(bbox=[1, 2, 3]), ["image 100: segment", "bbox [1, 2, 3]"]),
    "bbox of strings": (with_segment(bbox=["1", 2, 3, 4]), ["image 100: segment", "bbox ['1', 2, 3, 4]"]),
    "iscrowd a string": (with_segment(iscrowd="no"), ["image 100: segment", "iscrowd 'no'"]),
    "no folder of PNGs": (no_folder, ["the folder of PNGs", "does not exist", "-folder"]),
    "a file instead of the folder": (file_instead_of_folder, ["the folder of PNGs", "-folder"]),
    "PNG missing": (lambda side: side.png().unlink(), ["0.png is missing"]),
    "PNG empty": (cut_png(0), ["0.png is empty (0 bytes)"]),
    "PNG is text": (lambda side: side.png().write_text("a PNG"), ["0.png is not a PNG; expected an 8-bit RGB PNG"]),
    "PNG truncated": (cut_png(-20), ["0.png is corrupt or truncated"]),
    "PNG grayscale": (png("L"), ["0.png is an 8-bit grayscale PNG; expected an 8-bit RGB PNG"]),
    "PNG with palette": (png("P"), ["0.png is an 8-bit palette PNG"]),
    "PNG with alpha": (png("RGBA"), ["0.png is an 8-bit RGB with alpha PNG"]),
    "PNG of 16 bits": (png_of_16_bits, ["0.png is a 16-bit grayscale PNG"]),
    "PNG of another size": (smaller_png, ["0.jpg: the prediction is 40 x", "and the ground truth 40 x", "equal sizes"]),
    "file name absolute": (with_annotation(file_name="/etc/passwd"), ["'/etc/passwd' points outside"]),
    "file name with ..": (with_annotation(file_name="../0.png"), ["'../0.png' points outside"]),
    "file name not valid Unicode": (raw('"0.png"', '"\\ud800.png"'), ["has the file_name", "\\ud800.png", "a PNG"]),
    "file name links out": (link_out, ["'0.png' points outside"]),
    "file name empty": (with_annotation(file_name=""), ["an annotation has the file_name", "the name of a PNG"]),
}  # fmt: skip

PREDICTION_ONLY: dict[str, tuple[Change, list[str]]] = {
    "image without a prediction": (
        edit(lambda content: content["annotations"].pop(1)),
        ["is missing 1 of the 3 images of", "first image 101 (1.jpg)"],
    ),
    "image ids are strings": (
        with_annotation(image_id="100"),
        ["is missing 1 of the 3", "numbers (100), and text ('100')"],
    ),
    "score a string": (with_segment(score="high"), ["image 100: segment 1 has the score 'high'"]),
    "score negative": (with_segment(score=-0.1), ["image 100: segment 1 has the score -0.1"]),
    "score NaN": (with_segment(score=float("nan")), ["image 100: segment 1 has the score nan"]),
    "score of 400 digits": (with_segment(score=10**400), ["image 100: segment 1 has the score 1"]),
    "PNG id without a segment": (
        lambda side: side.draw(lambda ids: ids.__setitem__((39, 59), 9)),
        ["0.jpg, prediction: the map contains ids 9, which are not listed as segments"],
    ),
    "segment without pixels": (
        lambda side: side.draw(lambda ids: ids.__setitem__(ids == 2, 1)),
        ["0.jpg, prediction: segments [2] have no pixels in the map"],
    ),
}

TRUTH_ONLY: dict[str, tuple[Change, list[str]]] = {
    "no images": (edit(lambda content: content.pop("images")), ["is missing the lists images"]),
    "no categories": (edit(lambda content: content.pop("categories")), ["is missing the lists categories"]),
    "categories empty": (edit(lambda content: content.update(categories=[])), ["the category table is empty"]),
    "category twice": (
        edit(lambda content: content["categories"].append(content["categories"][0])),
        ["category ids [7] appear more than once"],
    ),
    "isthing missing": (edit(lambda content: content["categories"][0].pop("isthing")), ["has no isthing"]),
    "isthing 2": (edit(lambda content: content["categories"][0].update(isthing=2)), ["category 7 has isthing 2"]),
    "category id text": (edit(lambda content: content["categories"][0].update(id="7")), ["category has the id '7'"]),
    "image listed twice": (
        edit(lambda content: content["images"].append(content["images"][0])),
        ["image id 100 appears twice"],
    ),
    "image without id": (edit(lambda content: content["images"][0].pop("id")), ["an image is {", "expected an object"]),
    "annotation of no image": (with_annotation(image_id=9), ["image 9 is annotated but not listed in `images`"]),
    "height a string": (edit(lambda content: content["images"][0].update(height="40")), ["100 has the height '40'"]),
    "areas of zero": (
        areas_of_zero,
        ["0.jpg, ground truth: the listed areas of segments [300] give an empty union"],
    ),
}  # fmt: skip

CASES = [
    pytest.param(which, change, words, id=f"{which}: {name}")
    for which, cases in (
        ("prediction", {**EITHER_SIDE, **PREDICTION_ONLY}),
        ("truth", {**EITHER_SIDE, **TRUTH_ONLY}),
    )
    for name, (change, words) in cases.items()
]


@pytest.mark.parametrize(("which", "change", "words"), CASES)
def test_corrupt_input_is_one_line_and_leaves_no_files(
    which: str, change: Change, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_pairs(tmp_path / "data")
    side: Side = getattr(pairs, which)
    change(side)
    out = tmp_path / "out"
    out.mkdir()
    earlier = '{"images": 1, "panoptic": {}}'
    (out / "metrics.json").write_text(earlier)
    capsys.readouterr()
    assert run("evaluate", *pairs.words, "--out", str(out)) == 2
    printed, err = capsys.readouterr()
    assert printed == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    # every message names the JSON, the PNG or the image
    assert any(name in err for name in (str(side.json), str(side.png()), "0.jpg")), err
    for word in words:
        assert word in err
    assert [path.name for path in out.iterdir()] == ["metrics.json"]
    assert (out / "metrics.json").read_text() == earlier
