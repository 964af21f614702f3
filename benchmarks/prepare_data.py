"""Compare `prepare-data coco` and `prepare-data verify` with the method of the reference converter.

    python benchmarks/prepare_data.py
    python benchmarks/prepare_data.py --root /data/coco --split val2017 --images 1000 --json
    python benchmarks/prepare_data.py --memory 5000 20000 60000

The reference converter opens a PNG with Pillow, creates a full-image mask for each segment, encodes it with
pycocotools, and writes all rows as JSON at the end. This script has that method, and for verification one that computes
area and box of each mask; neither reads the photo. panformer runs the complete commands: conversion compares image, PNG
and JSON, hashes both files and writes detection JSON, summary and manifest.

Images are generated scenes of 640 x 480, or those of ROOT, repeated. The runs are interleaved. Results are CPU
milliseconds (including child processes) and wall milliseconds per image with one and two processes, and the speedup.

With --memory: growth of a process's peak memory, compared with 300 images, for sets of N scenes of 64 x 48. Each
command runs in a separate process, `coco` once without and once with an index of the annotation.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from panformer_cli.console import Cell, print_table
from panformer_cli.data.scenes.generator import write_scenes
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.prepare.coco.coco import prepare_coco
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.sets.derived import subset
from panformer_cli.reporting import SilentReporter
from panformer_cli.verify.check import VerifyOptions, verify

SCENES = {
    "height": 480,
    "width": 640,
    "min_objects": 6,
    "max_objects": 14,
    "max_stuff": 5,
    "train_images": 1,
    "val_images": 25,
}
SMALL_SCENES = {**SCENES, "height": 48, "width": 64}
QUIET = SilentReporter()
MIB = 2**20
Pair = tuple[Path, list[dict[str, Any]]]


def repeated(root: Path, split: str, images: int, target: Path) -> list[Pair]:
    """Write a data set of `images` images to `target` by repeating a split; return its PNGs with their segments."""
    source = root / "annotations" / f"panoptic_{split}"
    content = json.loads(source.with_suffix(".json").read_bytes())
    photos = next(folder for folder in (root / "images" / split, root / split) if folder.is_dir())
    names = {row["id"]: row["file_name"] for row in content["images"]}
    pngs = target / "annotations" / "panoptic_val"
    for folder in (target / "images" / "val", pngs):
        folder.mkdir(parents=True)
    listed, rows = [], []
    for number in range(images):
        row = content["annotations"][number % len(content["annotations"])]
        photo = photos / names[row["image_id"]]
        name = f"{number:06d}"
        shutil.copyfile(photo, target / "images" / "val" / f"{name}{photo.suffix}")
        shutil.copyfile(source / row["file_name"], pngs / f"{name}.png")
        listed.append({"id": number, "file_name": f"{name}{photo.suffix}"})
        rows.append({**row, "image_id": number, "file_name": f"{name}.png"})
    content |= {"images": listed, "annotations": rows}
    pngs.with_suffix(".json").write_text(json.dumps(content))
    return [(pngs / row["file_name"], row["segments_info"]) for row in rows]


def masks_of(pair: Pair) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield a full-image mask for each segment, as the reference converter does."""
    colors = np.array(Image.open(pair[0]), dtype=np.uint32)
    ids = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
    for segment in pair[1]:
        yield segment, (ids == segment["id"]).astype(np.uint8)


def convert_by_masks(pair: Pair) -> list[dict[str, Any]]:
    """Return a row of the detection JSON for every segment of an image."""
    rows = []
    for segment, mask in masks_of(pair):
        encoded = coco_mask.encode(np.asfortranarray(mask[..., None]))[0]
        rows.append({**segment, "segmentation": encoded | {"counts": encoded["counts"].decode()}})
    return rows


def verify_by_masks(pair: Pair) -> int:
    """Return how many segments have a wrong area or box."""
    wrong = 0
    for segment, mask in masks_of(pair):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        wrong += int(mask.sum()) != segment["area"] or list(map(int, box)) != list(segment["bbox"])
    return wrong


def by_masks(work: Callable[[Pair], Any], pairs: list[Pair], workers: int, written: Path) -> None:
    """Process all images, with several processes if requested, and write everything at the end."""
    if workers == 1:
        found = list(map(work, pairs))
    else:
        with ProcessPoolExecutor(workers) as pool:
            found = list(pool.map(work, pairs, chunksize=25))
    with written.open("w") as file:
        json.dump(found, file)


class Clock:
    """CPU and wall seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time spent in the context."""
        before = self._now()
        yield
        used = (now - then for now, then in zip(self._now(), before, strict=True))
        known = self.seconds.get(name, (0.0, 0.0))
        self.seconds[name] = tuple(map(sum, zip(known, used, strict=True)))  # type: ignore[assignment]

    @staticmethod
    def _now() -> tuple[float, float]:
        used = os.times()
        return used.user + used.system + used.children_user + used.children_system, time.perf_counter()


