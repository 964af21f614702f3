"""Images with a segmentation made by hand, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import PanopticMap
from panformer_cli.engine.outputs.file_list import write_list
from panformer_cli.engine.outputs.registry import NAMES, Saving, SegmentedImage
from panformer_cli.engine.outputs.writing import OutputWriter
from panformer_cli.engine.results import PanopticResults, check_images_are_free
from tests.engine.small import ALONE

CATEGORIES = CategoryTable(
    [Category(1, "traffic light", True), Category(2, "Škoda/VW: 2", True), Category(9, "sky-other", False)]
)
EVERYTHING = tuple(NAMES)


def segmented(number: int = 0, file_name: str = "a.jpg") -> SegmentedImage:
    """Return an image of 8 x 10 pixels with a traffic light (3), a Škoda (4), sky (7) and void."""
    ids = np.zeros((8, 10), np.int32)
    ids[:4] = 7
    ids[2:5, 1:4] = 3
    ids[5:7, 5:9] = 4
    image = np.random.default_rng(number).integers(0, 256, (8, 10, 3)).astype(np.uint8)
    return SegmentedImage(image, PanopticMap(ids, segments_of(ids, {3: 1, 4: 2, 7: 9})), CATEGORIES, number, file_name)


def begin(out: Path, names: Sequence[str], save: Sequence[str] = EVERYTHING) -> OutputWriter:
    """Begin a prediction of images with these names, as `predict` does."""
    saving = Saving.of(save)
    check_images_are_free(out, saving.in_the_way(out, names))
    PanopticResults.begin(out, {})
    if not saving.is_usual:
        write_list(out, saving.folders)
    return OutputWriter(PanopticResults(out, CATEGORIES, ALONE, has_json=saving.json), saving, CATEGORIES)


def write(out: Path, *names: str, save: Sequence[str] = EVERYTHING, finish: bool = True) -> dict[str, Any] | None:
    """Write the results of images; without `finish` as if the process had been killed after them."""
    writer = begin(out, names, save)
    with closing(writer.results.log):
        for index, name in enumerate(names):
            writer.write(index, segmented(index, name), name)
    return writer.results.finish() if finish else None


def files(folder: Path) -> set[str]:
    """Return the paths of all files in a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def expected(stem: str) -> set[str]:
    """Return the files of all outputs for an image."""
    parts = ("3-traffic-light", "4-škoda-vw-2", "7-sky-other")
    return {
        *(f"overlays/{stem}.jpg", f"polygons/{stem}.geojson", f"segments/{stem}.json"),
        *(f"{folder}/{stem}.png" for folder in ("panoptic", "instances", "semantic")),
        *(f"{folder}/{stem}/{part}.png" for folder in ("masks", "cutouts") for part in parts),
    }
