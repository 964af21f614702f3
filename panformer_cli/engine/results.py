"""Predictions on disk in COCO's panoptic form, written by any number of processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.panoptic_png import write_panoptic_png
from panformer_cli.data.panoptic_writer import annotation_row, panoptic_json
from panformer_cli.data.structures import PanopticMap
from panformer_cli.engine.runtime import Process
from panformer_cli.files import name_inside, write_json


class PanopticResults:
    """`OUT/panoptic/<name>.png` and, at the end, `OUT/panoptic.json`.

    Every process writes the PNGs of its own images and one part of the rows; the first process joins the parts.
    """

    def __init__(self, out: Path, categories: CategoryTable, process: Process) -> None:
        self.out = out
        self.categories = categories
        self.process = process
        self._rows: list[tuple[int, dict[str, Any], dict[str, Any]]] = []

    @property
    def pngs(self) -> Path:
        return self.out / "panoptic"

    @property
    def json(self) -> Path:
        return self.out / "panoptic.json"

    def add(self, index: int, image_id: int | str, names: tuple[str, str], panoptic: PanopticMap) -> None:
        """Write the PNG of an image.

        index: the image's place in the JSON. names: of the image and of its PNG, relative, as the JSON will say.
        """
        file_name, png_name = names
        path = name_inside(self.pngs, png_name, "the list of images")
        write_panoptic_png(path, panoptic.ids)
        height, width = panoptic.ids.shape
        image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        self._rows.append((index, image, annotation_row(image_id, png_name, panoptic, self.categories)))

    def finish(self) -> dict[str, Any] | None:
        """Join what all processes wrote to the JSON, and give its content; None on all but the first process."""
        parts = self.out / ".parts"
        write_json(parts / f"{self.process.rank}.json", self._rows)
        self.process.wait()
        if not self.process.is_first:
            return None
        rows = [
            row
            for rank in range(self.process.world_size)
            for row in json.loads((parts / f"{rank}.json").read_text(encoding="utf-8"))
        ]
        rows.sort(key=lambda row: row[0])
        content = panoptic_json([row[1] for row in rows], [row[2] for row in rows], self.categories)
        write_json(self.json, content)
        shutil.rmtree(parts)
        return content
