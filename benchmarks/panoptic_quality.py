"""Compare the speed of PQ with panopticapi, COCO's implementation, on generated pairs of 640 x 480 maps.

    python benchmarks/panoptic_quality.py --panopticapi FOLDER
    python benchmarks/panoptic_quality.py --pairs 5000 --json

FOLDER is a checkout of panopticapi; it is not needed if panopticapi is installed. The ground truth is generated scenes.
The predictions are the same scenes with bent contours, missing segments and wrong categories. Both implementations read
the same PNGs in one process, alternating every 50 pairs, so that a busy machine slows both equally. The PNGs are
written by Pillow, like COCO's, and by panformer. panformer also evaluates the pairs from memory, as for a new
prediction. Times are CPU times. All results must agree.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from panformer_cli.console import print_table
from panformer_cli.data.coco.panoptic_png import encode_ids, read_panoptic_png, write_panoptic_png
from panformer_cli.data.coco.panoptic_writer import annotation_row, segments_of
from panformer_cli.data.coco.png_codec import load
from panformer_cli.data.opencv import cv2
from panformer_cli.data.scenes.generator import SceneOptions, generate_scene
from panformer_cli.data.scenes.painter import CATEGORIES
from panformer_cli.data.structures import IdMap, PanopticMap
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.quality import PanopticQuality

SCENES = SceneOptions(height=480, width=640, min_objects=6, max_objects=14, max_stuff=5)
BEND = 24.0
"""Largest shift of a contour, pixels."""
PART = 50
"""Pairs that are generated, written and evaluated before the next ones."""


class Pair(NamedTuple):
    """An image, with the name of its two PNGs."""

    name: str
    prediction: PanopticMap
    truth: PanopticMap


def generated(index: int) -> Pair:
    """Return pair number `index`, the same in every run."""
    _, truth = generate_scene(SCENES, "val", index)
    rng = np.random.default_rng(index)
    shift = cv2.resize(rng.uniform(-BEND, BEND, (12, 16, 2)), (SCENES.width, SCENES.height))
    rows, columns = np.indices(truth.ids.shape)
    bent = truth.ids[
        np.clip(rows + shift[..., 0].astype(int), 0, SCENES.height - 1),
        np.clip(columns + shift[..., 1].astype(int), 0, SCENES.width - 1),
    ]
    category_of_id = {
        segment.id: segment.category_id if rng.random() < 0.85 else CATEGORIES.by_label(int(rng.integers(5))).id
        for segment in truth.segments
        if rng.random() < 0.9
    }
    ids = np.where(np.isin(bent, list(category_of_id)), bent, 0).astype(np.int32)
    return Pair(f"{index:06d}.png", PanopticMap(ids, segments_of(ids, category_of_id)), truth)


def by_pillow(path: Path, ids: IdMap) -> None:
    """Write a panoptic PNG as panopticapi's converters do, like those of COCO."""
    Image.fromarray(encode_ids(ids)).save(path)


def by_panformer(path: Path, ids: IdMap) -> None:
    """Write a panoptic PNG as panformer does, but without waiting for the disk."""
    write_panoptic_png(path, ids, waits_for_disk=False)


WRITERS = {"Pillow": by_pillow, "panformer": by_panformer}
MEMORY = "panformer from memory"
SIDES = ("truth", "prediction")


