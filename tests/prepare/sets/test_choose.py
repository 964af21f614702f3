"""Selecting images so that classes are on both sides: compared with trying every selection."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.prepare.sets import both_sides
from panformer_cli.prepare.sets.both_sides import on_both_sides
from panformer_cli.prepare.sets.choose import stratified
from panformer_cli.prepare.sets.derived import split
from tests.data.coco.coco_files import BALL, write_coco
from tests.helpers import run

Present = npt.NDArray[np.bool_]


def missing(present: Present, chosen: tuple[int, ...] | npt.NDArray[np.int64]) -> int:
    """Return how often one of the sides lacks a class that is in two images or more."""
    count = 0
    for column in present.T:
        images = set(np.flatnonzero(column).tolist())
        if len(images) > 1:
            count += not images & set(map(int, chosen))
            count += not images - set(map(int, chosen))
    return count


def random_set(seed: int) -> tuple[Present, int]:
    rng = np.random.default_rng(seed)
    images, classes = int(rng.integers(2, 10)), int(rng.integers(1, 12))
    return rng.random((images, classes)) < rng.choice([0.15, 0.3, 0.6]), int(rng.integers(1, images))


@pytest.mark.parametrize("seed", range(150))
def test_no_other_selection_has_more_classes_on_both_sides(seed: int) -> None:
    present, number = random_set(seed)
    classes = np.packbits(present, axis=1)
    chosen = on_both_sides(classes, stratified(classes, number, seed))
    assert len(chosen) == number and (np.diff(chosen) > 0).all()
    best = min(missing(present, other) for other in combinations(range(len(present)), number))
    assert missing(present, chosen) == best


@pytest.mark.parametrize("seed", range(60))
def test_the_repair_of_large_sets_is_as_good_as_the_best_selection(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the threshold for large sets at 0."""
    monkeypatch.setattr(both_sides, "_SMALL", 0)
    present, number = random_set(seed)
    chosen = on_both_sides(np.packbits(present, axis=1), np.arange(number))
    assert len(chosen) == number
    best = min(missing(present, other) for other in combinations(range(len(present)), number))
    assert missing(present, chosen) == best


@pytest.mark.slow
def test_rare_classes_that_share_images_are_on_both_sides() -> None:
    """A ring of 600 images, each with the class it shares with the next one: only every second one can be chosen."""
    present = np.eye(600, dtype=np.bool_)
    present |= np.roll(present, 1, axis=1)
    chosen = on_both_sides(np.packbits(present, axis=1), np.arange(300))
    assert len(chosen) == 300 and missing(present, chosen) == 0
    assert len({*(chosen % 2).tolist()}) == 1
    present = np.concatenate([present, np.zeros((3000, 600), np.bool_)])  # with room for other numbers
    chosen = on_both_sides(np.packbits(present, axis=1), np.arange(900))
    assert len(chosen) == 900 and missing(present, chosen) == 0


def test_a_good_selection_is_not_changed() -> None:
    present = np.eye(3, dtype=np.bool_).repeat(2, axis=0)  # three classes in two images each
    chosen = np.array([0, 2, 5])
    assert on_both_sides(np.packbits(present, axis=1), chosen).tolist() == [0, 2, 5]


def test_rare_classes_of_many_images_are_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    present = rng.random((3000, 60)) < np.concatenate([np.full(40, 0.1), np.full(20, 2 / 3000)])
    chosen = rng.choice(3000, 300, replace=False)
    chosen.sort()
    found = on_both_sides(np.packbits(present, axis=1), chosen)
    assert missing(present, chosen) > 5 and missing(present, found) == 0
    assert len(np.setdiff1d(found, chosen)) <= missing(present, chosen)


def test_split_reports_classes_that_a_side_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_coco(tmp_path / "in", images=4)
    assert split(tmp_path / "in", None, 1).remarks == ()
    content = json.loads(path.read_text())
    for row in content["annotations"][1:]:  # only the first image keeps its ball
        row["segments_info"] = [one for one in row["segments_info"] if one["category_id"] != BALL]
        png = path.with_suffix("") / row["file_name"]
        pixels = np.array(Image.open(png))
        pixels[(pixels == (5, 0, 0)).all(axis=-1)] = 0
        Image.fromarray(pixels).save(png)
    path.write_text(json.dumps(content))
    options = ["--root", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert run("prepare-data", "split", "--val", "1", *options) == 0
    err = capsys.readouterr().err
    sides = {side: CocoPanoptic(tmp_path / "out", side) for side in ("train", "val")}
    (lacking,) = (
        side for side, part in sides.items() if not any(BALL in part.category_ids(i) for i in range(len(part)))
    )
    assert f"Warning: {lacking} has no image of 1 class: ball (1 image)" in err
