"""Measure startup time and memory of processes that read a large panoptic annotation, with and without its index.

    python benchmarks/annotation_index.py
    python benchmarks/annotation_index.py --images 118287 --workers 2 --json

The script generates an annotation of the size of COCO's train2017, with its keys, sizes and numbers of segments, but no
images. For each method, `--workers` processes at once import the modules of a data loader worker, open the annotation
and read 1000 random images. Results are the time to the first image and the memory growth of a process: resident
memory, proportional set size (PSS), and private memory. Linux only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import panformer_cli.data.loading  # noqa: F401 - the modules of a worker; reading an annotation does not import torch
from panformer_cli.console import print_table
from panformer_cli.data.coco.annotation_index import index_paths, open_annotation
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.coco.panoptic_annotation import PanopticAnnotation
from panformer_cli.data.coco.panoptic_json import read_annotation

SEGMENTS = 11.02  # mean per image in train2017
READS = 1000
LONGEST = 300  # seconds
MIB = 2**20
KEPT: list[Any] = []


def write_annotation(path: Path, images: int) -> Path:
    """Write a panoptic JSON with COCO's keys."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(5 * images)[:images].tolist()
    counts = np.maximum(rng.poisson(SEGMENTS, images), 1).tolist()
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": {"year": 2017}, "images": [')
        file.writelines((", " if k else "") + json.dumps(image_row(i)) for k, i in enumerate(ids))
        file.write('], "annotations": [')
        for k, (image_id, count) in enumerate(zip(ids, counts, strict=True)):
            row = {"segments_info": segments(rng, count), "file_name": f"{image_id:012d}.png", "image_id": image_id}
            file.write((", " if k else "") + json.dumps(row))
        file.write(f'], "categories": {json.dumps(COCO.to_coco())}}}')
    return path


def image_row(image_id: int) -> dict[str, Any]:
    """Return an entry of `images`."""
    name = f"{image_id:012d}.jpg"
    return {
        "license": 3,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/train2017/{name}",
        "height": 480,
        "width": 640,
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": f"http://farm9.staticflickr.com/8186/{image_id:010d}_e43b71f8d1_z.jpg",
        "id": image_id,
    }


def segments(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Return the `segments_info` of an image; ids, areas and boxes are random."""
    ids = (1 + rng.choice(2**24 - 1, count, replace=False)).tolist()
    areas = rng.integers(1, 640 * 480, count).tolist()
    labels, boxes = rng.integers(0, len(COCO), count).tolist(), rng.integers(0, 480, (count, 4)).tolist()
    return [
        {"id": number, "category_id": COCO.by_label(label).id, "iscrowd": 0, "bbox": box, "area": area}
        for number, label, box, area in zip(ids, labels, boxes, areas, strict=True)
    ]


def memory() -> dict[str, float]:
    """Return resident, proportional and private memory of this process, MiB."""
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    kib = {row[0]: int(row[1]) for row in lines}
    own = kib["Private_Clean:"] + kib["Private_Dirty:"]
    return {"resident": kib["Rss:"] / 1024, "pss": kib["Pss:"] / 1024, "own": own / 1024}


def read_some(annotation: PanopticAnnotation) -> float:
    """Read random images, and return the median microseconds per image."""
    generator, times = random.Random(os.getpid()), []
    for _ in range(READS):
        index, began = generator.randrange(len(annotation.images)), time.perf_counter()
        annotation.images[index], annotation.segments(index)
        times.append(1e6 * (time.perf_counter() - began))
    return statistics.median(times)


def parse_all(path: Path) -> None:
    """Parse the whole JSON, and keep it while memory is measured."""
    KEPT.append(json.loads(path.read_bytes()))


def handed_over(annotation: PanopticAnnotation) -> PanopticAnnotation:
    """Return the annotation that the parent process opened."""
    return annotation


def work(source: Any, opens: Callable[[Any], PanopticAnnotation | None], barrier: Any, answers: Any) -> None:
    """Open the annotation and read it in a worker; measure while the other workers have it open, too."""
    before, began = memory(), time.perf_counter()
    annotation = opens(source)
    if annotation is not None:
        annotation.images[0], annotation.segments(0)
    seconds = time.perf_counter() - began
    access = None if annotation is None else read_some(annotation)
    barrier.wait()
    after = memory()
    barrier.wait()
    grown = {f"grown_{name}": after[name] - before[name] for name in after}
    answers.put({"first_s": seconds, "access_us": access, **grown, **after})


def measure(method: str, workers: int, *arguments: Any) -> dict[str, Any]:
    """Run `work` in several processes started by `method`, and return the results of the slowest one."""
    context: Any = multiprocessing.get_context(method)
    barrier, answers = context.Barrier(workers), context.Queue()
    processes = [context.Process(target=work, args=(*arguments, barrier, answers)) for _ in range(workers)]
    for process in processes:
        process.start()
    rows: list[dict[str, Any]] = [answers.get(timeout=LONGEST) for _ in processes]
    for process in processes:
        process.join()
    return max(rows, key=lambda row: row["first_s"])


def build(path: Path, answers: Any) -> None:
    """Build the index in a separate process."""
    import torch

    from panformer_cli.engine.benchmarking.meters import PeakMemory

    peak = PeakMemory(torch.device("cpu"))
    before, began = memory()["resident"], time.perf_counter()
    open_annotation(path)
    seconds = time.perf_counter() - began
    answers.put({"build_s": seconds, "grown_peak": (peak.mib() or 0) - before})


def measure_build(path: Path) -> dict[str, float]:
    """Return time and memory of building the index, and the size of both files."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    process = context.Process(target=build, args=(path, answers))
    process.start()
    found: dict[str, float] = answers.get(timeout=LONGEST)
    process.join()
    sizes = {"json_mib": path.stat().st_size / MIB, "index_mib": index_paths(path)[0].stat().st_size / MIB}
    return sizes | found


def main() -> None:
    """Generate the annotation, measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_287, metavar="N", help="images, 12000 or more [118287]")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes at once [2]")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        path = write_annotation(Path(folder) / "panoptic_train.json", arguments.images)
        built = measure_build(path)
        ways = {
            "json.loads": measure("spawn", arguments.workers, path, parse_all),
            "without index": measure("spawn", arguments.workers, path, read_annotation),
            "with index": measure("spawn", arguments.workers, path, open_annotation),
            "forked with index": measure("fork", arguments.workers, open_annotation(path), handed_over),
        }
        part = write_annotation(Path(folder) / "panoptic_part.json", arguments.images // 8)
        access = {str(len(found.images)): read_some(found) for found in map(open_annotation, (part, path))}
    if arguments.json:
        print(json.dumps({"build": built, "ways": ways, "access_us": access}, indent=2))
        return
    print_table("The index", ("JSON, MiB", "index, MiB", "build time, s", "peak growth, MiB"), [tuple(built.values())])
    sizes = [f"{what}{name}, MiB" for what in ("growth: ", "") for name in memory()]
    rows = [(name, f"{row.pop('first_s'):.3f}", *row.values()) for name, row in ways.items()]
    print_table(f"One of {arguments.workers} processes", ("", "first image, s", "random image, us", *sizes), rows)
    print_table("A random image", ("images", "us"), list(access.items()))


if __name__ == "__main__":
    main()