class Comparison:
    """The results and times of all implementations; `reference` is the module `panopticapi.evaluation`, or None."""

    def __init__(self, folder: Path, reference: Any | None) -> None:
        self.folder = folder
        self.reference = reference
        self.theirs = {writer: reference.PQStat() if reference else None for writer in WRITERS}
        self.ours = {name: PanopticQuality(CATEGORIES) for name in (*WRITERS, MEMORY)}
        self.seconds: dict[str, float] = defaultdict(float)

    def run(self, pairs: list[Pair]) -> None:
        """Evaluate `pairs` with all implementations."""
        for writer, write in WRITERS.items():
            for pair in pairs:
                write(self.folder / "truth" / pair.name, pair.truth.ids)
                write(self.folder / "prediction" / pair.name, pair.prediction.ids)
            if self.reference is not None:
                with self._clock(f"panopticapi from PNGs by {writer}"):
                    self._count_theirs(pairs, writer)
            with self._clock(f"panformer from PNGs by {writer}"):
                for pair in pairs:
                    truth = PanopticMap(read_panoptic_png(self.folder / "truth" / pair.name), pair.truth.segments)
                    ids = read_panoptic_png(self.folder / "prediction" / pair.name)
                    self.ours[writer].update(compare(PanopticMap(ids, pair.prediction.segments), truth))
        with self._clock(MEMORY):
            for pair in pairs:
                self.ours[MEMORY].update(compare(pair.prediction, pair.truth))

    @contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[name] += time.process_time() - start

    def _count_theirs(self, pairs: list[Pair], writer: str) -> None:
        assert self.reference is not None
        rows = [tuple(annotation_row(p.name, p.name, side) for side in (p.truth, p.prediction)) for p in pairs]
        categories = {row["id"]: row for row in CATEGORIES.to_coco()}
        with redirect_stdout(StringIO()):
            self.theirs[writer] += self.reference.pq_compute_single_core(
                0, rows, str(self.folder / "truth"), str(self.folder / "prediction"), categories
            )

    def check(self) -> float:
        """Check that all results agree, and return PQ in percent."""
        result = self.ours[MEMORY].result()
        assert all(quality.result() == result for quality in self.ours.values()), "PNGs and memory differ"
        for statistics in self.theirs.values():
            if statistics is not None:
                theirs, _ = statistics.pq_average({row["id"]: row for row in CATEGORIES.to_coco()}, None)
                assert abs(theirs["pq"] - result.all.pq / 100) < 1e-12, "the results differ"
        return result.all.pq


def panopticapi(folder: Path | None) -> Any | None:
    """Return the module `panopticapi.evaluation` from a checkout or installed; None if there is none."""
    if folder is not None:
        sys.path.insert(0, str(folder))
    try:
        from panopticapi import evaluation
    except ImportError:
        return None
    return evaluation


def measure(count: int, reference: Any | None) -> dict[str, Any]:
    """Return CPU milliseconds per pair, and the speedup over panopticapi on the same PNGs.

    The evaluation from memory is compared with panopticapi on the PNGs by Pillow.
    """
    with TemporaryDirectory() as folder:
        for side in SIDES:
            (Path(folder) / side).mkdir()
        load()
        # The first calls load and compile; they are not counted.
        Comparison(Path(folder), reference).run([generated(count)])
        contest = Comparison(Path(folder), reference)
        for start in range(0, count, PART):
            contest.run([generated(index) for index in range(start, min(start + PART, count))])
        pq = contest.check()
    milliseconds = {name: 1000 * seconds / count for name, seconds in contest.seconds.items()}
    ratios = {name: times_as_fast(name, milliseconds) for name in milliseconds}
    return {"pairs": count, "pq": pq, "numpy": np.__version__, "milliseconds": milliseconds, "times as fast": ratios}


def times_as_fast(name: str, milliseconds: dict[str, float]) -> float | None:
    """Return the speedup over panopticapi; None without it."""
    files = "from PNGs by Pillow" if name == MEMORY else name.split(maxsplit=1)[1]
    theirs = milliseconds.get(f"panopticapi {files}")
    return theirs / milliseconds[name] if theirs else None


def main() -> None:
    """Parse the options, measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300, metavar="N", help="generated pairs, 1 or more [300]")
    parser.add_argument("--panopticapi", type=Path, metavar="FOLDER", help="a checkout of panopticapi")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    arguments = parser.parse_args()
    if arguments.pairs < 1:
        parser.error(f"--pairs is {arguments.pairs}; expected 1 or more")
    reference = panopticapi(arguments.panopticapi)
    if reference is None:
        print("panopticapi was not found; give its checkout with --panopticapi to compare with it", file=sys.stderr)
    content = measure(arguments.pairs, reference)
    if arguments.json:
        print(json.dumps(content, indent=2))
        return
    rows = [[name, ms, content["times as fast"][name]] for name, ms in content["milliseconds"].items()]
    title = f"PQ {content['pq']:.2f} of {content['pairs']} pairs, 640 x 480, NumPy {content['numpy']}"
    print_table(title, ["", "ms per pair", "speedup"], rows)


if __name__ == "__main__":
    main()
