"""Measure the cost of an image by its area, by the number of decoded thing queries, and by batch size.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --series area --precision bf16 --largest 4 --repeat 5
    python benchmarks/scaling.py --device cuda --plots docs/images --json

Uses the recipe r50 with random weights, from the decoded image to the merged map. Every point is measured in a separate
process, which also gives its peak memory. benchmarks/README.md explains the results.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

from panformer_cli import __version__
from panformer_cli.console import print_table
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.scenes.generator import SceneOptions, generate_scene
from panformer_cli.engine.benchmarking.meters import PeakMemory, Spread, clock_of, device_name
from panformer_cli.engine.benchmarking.random_model import random_model
from panformer_cli.engine.distributed.allocator import keep_freed_memory
from panformer_cli.engine.inference import Predictor
from panformer_cli.pages.chart import WIDTH, Chart, Series, chart_svg, series_class
from panformer_cli.recipe_io import load_recipe
from panformer_cli.storage.files import atomic_write

AREAS = (0.25, 0.5, 1, 2, 4, 8, 16)
"""Megapixels of the input, with sides 3:4."""
QUERIES = (25, 50, 100, 200, 300)
"""`inference.top_k`, at one megapixel."""
BATCHES = (1, 2, 4, 8)
"""Images of 512 x 512."""
PARTS = ("all", "network", "merging")
"""`all` includes resizing and normalizing the images."""
WARM_UP = 1
COLORS = ("#2563c9", "#c2410c", "#15803d")


@dataclass(frozen=True)
class Point:
    """A point of a series; height and width in pixels are those of the input and of the merged map."""

    height: int
    width: int
    queries: int = 100
    batch: int = 1

    @property
    def megapixels(self) -> float:
        """Megapixels of all images of the batch."""
        return self.height * self.width * self.batch / 1e6


class Cost(NamedTuple):
    """Cost of a batch at one point: seconds by `PARTS`, peak memory in MiB, and segments per image."""

    seconds: dict[str, Spread]
    peak_memory_mib: float | None
    segments: float


class Axis(NamedTuple):
    """The parameter of a series: its name, its value at a point, and the divisor of the costs in the plot."""

    label: str
    value: Callable[[Point], float]
    share: Callable[[Point], int]


AXES = {
    "area": Axis("megapixels", lambda point: round(point.megapixels, 2), lambda point: 1),
    "queries": Axis("thing queries decoded", lambda point: point.queries, lambda point: 1),
    "batch": Axis("images in a batch of 512 x 512", lambda point: point.batch, lambda point: point.batch),
}


def points_of(series: str, largest: float) -> list[Point]:
    """Return the points of a series, with areas up to `largest` megapixels."""
    if series == "queries":
        return [Point(*sides(1), queries=queries) for queries in QUERIES]
    if series == "batch":
        return [Point(512, 512, batch=batch) for batch in BATCHES]
    return [Point(*sides(area)) for area in AREAS if area <= largest]


def sides(megapixels: float) -> tuple[int, int]:
    """Return height and width of a 3:4 image."""
    height = math.sqrt(megapixels * 1e6 * 3 / 4)
    return round(height), round(height * 4 / 3)


def measure(point: Point, arguments: argparse.Namespace) -> Cost:
    """Measure a point in this process."""
    device = torch.device(arguments.device)
    if device.type == "cpu":
        keep_freed_memory()  # as all commands that run a model
    images = [
        generate_scene(SceneOptions(height=point.height, width=point.width), "val", index)[0]
        for index in range(point.batch)
    ]
    predictor = build_predictor(point, device, arguments.precision)
    read, memory = clock_of(device), PeakMemory(device)
    memory.reset()
    rows: dict[str, list[float]] = {part: [] for part in PARTS}
    for number in range(WARM_UP + arguments.repeat):
        begin = read()
        inputs = predictor.prepare(images)
        prepared = read()
        output = predictor.infer(*inputs)
        inferred = read()
        size = (point.height, point.width)
        maps = [predictor.postprocess(output, index, size).panoptic for index in range(point.batch)]
        end = read()
        if number >= WARM_UP:
            for part, seconds in zip(PARTS, (end - begin, inferred - prepared, end - inferred), strict=True):
                rows[part].append(seconds)
    segments = sum(len(panoptic.segments) for panoptic in maps) / point.batch
    return Cost({part: Spread.of(row) for part, row in rows.items()}, memory.mib(), segments)


def build_predictor(point: Point, device: torch.device, precision: Any) -> Predictor:
    """Return a predictor of the recipe r50 for the point's size, with random weights that predict segments."""
    sizes = f"data.short_side={min(point.height, point.width)}", f"data.long_side={max(point.height, point.width)}"
    recipe = load_recipe("r50", [*sizes, f"inference.top_k={point.queries}"])
    model = random_model(recipe, COCO)
    model.optimize_for_inference()
    return Predictor(model, recipe, device, precision)


