"""A small clean data set, and ways to damage it, with Pillow and json alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from panformer_cli.reporting import SilentReporter
from panformer_cli.verify.check import SplitReport, VerifyOptions, verify
from panformer_cli.verify.findings import Problem
from tests.data.coco.coco_files import colors, scene, write_coco

ORIENTATION = 0x0112


@dataclass
class DataSet:
    """The split `val` of three images; image k is `k.png` and has the PNG `k.mask.png`.

    Segments of each: the sky (id 300, stuff), a box (70000 + k) and a crowd of balls (5).
    """

    root: Path
    json: dict[str, Any]

    @property
    def annotation(self) -> Path:
        return self.root / "annotations" / "panoptic_val.json"

    @property
    def images(self) -> Path:
        return self.root / "images" / "val"

    @property
    def pngs(self) -> Path:
        return self.annotation.with_suffix("")

    def row(self, number: int = 1) -> dict[str, Any]:
        """A row of `annotations`."""
        found: dict[str, Any] = self.json["annotations"][number]
        return found

    def segment(self, position: int = 1) -> dict[str, Any]:
        """A segment of image 1."""
        found: dict[str, Any] = self.row()["segments_info"][position]
        return found

    def redraw(self, change: Callable[[Any], Any], number: int = 1) -> None:
        """Write the PNG of an image anew, from its ids after `change`."""
        ids = change(scene(number)[0])
        Image.fromarray(colors(ids)).save(self.pngs / f"{number}.mask.png")

    def save(self) -> None:
        self.annotation.write_text(json.dumps(self.json))


def data_set(root: Path) -> DataSet:
    return DataSet(root, json.loads(write_coco(root).read_text()))


def check(root: Path, *splits: str, **options: Any) -> list[SplitReport]:
    return verify(root, splits, VerifyOptions(**options), SilentReporter())


def counts(report: SplitReport) -> dict[Problem, tuple[int, int]]:
    """Findings of every kind: all, and those that can be fixed."""
    return {found.problem: (found.count, found.fixable) for found in report.problems}


def save_rotated(path: Path, orientation: int, size: tuple[int, int]) -> None:
    """An image stored as `size` (width, height), with an EXIF orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.new("RGB", size, (200, 100, 50)).save(path, format="JPEG", exif=exif)


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
