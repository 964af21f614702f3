"""Predictions with their ground truth, written with only Pillow and json, and helpers to change them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.data.coco.coco_files import BOX, CATEGORIES, SKY, colors, scene

HEIGHT, WIDTH, SHIFT = 40, 60, 2
Content = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """A panoptic JSON and its PNG folder."""

    json: Path
    pngs: Path

    def edit(self, change: Callable[[Content], Any]) -> None:
        """Change the JSON."""
        content = json.loads(self.json.read_text())
        change(content)
        self.json.write_text(json.dumps(content))

    def png(self, number: int = 0) -> Path:
        return self.pngs / f"{number}.png"

    def draw(self, change: Callable[[npt.NDArray[np.int32]], Any], number: int = 0) -> None:
        """Change the ids of a map."""
        ids = np.asarray(Image.open(self.png(number))).astype(np.int32) @ np.array([1, 256, 65536], np.int32)
        change(ids)
        Image.fromarray(colors(ids)).save(self.png(number))


@dataclass(frozen=True)
class Pairs:
    """Ground truth and predictions of some images, in one folder."""

    truth: Side
    prediction: Side

    @property
    def words(self) -> list[str]:
        """The command line options for these files."""
        return ["--predictions", str(self.prediction.json), "--annotations", str(self.truth.json)]


def write_pairs(folder: Path, images: int = 3) -> Pairs:
    """Write the scenes of `coco_files` and predictions with boxes two columns too far right and no crowd.

    Image k has the id 100 + k; in a prediction the sky is segment 1, the box segment 2.
    """
    truth, prediction = (Side(folder / f"{name}.json", folder / name) for name in ("truth", "prediction"))
    for side in (truth, prediction):
        side.pngs.mkdir(parents=True)
    rows: dict[str, list[Content]] = {"truth": [], "prediction": []}
    for number in range(images):
        ids, segments = scene(number, HEIGHT, WIDTH)
        predicted = np.zeros_like(ids)
        predicted[: HEIGHT // 2] = 1
        predicted[5:15, 10 + SHIFT : 30 + number + SHIFT] = 2
        rows_of_prediction = [{"id": 1, "category_id": SKY, "score": 0.5}, {"id": 2, "category_id": BOX, "score": 1}]
        for side, drawn, infos in ((truth, ids, segments), (prediction, predicted, rows_of_prediction)):
            Image.fromarray(colors(drawn)).save(side.png(number))
            row = {"image_id": 100 + number, "file_name": f"{number}.png", "segments_info": infos}
            rows[side.pngs.name].append(row)
    listed = [{"id": 100 + k, "file_name": f"{k}.jpg", "height": HEIGHT, "width": WIDTH} for k in range(images)]
    content = {"images": listed, "annotations": rows["truth"], "categories": CATEGORIES}
    truth.json.write_text(json.dumps(content))
    prediction.json.write_text(json.dumps({"annotations": rows["prediction"]}))
    return Pairs(truth, prediction)


def true_iou(number: int) -> tuple[float, float]:
    """Return the IoU of the box and of the sky of image `number`, derived by hand."""
    box = 10 * (20 + number)
    shared, union = box - 10 * SHIFT, box + 10 * SHIFT
    sky = WIDTH * HEIGHT // 2
    return shared / union, (sky - union) / (sky - shared)
