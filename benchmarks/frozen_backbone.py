"""Measure what `train.freeze=[backbone]` saves in a training step: time, memory, and what is kept and updated.

    python benchmarks/frozen_backbone.py
    python benchmarks/frozen_backbone.py --recipe convnext_tiny_dinov3 --size 480x640 --repeat 5 --json

The same model is trained with and without the frozen backbone, on the same batch of noise with 30 things and 6 stuff
classes per image. The steps alternate in one process, so that a busy machine slows down both. Memory is that of the
tensors: weights, gradients, the optimizer's moments and activations, at the peak of two steps. On a GPU or a CPU, the
memory of libraries and what an allocator holds back come on top, and they are the same for both.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
from dataclasses import asdict
from typing import Any

from training_memory import KeptBytes, state_bytes
from training_setup import (
    STAGES,
    about,
    machine,
    parse,
    run_comparison,
    staged_step,
    step_of,
    step_parser,
    whole_step,
)

from panformer_cli.console import print_table
from panformer_cli.engine.benchmarking.meters import Spread
from panformer_cli.engine.training.memory.probe import LiveTensors

THINGS = 30
MIB = 2**20
MODES = {"trained": (), "frozen": ("train.freeze=[backbone]",)}
BACKWARD = STAGES.index("losses") + 1
"""Stages from here on are the backward pass, except for the last one."""


def memory_of(arguments: argparse.Namespace, settings: tuple[str, ...]) -> dict[str, Any]:
    """Return the numbers of parameters, and the MiB of a step: kept for the backward pass, state, and peak."""
    gc.collect()
    live = LiveTensors(math.inf)
    with live:
        step = step_of(arguments, THINGS, settings)
        kept = KeptBytes(step.model)
        whole_step(step)
        with kept.counted():
            whole_step(step)
    trained = [parameter for parameter in step.model.parameters() if parameter.requires_grad]
    return {
        "parameters": sum(parameter.numel() for parameter in step.model.parameters()),
        "trained_parameters": sum(parameter.numel() for parameter in trained),
        "kept_mib": {part: size / MIB for part, size in kept.by_part.items()},
        "state_mib": state_bytes(step) / MIB,
        "peak_mib": live.peak / MIB,
    }


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all measurements, ready for JSON."""
    found = {mode: memory_of(arguments, settings) for mode, settings in MODES.items()}
    steps = {mode: step_of(arguments, THINGS, settings) for mode, settings in MODES.items()}
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    stages: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    for step in steps.values():
        whole_step(step)  # the first step creates the optimizer's moments
    for _ in range(arguments.repeat):
        for mode, step in steps.items():
            seconds[mode].append(whole_step(step))
            stages[mode].append(staged_step(step))
    ratios = [one / other for one, other in zip(seconds["frozen"], seconds["trained"], strict=True)]
    for mode, content in found.items():
        content["seconds"] = asdict(Spread.of(seconds[mode]))
        content["stages"] = {stage: asdict(Spread.of([one[stage] for one in stages[mode]])) for stage in STAGES}
    return about(arguments) | {"modes": found, "ratio": asdict(Spread.of(ratios))}


def show(content: dict[str, Any]) -> None:
    """Print the results as a table."""
    height, width = content["size"]
    title = f"{content['recipe']}, {height}x{width}, batch {content['batch']}, {content['precision']}, {THINGS} things"
    cells = [_cells(mode) for mode in content["modes"].values()]
    rows = [[name, *(each[name] for each in cells)] for name in cells[0]]
    print_table(title, ["backbone", *content["modes"]], rows)
    ratio = content["ratio"]
    spread = f"{ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f}"
    print(f"step, frozen / trained: {ratio['median']:.2f} ({spread}), {content['repeat']} interleaved runs")
    print(machine(content))


def _cells(mode: dict[str, Any]) -> dict[str, str]:
    median = {stage: spread["median"] for stage, spread in mode["stages"].items()}
    return {
        "trained parameters, M": f"{mode['trained_parameters'] / 1e6:.1f}",
        "weights, gradients, moments, MiB": f"{mode['state_mib']:.0f}",
        "kept by the backbone, MiB": f"{mode['kept_mib']['backbone']:.0f}",
        "kept by everything, MiB": f"{sum(mode['kept_mib'].values()):.0f}",
        "peak of all tensors, MiB": f"{mode['peak_mib']:.0f}",
        "forward of the backbone, s": f"{median['backbone']:.2f}",
        "backward, s": f"{sum(median[stage] for stage in STAGES[BACKWARD:-1]):.2f}",
        "optimizer, s": f"{median['optimizer']:.2f}",
        "step, s": f"{mode['seconds']['median']:.2f}",
    }


def main(words: list[str]) -> None:
    """Parse the options, compare, and print the results."""
    run_comparison(parse(step_parser(__doc__ or "", "320x480"), words), compare, show)


if __name__ == "__main__":
    main(sys.argv[1:])