def measure(root: Path | None, split: str, images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds per image by method."""
    clock = Clock()
    with TemporaryDirectory() as name:
        folder = Path(name)
        if root is None:
            root = folder / "scenes"
            write_scenes(root, SceneOptions(**SCENES), QUIET)  # type: ignore[arg-type]
        pairs = repeated(root, split, images, folder / "set")
        _run(folder / "set", pairs, 1, Clock())  # warm-up; not counted
        for _ in range(rounds):
            for workers in (1, 2):
                _run(folder / "set", pairs, workers, clock)
    return {
        name: {"processor ms": 1000 * processor / images / rounds, "wall ms": 1000 * wall / images / rounds}
        for name, (processor, wall) in clock.seconds.items()
    }


def _run(folder: Path, pairs: list[Pair], workers: int, clock: Clock) -> None:
    with clock.measure(f"conversion, masks, {workers}"):
        by_masks(convert_by_masks, pairs, workers, folder.parent / "masks.json")
    with clock.measure(f"conversion, panformer, {workers}"):
        prepare_coco(folder, ["val"], ConvertOptions(workers), QUIET, out=folder.parent / "out")
    with clock.measure(f"verification, masks, {workers}"):
        by_masks(verify_by_masks, pairs, workers, folder.parent / "wrong.json")
    with clock.measure(f"verification, panformer, {workers}"):
        (report,) = verify(folder, ["val"], VerifyOptions(workers), QUIET)
    assert report.is_good, report.problems


MEASURED: dict[str, Callable[[Path, int], Any]] = {
    "coco, no index": lambda root, images: _convert(root),
    "coco": lambda root, images: _convert(root),
    "verify": lambda root, images: verify(root, ["val"], VerifyOptions(), QUIET),
    "subset": lambda root, images: convert(
        subset(root, ["val"], images), root.parent / f"subset {images}", (), ConvertOptions(), QUIET
    ),
}
WARM_UP = 300


def _convert(root: Path) -> None:
    prepare_coco(root, ["val"], ConvertOptions(), QUIET, out=root.parent / "out")


def measure_memory(counts: list[int]) -> list[dict[str, float]]:
    """Return the additional MiB for each number of images."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_scenes(folder / "scenes", SceneOptions(**SMALL_SCENES), QUIET)  # type: ignore[arg-type]
        repeated(folder / "scenes", "val", WARM_UP, folder / "warm-up")
        rows = []
        for images in counts:
            root = folder / str(images)
            repeated(folder / "scenes", "val", images, root)
            row: dict[str, float] = {"images": images}
            for what in MEASURED:
                command = [sys.executable, __file__, "--grown", what, str(root)]
                row[what] = float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
            annotation = root / "annotations" / "panoptic_val.json"
            index = annotation.with_suffix(".index")
            row["JSON"] = annotation.stat().st_size / MIB
            row["index"] = index.stat().st_size / MIB if index.exists() else 0.0
            rows.append(row)
            shutil.rmtree(root)
    return rows


def grown(what: str, root: Path) -> float:
    """Return by how many MiB the peak of this process grows, compared with few images."""
    # imports torch, which the commands do not need and which would slow down the start of processes
    import torch

    from panformer_cli.engine.benchmarking.meters import PeakMemory

    peak = PeakMemory(torch.device("cpu"))
    MEASURED[what](root.parent / "warm-up", WARM_UP)
    shutil.rmtree(root.parent / f"subset {WARM_UP}", ignore_errors=True)
    before = peak.mib() or 0.0
    MEASURED[what](root, int(root.name))
    return (peak.mib() or 0.0) - before


def main() -> None:
    """Parse the options, measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, metavar="ROOT", help="a COCO panoptic set [generated scenes]")
    parser.add_argument("--split", default="val", metavar="S", help="split of ROOT [val]")
    parser.add_argument("--images", type=int, default=300, metavar="N", help="images per round [300]")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds [3]")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--memory", type=int, nargs="+", metavar="N", help="measure memory with N images instead")
    parser.add_argument("--grown", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.grown:
        print(grown(arguments.grown[0], Path(arguments.grown[1])))
        return
    if arguments.memory:
        found_memory = measure_memory(arguments.memory)
        if arguments.json:
            print(json.dumps(found_memory, indent=2))
        else:
            print_table(
                "MiB more than with 300 images", list(found_memory[0]), [tuple(row.values()) for row in found_memory]
            )
        return
    found = measure(arguments.root, arguments.split, arguments.images, arguments.rounds)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    rows: list[list[Cell]] = []
    for name, figures in found.items():
        theirs = found[name.replace("panformer", "masks")]
        rows.append([name, *figures.values(), *(theirs[key] / figures[key] for key in figures)])
    columns = ["task, method, processes", "CPU, ms per image", "wall, ms per image", "speedup, CPU", "speedup, wall"]
    print_table(f"{arguments.images} images, {arguments.rounds} interleaved rounds", columns, rows)


if __name__ == "__main__":
    main()
