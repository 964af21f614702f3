"""A small submission in each format and ways to corrupt it, written only with Pillow, json and zipfile."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from panformer_cli.reporting import SilentReporter
from panformer_cli.submission.checks import check_submission
from panformer_cli.submission.findings import SubmissionReport
from panformer_cli.submission.forms import FORMS, FormName

STEM = "panoptic_test-dev2017_panformer_results"
STEMS: dict[FormName, str] = {"coco": STEM, "cityscapes": "mine", "ade20k": "b", "mapillary": "c"}
IDS: dict[FormName, list[Any]] = {
    "coco": [7, 30, 200],
    "cityscapes": ["berlin_000000_000019", "berlin_000001_000019", "bonn_000000_000019"],
    "ade20k": ["ADE_val_00000001", "ADE_val_00000002", "ADE_val_00000003"],
    "mapillary": ["aB-1", "cD_2", "eF3"],
}
THING_AND_STUFF: dict[FormName, tuple[int, int]] = {
    "coco": (1, 187), "cityscapes": (24, 23), "ade20k": (12, 2), "mapillary": (20, 28),
}  # fmt: skip
WIDTH, HEIGHT = 20, 12
THING_ID, STUFF_ID = 70000, 300


def png(pixels: np.ndarray | None = None, width: int = WIDTH, mode: str = "RGB") -> bytes:
    """Return a PNG with void above, stuff below and a thing in the middle; id = R + 256 G + 65536 B."""
    if pixels is None:
        pixels = np.zeros((HEIGHT, width, 3), np.uint8)
        pixels[6:] = (STUFF_ID % 256, STUFF_ID // 256, 0)
        pixels[4:8, 5:9] = (THING_ID % 256, THING_ID // 256 % 256, THING_ID // 65536)
    data = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(data, "PNG")
    return data.getvalue()


@dataclass
class Submission:
    """A submission that can be corrupted before it is written.

    Attributes:
        content: Content of the JSON.
        files: PNGs and other files by name.
        json_text: Written instead of `content` unless None.
    """

    info: Path
    zip_path: Path
    content: dict[str, Any]
    files: dict[str, bytes]
    json_name: str
    json_text: bytes | None = None
    extra: list[tuple[zipfile.ZipInfo, bytes]] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.content["annotations"]
        return rows

    def png_of(self, index: int) -> str:
        return f"{self.json_name.removesuffix('.json')}/{index}.png"

    def write(self) -> None:
        with zipfile.ZipFile(self.zip_path, "w", zipfile.ZIP_DEFLATED) as archive:
            text = json.dumps(self.content).encode() if self.json_text is None else self.json_text
            archive.writestr(self.json_name, text)
            for name, data in self.files.items():
                archive.writestr(name, data)
            for entry, data in self.extra:
                archive.writestr(entry, data)

    def check(self, form: FormName = "coco") -> SubmissionReport:
        return check_submission(self.zip_path, self.info, FORMS[form], SilentReporter())


def submission(folder: Path, form: FormName = "coco") -> Submission:
    """Return a valid submission of three images."""
    thing, stuff = THING_AND_STUFF[form]
    names = [f"{image_id}.jpg" for image_id in IDS[form]]
    images = [
        {"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for image_id, name in zip(IDS[form], names, strict=True)
    ]
    info: dict[str, Any] = {"images": images}
    if form in ("ade20k", "mapillary"):
        info["categories"] = [{"id": thing, "name": "a", "isthing": 1}, {"id": stuff, "name": "b", "isthing": 0}]
    elif form == "coco":
        info["categories"] = [{"id": 1, "name": "person"}]  # as in image_info_test-dev2017.json: no isthing
    (folder / "info.json").write_text(json.dumps(info))
    segments = [{"id": THING_ID, "category_id": thing}, {"id": STUFF_ID, "category_id": stuff}]
    rows = [
        {"image_id": image_id, "file_name": f"{index}.png", "segments_info": copy.deepcopy(segments)}
        for index, image_id in enumerate(IDS[form])
    ]
    stem = STEMS[form]
    files = {f"{stem}/{index}.png": png() for index in range(3)}
    return Submission(folder / "info.json", folder / f"{stem}.zip", {"annotations": rows}, files, f"{stem}.json")
