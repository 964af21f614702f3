"""Submissions out of results: the zip by plain zipfile and json, and the validator's word on every form."""

from __future__ import annotations

import json
import os
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.cityscapes_labels import CATEGORIES as CITYSCAPES
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import PanopticMap
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.results import PanopticResults
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.reporting import SilentReporter
from panformer_cli.submission.checks import check_submission
from panformer_cli.submission.forms import FORMS, FormName
from panformer_cli.submission.packing import write_submission

STEM = "panoptic_test-dev2017_panformer_results"
SIZES = [(20, 30), (16, 16), (9, 40)]
OTHER = CategoryTable([Category(12, "person", True), Category(2, "sky", False)])
QUIET = SilentReporter()


def write_results(
    out: Path,
    categories: CategoryTable = COCO,
    ids: tuple[int | str, ...] = (139, 285, 632),
    names: tuple[str, ...] = ("000000000139.jpg", "000000000285.jpg", "000000000632.jpg"),
) -> Path:
    """Results as `evaluate` writes them: void, one stuff segment (id 7) and two things (70000 and 12) an image."""
    results = PanopticResults(out, categories, Process(0, 1, torch.device("cpu")))
    thing, stuff = categories.by_label(0).id, categories.by_label(len(categories) - 1).id
    for index, (image_id, name, (height, width)) in enumerate(zip(ids, names, SIZES, strict=True)):
        pixels = np.zeros((height, width), np.int32)
        pixels[height // 2 :] = 7
        pixels[1:5, : 3 + index] = 70000
        pixels[-3:, -5:] = 12
        panoptic = PanopticMap(pixels, segments_of(pixels, {7: stuff, 70000: thing, 12: thing}))
        results.add(index, image_id, (name, Path(name).with_suffix(".png").as_posix()), panoptic)
    results.finish()
    return out


def image_info(path: Path, results: Path) -> Path:
    """The image info that the results answer to."""
    content = json.loads((results / "panoptic.json").read_text())
    path.write_text(json.dumps({"images": content["images"], "categories": content["categories"]}))
    return path


FORM_CASES: list[tuple[FormName, str, CategoryTable, tuple[int | str, ...], tuple[str, ...]]] = [
    ("coco", STEM, COCO, (139, 285, 632), ("000000000139.jpg", "000000000285.jpg", "000000000632.jpg")),
    (
        "cityscapes",
        "cityscapes_panoptic_test",
        CITYSCAPES,
        (1, 2, "bonn_000004_000019"),
        ("berlin/berlin_000000_000019_leftImg8bit.png", "berlin/berlin_000001_000019_leftImg8bit.png", "bonn/x.png"),
    ),
    ("ade20k", "ade", OTHER, ("ADE_val_1", "ADE_val_2", "ADE_val_3"), ("1.jpg", "2.jpg", "3.jpg")),
    ("mapillary", "vistas", OTHER, ("-a", "_b", "c"), ("-a.jpg", "_b.jpg", "c.jpg")),
]


@pytest.mark.parametrize(("form", "stem", "categories", "ids", "names"), FORM_CASES)
def test_what_is_written_passes_the_check(
    tmp_path: Path,
    form: FormName,
    stem: str,
    categories: CategoryTable,
    ids: tuple[int | str, ...],
    names: tuple[str, ...],
) -> None:
    results = write_results(tmp_path / "results", categories, ids, names)
    target = tmp_path / f"{stem}.zip"
    assert write_submission(results, target, FORMS[form], QUIET) == 3
    report = check_submission(target, image_info(tmp_path / "info.json", results), FORMS[form], QUIET)
    assert report.is_good and report.images == 3


def test_the_zip(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results")
    target = tmp_path / "new" / f"{STEM}.zip"
    write_submission(results, target, FORMS["coco"], QUIET)
    pngs = [f"{name:012}.png" for name in (139, 285, 632)]
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{STEM}.json", *(f"{STEM}/{png}" for png in pngs)]
        assert [entry.compress_type for entry in archive.infolist()] == [
            zipfile.ZIP_DEFLATED,
            *[zipfile.ZIP_STORED] * 3,
        ]
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        for png in pngs:
            assert archive.read(f"{STEM}/{png}") == (results / "panoptic" / png).read_bytes()
        content = json.loads(archive.read(f"{STEM}.json"))
    segments = [{"id": 7, "category_id": 200}, {"id": 12, "category_id": 1}, {"id": 70000, "category_id": 1}]
    assert content == {
        "annotations": [
            {"image_id": int(png.removesuffix(".png")), "file_name": png, "segments_info": segments} for png in pngs
        ]
    }


def test_cityscapes_ids_and_one_folder(tmp_path: Path) -> None:
    _, _, categories, ids, names = FORM_CASES[1]
    results = write_results(tmp_path / "results", categories, ids, names)
    write_submission(results, tmp_path / "a.zip", FORMS["cityscapes"], QUIET)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        rows = json.loads(archive.read("a.json"))["annotations"]
        assert archive.namelist()[1] == "a/berlin_000000_000019_leftImg8bit.png"
    assert [row["image_id"] for row in rows] == ["berlin_000000_000019", "berlin_000001_000019", "bonn_000004_000019"]


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    zips = []
    for place, time in (("a", 1_000_000_000), ("b", 1_600_000_000)):
        results = write_results(tmp_path / place)
        for path in results.rglob("*.png"):
            os.utime(path, (time, time))
        write_submission(results, tmp_path / place / f"{STEM}.zip", FORMS["coco"], QUIET)
        zips.append((tmp_path / place / f"{STEM}.zip").read_bytes())
    assert zips[0] == zips[1]


class Interrupted(SilentReporter):
    """Stops at the second PNG."""

    @contextmanager
    def progress(self, what: str, total: int, done: int = 0) -> Iterator[Any]:
        class Bar:
            steps = 0

            def advance(self, steps: int = 1, status: str = "") -> None:
                self.steps += steps
                if self.steps == 2:
                    raise KeyboardInterrupt

        yield Bar()


@pytest.mark.parametrize("old", [None, b"what was there"])
def test_interrupted_writing_leaves_no_half_file(tmp_path: Path, old: bytes | None) -> None:
    results = write_results(tmp_path / "results")
    target = tmp_path / "out" / f"{STEM}.zip"
    target.parent.mkdir()
    if old is not None:
        target.write_bytes(old)
    with pytest.raises(KeyboardInterrupt):
        write_submission(results, target, FORMS["coco"], Interrupted())
    assert [path.read_bytes() for path in target.parent.iterdir()] == ([] if old is None else [old])


def refusal(results: Path, target: Path, form: FormName = "coco") -> str:
    """Why nothing is written; the folder of the zip holds nothing afterwards."""
    target.parent.mkdir(exist_ok=True)
    with pytest.raises(PanformerError) as raised:
        write_submission(results, target, FORMS[form], QUIET)
    assert not list(target.parent.iterdir())
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_a_name_that_the_server_does_not_know(tmp_path: Path) -> None:
    text = refusal(tmp_path / "no results", tmp_path / "out" / "results.zip")
    assert "results.zip" in text and FORMS["coco"].zip_name in text


def test_results_that_are_missing_or_damaged(tmp_path: Path) -> None:
    target = tmp_path / "out" / f"{STEM}.zip"
    assert "panoptic.json is missing" in refusal(tmp_path / "nothing", target)
    results = write_results(tmp_path / "results")
    (results / "panoptic" / "000000000285.png").unlink()
    assert "000000000285.png is missing" in refusal(results, target)
    (results / "panoptic.json").write_text("{")
    assert "is not valid JSON" in refusal(results, target)


def test_no_file_from_outside_is_packed(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results")
    (tmp_path / "secret.png").write_bytes(b"secret")
    text = (results / "panoptic.json").read_text()
    (results / "panoptic.json").write_text(text.replace("000000000285.png", "../../secret.png"))
    assert "points outside" in refusal(results, tmp_path / "out" / f"{STEM}.zip")


def test_images_that_would_share_a_png_or_an_id(tmp_path: Path) -> None:
    ids, names = ("a", "b", "c"), ("x/1.jpg", "y/1.jpg", "2.jpg")
    results = write_results(tmp_path / "results", OTHER, ids, names)
    assert "file_name '1.png'" in refusal(results, tmp_path / "out" / "a.zip", "ade20k")
    names = ("bonn_000000_000019_a.jpg", "bonn_000000_000019_b.jpg", "bonn_000001_000019_b.jpg")
    results = write_results(tmp_path / "others", CITYSCAPES, (1, 2, 3), names)
    assert "image_id 'bonn_000000_000019'" in refusal(results, tmp_path / "out" / "a.zip", "cityscapes")


def test_an_image_without_a_cityscapes_id(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", CITYSCAPES)
    assert "shows no Cityscapes id" in refusal(results, tmp_path / "out" / "a.zip", "cityscapes")


def test_one_png_is_held_at_a_time(tmp_path: Path) -> None:
    results = tmp_path / "results"
    (results / "panoptic").mkdir(parents=True)
    size, count = 1_000_000, 20
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(count)]
    rows = [{"image_id": number, "file_name": f"{number}.png", "segments_info": []} for number in range(count)]
    content = {"images": images, "annotations": rows, "categories": COCO.to_coco()}
    (results / "panoptic.json").write_text(json.dumps(content))
    for number in range(count):
        (results / "panoptic" / f"{number}.png").write_bytes(bytes([number]) * size)
    tracemalloc.start()
    try:
        write_submission(results, tmp_path / f"{STEM}.zip", FORMS["coco"], QUIET)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / f"{STEM}.zip").stat().st_size > count * size
    assert peak < 4 * size


def test_a_cityscapes_id_needs_all_its_digits() -> None:
    form = FORMS["cityscapes"]
    assert form.server_id("bad-honnef_000000_000019", "a.png") == "bad-honnef_000000_000019"
    with pytest.raises(DataError):
        form.server_id("bonn_000000_00019", "bonn_0000001_000019.png")
