"""Measure a training step, stage by stage: forward, losses, backward and optimizer.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --recipe r50 --size 800x1333 --batch 1 --repeat 5 --device cuda --json

The compared steps alternate on one model: one uses panformer's default sampling for the device (`auto`), the other
plain PyTorch (`portable`). Images are noise, weights are random, and every image has ten things and six stuff classes,
which are rectangles. The stages of the backward pass are listed in the order in which they run; that of the decoders
includes the losses. On a GPU the device is synchronized before each reading, so the stages together take longer than a
normal step: `step` is measured without readings in between.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

from training_setup import STAGES, about, machine, parse, run_comparison, staged_step, step_of, step_parser, whole_step

from panformer_cli.console import print_table
from panformer_cli.engine.benchmarking.meters import PeakMemory, Spread
from panformer_cli.models.layers.sampling import SamplingName

SAMPLINGS: tuple[SamplingName, SamplingName] = ("auto", "portable")
WARM_UP = 1
THINGS = 10
"""Number of things per image."""


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all measurements in seconds, ready for JSON."""
    step = step_of(arguments, THINGS)
    memory = PeakMemory(step.device)
    whole: dict[SamplingName, list[float]] = {name: [] for name in SAMPLINGS}
    staged: dict[SamplingName, list[dict[str, float]]] = {name: [] for name in SAMPLINGS}
    peaks: dict[SamplingName, float | None] = {}
    for number in range(WARM_UP + arguments.repeat):
        for name in SAMPLINGS:
            step.sample_by(name)
            memory.reset()
            seconds, stages = whole_step(step), staged_step(step)
            peaks[name] = memory.mib()
            if number >= WARM_UP:
                whole[name].append(seconds)
                staged[name].append(stages)
    return {
        **about(arguments),
        "samplings": {name: _figures(whole[name], staged[name], peaks[name]) for name in SAMPLINGS},
        "ratio": asdict(Spread.of([one / other for one, other in zip(*whole.values(), strict=True)])),
    }


def _figures(whole: list[float], staged: list[dict[str, float]], memory: float | None) -> dict[str, Any]:
    stages = {stage: asdict(Spread.of([seconds[stage] for seconds in staged])) for stage in STAGES}
    return {"step": asdict(Spread.of(whole)), "stages": stages, "peak_memory_mib": memory}


def show(content: dict[str, Any]) -> None:
    """Print the results as a table."""
    height, width = content["size"]
    auto, portable = content["samplings"].values()
    total = sum(stage["median"] for stage in auto["stages"].values())
    rows = [
        [stage, 1e3 * figure["median"], 100 * figure["median"] / total, 1e3 * portable["stages"][stage]["median"]]
        for stage, figure in auto["stages"].items()
    ]
    rows.append(["step", 1e3 * auto["step"]["median"], None, 1e3 * portable["step"]["median"]])
    title = (
        f"{content['recipe']}, {height}x{width}, batch {content['batch']}, {content['precision']}, random weights, "
        f"{content['repeat']} runs"
    )
    print_table(title, ["stage", "ms", "% of stages", "portable, ms"], rows)
    ratio = content["ratio"]
    spread = f"{ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f}"
    print(f"step, auto / portable: {ratio['median']:.2f} ({spread})")
    if auto["peak_memory_mib"]:
        print(f"peak memory: {auto['peak_memory_mib']:.0f} MiB")
    print(machine(content))


def main(words: list[str]) -> None:
    """Parse the options, compare, and print the results."""
    run_comparison(parse(step_parser(__doc__ or "", "480x640"), words), compare, show)


if __name__ == "__main__":
    main(sys.argv[1:])