def measure_alone(point: Point, arguments: argparse.Namespace) -> Cost:
    """Measure a point in a separate process."""
    options = ["--device", arguments.device, "--precision", arguments.precision, "--repeat", str(arguments.repeat)]
    command = [sys.executable, __file__, *options, "--point", json.dumps(asdict(point))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        fail(f"{point.height}x{point.width}, batch {point.batch}: measuring failed with exit code {done.returncode}")
    seconds, memory, segments = json.loads(done.stdout)
    return Cost({part: Spread(**spread) for part, spread in seconds.items()}, memory, segments)


def row_of(point: Point, cost: Cost) -> dict[str, Any]:
    """Return a row for JSON."""
    return {
        **asdict(point),
        "megapixels": point.megapixels,
        "seconds": {part: asdict(spread) for part, spread in cost.seconds.items()},
        "seconds_per_megapixel": cost.seconds["all"].median / point.megapixels,
        "peak_memory_mib": cost.peak_memory_mib,
        "segments": cost.segments,
    }


def growth(costs: dict[Point, Cost]) -> float | None:
    """Return seconds per megapixel at the largest area divided by those at one megapixel; None if one is missing."""
    by_area = {
        AXES["area"].value(point): cost.seconds["all"].median / point.megapixels for point, cost in costs.items()
    }
    return by_area[max(by_area)] / by_area[1] if 1 in by_area else None


def plot(series: str, costs: dict[Point, Cost]) -> str:
    """Return a plot of seconds per image over the series' parameter, as SVG."""
    axis = AXES[series]
    curves = [
        Series(
            part,
            [(axis.value(point), cost.seconds[part].median / axis.share(point)) for point, cost in costs.items()],
        )
        for part in PARTS
    ]
    chart = chart_svg(Chart(f"Cost with {axis.label}", curves, x_label=axis.label, y_label="seconds per image"))
    return standalone(chart, PARTS)


def standalone(chart: str, names: Sequence[str]) -> str:
    """Return a page's chart as a standalone SVG, with its style and a legend."""
    style = "text{fill:#555;font:12px sans-serif}.grid{stroke:#ddd;fill:none}.axis{stroke:#555;fill:none}"
    style += "polyline{fill:none;stroke-width:1.8}svg{background:#fff}"
    for number, color in enumerate(COLORS):
        name = series_class(number)
        style += f"polyline.{name}{{stroke:{color}}}circle.{name},text.{name}{{fill:{color}}}"
    key = "".join(
        f'<text class="{series_class(number)}" x="{WIDTH // 8}" y="{28 + 16 * number}">{name}</text>'
        for number, name in enumerate(names)
    )
    opened = chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return opened.replace(">", f"><style>{style}</style>", 1).replace("</svg>", f"{key}</svg>") + "\n"


def show(series: str, costs: dict[Point, Cost], arguments: argparse.Namespace) -> None:
    """Print the results as a table."""
    columns = [series, "input", "seconds", "min", "network", "merging", "s per Mpx", "peak MiB", "segments"]
    rows = [
        [
            f"{AXES[series].value(point):g}",
            f"{point.height}x{point.width}",
            f"{cost.seconds['all'].median:.3f}",
            f"{cost.seconds['all'].least:.3f}",
            *(f"{cost.seconds[part].median:.3f}" for part in PARTS[1:]),
            f"{cost.seconds['all'].median / point.megapixels:.3f}",
            cost.peak_memory_mib,
            cost.segments,
        ]
        for point, cost in costs.items()
    ]
    print_table(f"R-50, {arguments.precision}, cost with {AXES[series].label}", columns, rows)
    ratio = growth(costs) if series == "area" else None
    if ratio is not None:
        print(f"cost per Mpx, largest / 1 Mpx: {ratio:.2f}")


def fail(message: str) -> NoReturn:
    """Print an error on stderr and exit with code 2."""
    print(f"Error: {message}", file=sys.stderr)
    raise SystemExit(2)


def parse() -> argparse.Namespace:
    """Return the checked options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", choices=AXES, action="append", help="may be repeated [all]")
    parser.add_argument("--largest", type=float, default=AREAS[-1], metavar="MPX", help="largest area [16]")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="passes per point [3]")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu or cuda [cpu]")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write scaling_SERIES.svg there")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        fail(f"--repeat is {arguments.repeat}: expected 1 or more")
    if arguments.largest < AREAS[0]:
        fail(f"--largest is {arguments.largest}: expected {AREAS[0]} or more megapixels")
    return arguments


def main() -> None:
    """Parse the options, measure, and print the results."""
    arguments = parse()
    if arguments.point:
        print(json.dumps(measure(Point(**arguments.point), arguments), default=asdict))
        return
    content: dict[str, Any] = {}
    for series in arguments.series or AXES:
        costs = {point: measure_alone(point, arguments) for point in points_of(series, arguments.largest)}
        content[series] = [row_of(point, cost) for point, cost in costs.items()]
        if series == "area":
            content["growth"] = growth(costs)
        if arguments.plots:
            with atomic_write(arguments.plots / f"scaling_{series}.svg") as file:
                file.write_text(plot(series, costs), encoding="utf-8")
        if not arguments.json:
            show(series, costs, arguments)
    if arguments.json:
        device = {"device": arguments.device, "device_name": device_name(torch.device(arguments.device))}
        versions = {"panformer": __version__, "torch": torch.__version__, "threads": torch.get_num_threads()}
        settings = {"precision": arguments.precision, "repeat": arguments.repeat, "warm_up": WARM_UP}
        print(json.dumps({**content, **settings, **device, **versions}, indent=2))


if __name__ == "__main__":
    main()
