"""Measure the memory of `panformer evaluate --predictions` for different numbers of images.

    python benchmarks/evaluation_memory.py
    python benchmarks/evaluation_memory.py --images 500 5000 --bootstrap 1000 --json

The script generates pairs of 128 x 96 maps with about ten segments. COCO has as many segments per image, and only one
pair is in memory at a time, whatever its size. Every count runs in a separate process, which first evaluates 300 pairs
to load the libraries. Results are the growth of the peak memory after that: when the two JSONs are opened, and in
total; and the size of the JSONs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from panformer_cli.console import print_table
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.coco.panoptic_pairs import PanopticPairs
from panformer_cli.data.coco.panoptic_png import encode_ids
from panformer_cli.data.structures import IdMap
from panformer_cli.engine.benchmarking.meters import PeakMemory
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.evaluate_predictions import PredictionsRequest, evaluate_predictions
from panformer_cli.reporting import SilentReporter

HEIGHT, WIDTH, SEGMENTS = 96, 128, 10
WARM_UP = 300  # the compiled PNG reader is loaded at the 100th pair and takes 107 MiB once
MIB = 2**20


def write_side(folder: Path, name: str, images: int, shift: int) -> None:
    """Write a panoptic JSON with COCO's keys, and its PNGs."""
    (folder / name).mkdir(parents=True)
    rows = []
    for number in range(images):
        ids = stripes(number, shift)
        Image.fromarray(encode_ids(ids)).save(folder / name / f"{number:012d}.png")  # without flush, for speed
        segments = [segment_row(ids, int(segment_id), number) for segment_id in np.unique(ids)]
        rows.append({"segments_info": segments, "file_name": f"{number:012d}.png", "image_id": number})
    listed = [{"id": k, "file_name": f"{k:012d}.jpg", "height": HEIGHT, "width": WIDTH} for k in range(images)]
    content = {"images": listed, "annotations": rows, "categories": COCO.to_coco()}
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def stripes(number: int, shift: int) -> IdMap:
    """Return a map of ten vertical stripes, shifted by `shift` pixels, with different ids in every image."""
    columns = (np.arange(WIDTH) + shift) % WIDTH * SEGMENTS // WIDTH
    ids = 1 + columns + 1000 * (1 + number % 1000)
    return np.tile(ids.astype(np.int32), (HEIGHT, 1))


def segment_row(ids: IdMap, segment_id: int, number: int) -> dict[str, Any]:
    """Return an entry of `segments_info`; every image has different categories."""
    columns = np.flatnonzero((ids == segment_id).any(0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    category_id = COCO.by_label((segment_id + 7 * number) % len(COCO)).id
    area = int((ids == segment_id).sum())
    bbox = [left, 0, right - left, HEIGHT]
    return {"id": segment_id, "category_id": category_id, "iscrowd": 0, "bbox": bbox, "area": area}


def write_pairs(folder: Path, images: int) -> Path:
    """Write ground truth and predictions of `images` images, and return their folder."""
    write_side(folder, "truth", images, 0)
    write_side(folder, "prediction", images, 3)
    return folder


def evaluate_pairs(folder: Path, bootstrap: int) -> float:
    """Return PQ of the pairs in `folder`, in percent."""
    jsons = folder / "prediction.json", folder / "truth.json"
    request = PredictionsRequest(*jsons, folder / "out", metrics=("panoptic", "semantic"), resamples=bootstrap)
    pq: float = evaluate_predictions(request, Process.single("cpu"), SilentReporter())["panoptic"]["all"]["pq"]
    return pq


def measure_here(folder: Path, bootstrap: int) -> dict[str, float]:
    """Measure the pairs in `folder` in this process."""
    peak = PeakMemory(torch.device("cpu"))
    evaluate_pairs(folder / "warm-up", bootstrap)
    before = peak.mib() or 0
    PanopticPairs(folder / "truth.json", folder / "prediction.json")
    opened = peak.mib() or 0
    pq = evaluate_pairs(folder, bootstrap)
    return {"pq": pq, "before_mib": before, "opened_mib": opened - before, "grown_mib": (peak.mib() or 0) - before}


def measure(images: int, bootstrap: int) -> dict[str, float]:
    """Measure generated pairs in a separate process."""
    with TemporaryDirectory() as folder:
        write_pairs(Path(folder) / "warm-up", WARM_UP)
        write_pairs(Path(folder), images)
        command = [sys.executable, __file__, "--bootstrap", str(bootstrap), "--pairs", folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        jsons = sum(path.stat().st_size for path in Path(folder).glob("*.json")) / MIB
    return {"images": images, "jsons_mib": jsons, **json.loads(done.stdout)}


def main() -> None:
    """Parse the options, measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000], metavar="N", help="images [500 5000]")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples for intervals [1000]")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--pairs", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pairs:
        print(json.dumps(measure_here(arguments.pairs, arguments.bootstrap)))
        return
    rows = [measure(images, arguments.bootstrap) for images in arguments.images]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    columns = ("images", "jsons_mib", "before_mib", "opened_mib", "grown_mib", "pq")
    titles = ("images", "both JSONs, MiB", "peak before, MiB", "opening them, MiB", "total, MiB", "PQ")
    print_table(
        "Memory of an evaluation of predictions", titles, [tuple(row[name] for name in columns) for row in rows]
    )
    difference = rows[-1]["grown_mib"] - rows[0]["grown_mib"]
    print(f"{rows[-1]['images']} images take {difference:.1f} MiB more than {rows[0]['images']}")


if __name__ == "__main__":
    main()
