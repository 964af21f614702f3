"""Labels in Ultralytics' YOLO segmentation format.

The format is documented at https://docs.ultralytics.com/datasets/segment/.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.prepare.export.label_format import LabeledSplit, LabelReport, Loss, command_back
from panformer_cli.prepare.export.labeled_image import LabeledImage, LabeledSegment
from panformer_cli.prepare.export.outlines import as_one
from panformer_cli.storage.files import name_inside, write_text

CLASSES = "data.yaml"
_KEYS = ("train", "val", "test")
"""Keys of `data.yaml` for folders of images."""

_CROWDS = Loss("crowd segment", "left out, because YOLO has no crowds; their pixels are void when read back")
_JOINED = Loss(
    "segment", "with several parts or holes written as one polygon each; lines without width join the outlines"
)
_SCORES = Loss("score", "left out, because YOLO labels have none")


@dataclass(frozen=True)
class YoloFormat:
    """`labels/<split>/<name>.txt`, the images, and `data.yaml`.

    The class numbers are the labels of the category table: from 0, things first.

    Attributes:
        categories: The category table.
        tolerance: How far a simplified outline may be from the exact one, in pixels.
    """

    categories: CategoryTable
    tolerance: float = 0.0
    name: str = "yolo"

    def image_folder(self, split: str) -> str:
        return f"images/{split}"

    def unnamed(self, splits: Sequence[str]) -> list[str]:
        """If `data.yaml` names a split, panformer and Ultralytics use only those that it names: one for each key."""
        named = _named(splits).values()
        return [split for split in splits if split not in named] if named else []

    def labels(self, image: LabeledImage, report: LabelReport) -> str:
        """Return the lines of the text file."""
        kept = [segment for segment in image.segments if not segment.is_crowd]
        for loss, number in (
            (_CROWDS, len(image.segments) - len(kept)),
            (_SCORES, sum(segment.score is not None for segment in kept)),
        ):
            if number:
                report.losses[loss] += number
        return "".join(self._line(segment, image.size, report) for segment in kept)

    def _line(self, segment: LabeledSegment, size: tuple[int, int], report: LabelReport) -> str:
        parts = report.simplified(segment.parts(), segment, self.tolerance)
        if len(parts) > 1 or parts[0].holes:
            report.losses[_JOINED] += 1
        report.count(segment, "polygon")
        shares = segment.in_image(as_one(parts)) / np.array([size[1], size[0]])
        # Nine digits are exact to less than a thousandth of a pixel.
        numbers = " ".join(f"{share:.9g}" for share in shares.ravel().tolist())
        return f"{self.categories.label(segment.category.id)} {numbers}\n"

    def write(self, out: Path, splits: Sequence[LabeledSplit], categories: CategoryTable) -> None:
        for split in splits:
            folder = out / "labels" / split.name
            for labels in split.labels:
                name = str(PurePosixPath(labels.file_name).with_suffix(".txt"))
                write_text(name_inside(folder, name, labels.file_name), labels.content, waits_for_disk=False)
        write_text(out / CLASSES, "".join(_yaml([split.name for split in splits], categories)))

    def next_steps(self, out: Path, splits: Sequence[str]) -> Iterable[str]:
        yield command_back(self.name, out)


def _named(splits: Sequence[str]) -> dict[str, str]:
    """Return the split of each key of `data.yaml`: the first whose name begins with the key."""
    found = {key: next((split for split in splits if split.startswith(key)), None) for key in _KEYS}
    return {key: split for key, split in found.items() if split is not None}


def _yaml(splits: Sequence[str], categories: CategoryTable) -> Iterator[str]:
    """Yield the lines of `data.yaml`. Names are quoted as in JSON, because YAML reads `no` as false."""
    for key, split in _named(splits).items():
        yield f"{key}: {_quoted(f'images/{split}')}\n"
    yield "names:\n"
    for number, category in enumerate(categories.categories):
        yield f"  {number}: {_quoted(category.name)}\n"
    stuff = [_quoted(category.name) for category in categories.categories if not category.is_thing]
    if stuff:
        yield f"stuff: [{', '.join(stuff)}]  # read by panformer only\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
