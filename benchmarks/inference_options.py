"""Measure what tiles, test-time augmentation and fewer mask layers cost and gain, on held-out generated scenes.

    python benchmarks/inference_options.py runs/tiny/best.safetensors "--tta flip" "--mask-layers 2"
    python benchmarks/inference_options.py runs/tiny/best.safetensors "--tile 96 --tile-overlap 32 --side 96"

The checkpoint is of the recipe `tiny`, trained on generated scenes (`panformer demo` makes one). Every argument after
it is a set of options of `panformer predict`, and can also have `--side N`, the sides of the network's input. All sets
segment the same scenes, which were not used in training. The table has their PQ, the difference from the plain command
with its 95 % interval (paired bootstrap over images), and the median CPU time per image. The exit code is 1 if a set
with tiles is more than a point of PQ below whole images.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from panformer_cli.console import print_table
from panformer_cli.data.scenes.generator import generate_scene
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.engine.benchmarking.benchmark import parse_size
from panformer_cli.engine.checkpoints.checkpoint import load_model, read_checkpoint
from panformer_cli.engine.combined.choose import with_options
from panformer_cli.engine.combined.options import InferenceOptions, parse_views
from panformer_cli.engine.inference import Predictor
from panformer_cli.errors import PanformerError
from panformer_cli.metrics.bootstrap import paired_intervals
from panformer_cli.metrics.evaluator import Evaluator
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.wording import interval_text

FIRST_SCENE = 100_000
"""Scenes are numbered from here, so that none is in the validation split that chose the checkpoint."""
LARGEST_LOSS = 1.0
"""Points of PQ that tiles may cost."""


@dataclass
class Subject:
    """One set of options.

    Attributes:
        name: the options as they were given.
        predictor: runs a model with them.
        evaluator: receives the predictions.
        seconds: CPU time of each image.
    """

    name: str
    options: InferenceOptions
    predictor: Predictor
    evaluator: Evaluator
    seconds: list[float] = field(default_factory=list)


def options_of(words: str) -> tuple[InferenceOptions, int | None]:
    """Return options from a text such as `--tta flip --mask-layers 2`, and the sides of the input if they are given."""
    parser = argparse.ArgumentParser(prog="OPTIONS", add_help=False)
    parser.add_argument("--tile", type=int)
    parser.add_argument("--tile-overlap", type=int)
    parser.add_argument("--tile-whole-image", action="store_true")
    parser.add_argument("--tta", type=parse_views, dest="views")
    parser.add_argument("--mask-layers", type=int)
    parser.add_argument("--side", type=int)
    given = {name: value for name, value in vars(parser.parse_args(shlex.split(words))).items() if value is not None}
    side = given.pop("side", None)
    return InferenceOptions(**given), side


def subject_of(checkpoint: Path, words: str, resamples: int) -> Subject:
    """Return a model with these options; each has its own copy, since mask layers are removed in place."""
    read = read_checkpoint(checkpoint)
    model = load_model(read)
    model.optimize_for_inference()
    recipe, (options, side) = read.recipe, options_of(words)
    if side is not None:
        recipe = replace(recipe, data=replace(recipe.data, short_side=side, long_side=side))
    predictor = with_options(Predictor(model, recipe, torch.device("cpu")), options)
    return Subject(words or "plain", options, predictor, Evaluator(read.categories, ("panoptic",), resamples))


def measure(subjects: Sequence[Subject], scenes: int, size: tuple[int, int]) -> None:
    """Segment the scenes with every subject in turn."""
    options = SceneOptions(height=size[0], width=size[1])
    for number in range(FIRST_SCENE, FIRST_SCENE + scenes):
        image, truth = generate_scene(options, "val", number)
        for subject in subjects:
            began = time.process_time()
            panoptic = subject.predictor(image).panoptic
            subject.seconds.append(time.process_time() - began)
            subject.evaluator.add(compare(panoptic, truth, number, f"{number}.jpg"), None)


def row_of(subject: Subject, plain: Subject) -> dict[str, Any]:
    """Return the results of a subject."""
    result = subject.evaluator.results()["panoptic"]
    content: dict[str, Any] = {"options": subject.name, "cpu_ms": 1000 * median(subject.seconds)}
    content |= {group: result[group]["pq"] for group in ("all", "things", "stuff")}
    if subject is not plain:
        intervals = paired_intervals(plain.evaluator.resamples, subject.evaluator.resamples)
        content["difference"] = content["all"] - plain.evaluator.results()["panoptic"]["all"]["pq"]
        content["interval"] = list(intervals.difference.all.pq)
    return content


def main() -> int:
    """Run the measurement and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("options", nargs="+", metavar="OPTIONS", help='options of predict, such as "--tta flip"')
    parser.add_argument("--scenes", type=int, default=200, metavar="N", help="held-out scenes [200]")
    parser.add_argument("--size", default="128x128", metavar="HxW", help="size of the scenes [128x128]")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples for the intervals [1000]")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    arguments = parser.parse_args()
    try:
        size = parse_size(arguments.size)
        subjects = [subject_of(arguments.checkpoint, words, arguments.bootstrap) for words in ["", *arguments.options]]
    except PanformerError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    measure(subjects, arguments.scenes, size)
    rows = [row_of(subject, subjects[0]) for subject in subjects]
    if arguments.json:
        about = {"scenes": arguments.scenes, "size": size, "threads": torch.get_num_threads()}
        print(json.dumps({**about, "torch": torch.__version__, "rows": rows}, indent=2))
    else:
        columns = ["options", "PQ", "things", "stuff", "difference", "95 % interval", "CPU ms per image"]
        print_table(f"{arguments.scenes} scenes of {arguments.size}", columns, [as_text(row) for row in rows])
    losses = [row["difference"] for row, subject in zip(rows, subjects, strict=True) if subject.options.tile]
    return int(any(difference < -LARGEST_LOSS for difference in losses))


def as_text(row: dict[str, Any]) -> list[str | float | None]:
    """Return the cells of a row of the table."""
    interval = interval_text(row["interval"]) if "interval" in row else None
    return [row["options"], row["all"], row["things"], row["stuff"], row.get("difference"), interval, row["cpu_ms"]]


if __name__ == "__main__":
    sys.exit(main())
