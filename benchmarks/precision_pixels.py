"""Count the pixels in which the panoptic maps of bf16 and fp32 differ.

    python benchmarks/precision_pixels.py CHECKPOINT FOLDER_OF_IMAGES [--most 100] [--json]

A pixel differs if the two maps have different categories, or the same thing category but different segments. Segments
of the two maps are the same if each covers most of the other. A pixel is near a boundary if a boundary of either map is
at most 2 pixels away (a square of 5 x 5 pixels contains two segments). With a trained model, most differences are near
boundaries. Random weights have near ties everywhere and are not meaningful.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from panformer_cli.data.images import read_image
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.inference import Predictor

NEAR = 2
"""Pixels."""
Mask = npt.NDArray[np.bool_]


@dataclass
class Differences:
    """Counts of pixels and segments over all images; `segments` are those of the fp32 maps."""

    images: int = 0
    images_that_differ: int = 0
    pixels: int = 0
    differ: int = 0
    differ_inside: int = 0
    differ_inside_partners: int = 0
    near_boundaries: int = 0
    segments: int = 0
    segments_lost: int = 0
    segments_new: int = 0

    def add(self, before: PanopticMap, after: PanopticMap) -> None:
        """Add an image: its map in fp32 and in bf16."""
        different, alone, lost, new = compare(before, after)
        near = near_boundary(before.ids) | near_boundary(after.ids)
        self.images += 1
        self.images_that_differ += bool(different.any())
        self.pixels += different.size
        self.differ += int(different.sum())
        self.differ_inside += int((different & ~near).sum())
        self.differ_inside_partners += int((different & ~near & ~alone).sum())
        self.near_boundaries += int(near.sum())
        self.segments += len(before.segments)
        self.segments_lost += lost
        self.segments_new += new


def compare(before: PanopticMap, after: PanopticMap) -> tuple[Mask, Mask, int, int]:
    """Return pixels that differ, pixels of segments without a partner, and their number in `before` and in `after`.

    Partners have the same category and an IoU above 0.5, so partners are unique. Void matches void.
    """
    same = (before.ids == 0) & (after.ids == 0)
    alone, other_alone = (set(np.unique(panoptic.ids).tolist()) - {0} for panoptic in (before, after))
    for one, other in product(before.segments, after.segments):
        mask, other_mask = before.ids == one.id, after.ids == other.id
        shared = mask & other_mask
        if one.category_id == other.category_id and 2 * int(shared.sum()) > int((mask | other_mask).sum()):
            same |= shared
            alone.discard(one.id)
            other_alone.discard(other.id)
    without = np.isin(before.ids, list(alone)) | np.isin(after.ids, list(other_alone))
    return ~same, without, len(alone), len(other_alone)


def near_boundary(ids: npt.NDArray[np.int32]) -> Mask:
    """Return where the square of `NEAR` pixels to every side contains more than one segment."""
    square = np.ones((2 * NEAR + 1, 2 * NEAR + 1), np.uint8)
    numbers = ids.astype(np.float32)
    near: Mask = cv2.dilate(numbers, square) != cv2.erode(numbers, square)
    return near


def images_below(folder: Path, most: int) -> Iterator[ImageArray]:
    """Return the first images in the folder, sorted by path."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return (read_image(path) for path in files[:most])


def main() -> None:
    """Parse the options, compare, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=100, metavar="N", help="maximum number of images [100]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    process = Process(0, 1, torch.device("cpu"))
    checkpoint = read_checkpoint(options.checkpoint)
    full, half = (Predictor.of(checkpoint, process, precision) for precision in ("fp32", "bf16"))
    found = Differences()
    for image in images_below(options.folder, options.most):
        found.add(full(image).panoptic, half(image).panoptic)
    if options.json:
        print(json.dumps(asdict(found)))
        return
    print(f"{found.images} images, {found.images_that_differ} of them differ")
    print(f"pixels that differ: {100 * found.differ / found.pixels:.3f} %")
    print(f"of these more than {NEAR} pixels from a boundary: {100 * found.differ_inside / max(found.differ, 1):.1f} %")
    partners = 100 * found.differ_inside_partners / max(found.differ, 1)
    print(f"the same without segments that are in only one of the maps: {partners:.1f} %")
    print(f"pixels near a boundary: {100 * found.near_boundaries / found.pixels:.1f} %")
    print(f"segments: {found.segments}, lost {found.segments_lost}, new {found.segments_new}")


if __name__ == "__main__":
    main()
