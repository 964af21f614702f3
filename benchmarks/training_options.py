"""Measure a training step with each option that changes how it is computed: time, memory, and whether the loss agrees.

    python benchmarks/training_options.py --device cuda
    python benchmarks/training_options.py --device cuda --options fp32 bf16 "bf16, encoder compiled" --json

Each option is measured with a new model of the same random weights, on the same batch of noise, with the trainer's own
step (`OptimizerStep`): precisions, TF32, EMA, AdamW that is not fused, deterministic algorithms, activation
checkpointing and compiled parts. Dropout is off, so that the loss of the first step is the same up to rounding. An
option that fails is reported, and the others run. The exit code is 1 if one failed, or if its loss is off by more than
5 %.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from training_setup import about, fail, machine, parse, random_batch, step_parser

from panformer_cli.console import print_table
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.engine.benchmarking.meters import PeakMemory, Spread, clock_of
from panformer_cli.engine.distributed.runtime import Process, ProcessOptions, device_of
from panformer_cli.engine.training.averaging import AveragedWeights
from panformer_cli.engine.training.memory.parts import use_parts
from panformer_cli.engine.training.numerics import numerics
from panformer_cli.engine.training.step import OptimizerStep
from panformer_cli.errors import PanformerError
from panformer_cli.models.build import build_model
from panformer_cli.models.layers.sampling import SamplingName
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import load_recipe
from panformer_cli.reporting import SilentReporter

THINGS = 30
WARM_UP = 2
OVERFLOWS = 20
"""Steps that fp16 may skip until its scale is low enough."""
TOLERANCE = 0.05
"""Of the loss, relative to that of the first option that is measured."""


@dataclass(frozen=True)
class Option:
    """What to measure.

    Attributes:
        settings: As `--set`.
        sampling: Implementation of the sampling step of deformable attention.
        fused: Whether AdamW is fused, as it is by default.
    """

    settings: tuple[str, ...]
    sampling: SamplingName = "auto"
    fused: bool = True


BF16 = "train.precision=bf16"
MOST = "encoder,stuff_masks,thing_masks,location_decoder"
OPTIONS = {
    "fp32": Option(("train.tf32=false",)),
    "fp32, TF32": Option(("train.tf32=true",)),
    "fp16": Option(("train.precision=fp16",)),
    "bf16": Option((BF16,)),
    "bf16, EMA": Option((BF16, "train.ema_decay=0.9998")),
    "bf16, AdamW not fused": Option((BF16,), fused=False),
    "bf16, encoder checkpointed": Option((BF16, "train.checkpoint=[encoder]")),
    "bf16, deterministic": Option((BF16, "train.deterministic=true"), sampling="gather"),
    "bf16, encoder compiled": Option((BF16, "train.compile=[encoder]")),
    "bf16, all but backbone compiled": Option((BF16, f"train.compile=[{MOST}]")),
    "bf16, encoder compiled and checkpointed": Option((BF16, "train.compile=[encoder]", "train.checkpoint=[encoder]")),
}
DEFAULT = [name for name in OPTIONS if "compiled" not in name]
"""Compiling takes a minute for each."""


def measure(option: Option, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return time, memory and loss of an option, ready for JSON."""
    settings = ["model.backbone_weights=none", "model.dropout=0", f"train.batch_size={arguments.batch}"]
    settings += [f"train.images_per_forward={arguments.batch}", *option.settings]
    recipe = load_recipe(arguments.recipe, settings)
    process = Process(0, 1, device_of(ProcessOptions(device=arguments.device)), sampling=option.sampling)
    with numerics(recipe.train, process, SilentReporter()):
        take, memory = _prepared(recipe, option, process, arguments), PeakMemory(process.device)
        memory.reset()
        read = clock_of(process.device)
        began = read()
        loss, skipped = _first_loss(take)
        first = read() - began
        seconds = []
        for _ in range(WARM_UP + arguments.repeat):
            began = read()
            take()
            seconds.append(read() - began)
    spread = asdict(Spread.of(seconds[WARM_UP:]))
    return {"seconds": spread, "first": first, "loss": loss, "skipped": skipped, "peak_memory_mib": memory.mib()}


def _prepared(recipe: Recipe, option: Option, process: Process, arguments: argparse.Namespace) -> Callable[[], float]:
    """Return a function that takes a step, and returns its loss; NaN if it was skipped."""
    torch.manual_seed(0)
    model = build_model(recipe.model, recipe.inference, COCO, pretrained=False, sampling=process.sampling)
    model.to(process.device)
    use_parts(model, recipe.train, process.device, SilentReporter())
    step = OptimizerStep(process, model, recipe.train)
    if not option.fused:
        for group in step.optimizer.param_groups:
            group["fused"] = None  # torch's choice, which is `foreach` on a GPU
    decay = recipe.train.ema_decay
    average = AveragedWeights(model, decay) if decay is not None else None
    batch = random_batch(arguments.size, arguments.batch, min(THINGS, COCO.num_things))

    def take() -> float:
        result = step.take([batch], 1.0)
        if average is not None:
            average.update(model, 1)
        return result.loss

    return take


def _first_loss(take: Callable[[], float]) -> tuple[float, int]:
    """Return the loss of the first step that is not skipped, and the number of those before it."""
    for skipped in range(OVERFLOWS):
        if (loss := take()) == loss:
            return loss, skipped
    raise PanformerError(f"{OVERFLOWS} steps in a row were not finite")


def measured(name: str, arguments: argparse.Namespace, reference: float | None) -> dict[str, Any]:
    """Return the measurements of an option, or why there are none."""
    try:
        found = measure(OPTIONS[name], arguments)
    except Exception as error:  # the other options are measured anyway
        return {"option": name, "error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
    finally:
        gc.collect()
        if arguments.device != "cpu":
            torch.cuda.empty_cache()
    difference = 0.0 if reference is None else abs(found["loss"] / reference - 1)
    if not difference <= TOLERANCE:
        found["error"] = f"the loss is {found['loss']:.4f} instead of {reference:.4f}"
    return {"option": name, **found, "loss_difference": difference}


def show(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Print the results as a table."""
    height, width = arguments.size
    cells = [[row["option"], *_cells(row), row.get("error")] for row in rows]
    print_table(
        f"{arguments.recipe}, {height}x{width}, batch {arguments.batch}, {THINGS} things",
        ["option", "step, ms", "first step, s", "peak, MiB", "loss difference", "skipped", "error"],
        cells,
    )
    print(machine(about(arguments)))


def _cells(row: dict[str, Any]) -> list[Any]:
    if "seconds" not in row:
        return [None] * 5
    difference = f"{row['loss_difference']:.1e}"
    return [1e3 * row["seconds"]["median"], row["first"], row["peak_memory_mib"], difference, row["skipped"]]


def main(words: list[str]) -> int:
    """Measure the options and return the exit code."""
    parser = step_parser(__doc__ or "", "800x1333", precisions=())
    parser.add_argument("--options", nargs="+", default=DEFAULT, metavar="O", help=f"some of: {'; '.join(OPTIONS)}")
    arguments = parse(parser, words)
    if unknown := [name for name in arguments.options if name not in OPTIONS]:
        fail(f"--options: unknown {', '.join(unknown)}; expected some of: {'; '.join(OPTIONS)}")
    rows: list[dict[str, Any]] = []
    for name in arguments.options:
        reference = next((row["loss"] for row in rows if "loss" in row), None)
        rows.append(measured(name, arguments, reference))
        if arguments.json:
            print(json.dumps({**about(arguments), **rows[-1]}), flush=True)
    if not arguments.json:
        show(rows, arguments)
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
