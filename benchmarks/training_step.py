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
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NoReturn

import timm
import torch
from torch import Tensor, nn

from panformer_cli import __version__
from panformer_cli.console import print_table
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.structures import Batch, Targets
from panformer_cli.engine.benchmarking.benchmark import parse_size
from panformer_cli.engine.benchmarking.meters import PeakMemory, Spread, clock_of, device_name
from panformer_cli.engine.training.optimizer import build_optimizer
from panformer_cli.errors import PanformerError
from panformer_cli.models.base import LossCounts, PanopticModel
from panformer_cli.models.build import build_model
from panformer_cli.models.layers.deformable_attention import DeformableAttention
from panformer_cli.models.layers.sampling import SamplingName, sampling_named
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import load_recipe

SAMPLINGS: tuple[SamplingName, SamplingName] = ("auto", "portable")
WARM_UP = 1
THINGS, STUFF = 10, 6
"""Number of segments per image."""
FORWARD = ("backbone", "neck", "encoder", "location_decoder", "matching", "thing_mask_decoder", "stuff_mask_decoder")
BACKWARD = ("backward decoders", "backward encoder", "backward neck, backbone")
STAGES = (*FORWARD, "losses", *BACKWARD, "optimizer")


class TrainingStep:
    """A model, its optimizer and a batch, as in `panformer train`."""

    def __init__(
        self, recipe: Recipe, size: tuple[int, int], batch: int, device: torch.device, things: int = THINGS
    ) -> None:
        torch.manual_seed(0)
        self.recipe, self.device, self.counts = recipe, device, LossCounts(things, STUFF)
        model = build_model(recipe.model, recipe.inference, COCO, pretrained=False)
        self.model: PanopticModel = model.to(device).train()
        self.optimizer = build_optimizer(self.model, recipe.train)
        targets = [random_targets(size, things) for _ in range(batch)]
        padding_mask = torch.zeros(batch, *size, dtype=torch.bool)
        self.batch = Batch(torch.randn(batch, 3, *size), padding_mask, targets).to(device)

    def __call__(self, mark: Callable[[str], None]) -> None:
        """Run one step; `mark` is called with the name of each stage when it ends."""
        loss = self.loss()
        mark("losses")
        loss.backward()
        mark(BACKWARD[2])
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.train.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        mark("optimizer")

    def loss(self) -> Tensor:
        """Return the loss of a forward pass."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.train.precision == "bf16"):
            losses = self.model(self.batch, self.counts)
        return torch.stack(list(losses.values())).sum()

    def sample_by(self, name: SamplingName) -> None:
        """Use this sampling implementation from the next step on."""
        for module in self.model.modules():
            if isinstance(module, DeformableAttention):
                module.sampling = sampling_named(name)


def random_targets(size: tuple[int, int], count: int) -> Targets:
    """Return `count` things, and stuff: rectangles of up to half of the image's sides, each with a different label."""
    height, width = size
    things = torch.randperm(COCO.num_things)[:count]
    stuff = COCO.num_things + torch.randperm(COCO.num_stuff)[:STUFF]
    extent = torch.tensor([width, height])
    low = (torch.rand(count + STUFF, 2) * 0.5 * extent).floor()
    high = low + 1 + (torch.rand(count + STUFF, 2) * 0.5 * (extent - 2)).floor()
    masks = torch.zeros(count + STUFF, *size, dtype=torch.bool)
    boxes = torch.cat([low, high], 1)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return Targets(torch.cat([things, stuff]), boxes, masks)


def whole_step(step: TrainingStep) -> float:
    """Return the seconds of a step that reads the clock only before and after it."""
    read = clock_of(step.device)
    begin = read()
    step(lambda _: None)
    return read() - begin


def staged_step(step: TrainingStep) -> dict[str, float]:
    """Return the seconds of each of `STAGES`."""
    read = clock_of(step.device)
    marks: list[tuple[str, float]] = [("begin", read())]
    handles = add_hooks(step.model, lambda name: marks.append((name, read())))
    try:
        step(lambda name: marks.append((name, read())))
    finally:
        for handle in handles:
            handle.remove()
    pairs = zip(marks, marks[1:], strict=False)
    return {name: now - before for (_, before), (name, now) in pairs}


def add_hooks(model: PanopticModel, mark: Callable[[str], None]) -> list[Any]:
    """Return hooks that report when a part ends, and when the backward pass reaches its output.

    Matching is between the location decoder and the mask decoder of the things.
    """

    def ended(part: str, output: Any) -> None:
        mark(part)
        if part == "encoder":
            output.tokens.register_hook(lambda _: mark(BACKWARD[0]))
        elif part == "neck":
            output[0].register_hook(lambda _: mark(BACKWARD[1]))

    parts = {part: model.get_submodule(part) for part in FORWARD if part != "matching"}
    matched = parts["thing_mask_decoder"].register_forward_pre_hook(lambda *_: mark("matching"))
    return [
        matched,
        *(
            module.register_forward_hook(lambda _, __, output, part=part: ended(part, output))
            for part, module in parts.items()
        ),
    ]


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all measurements in seconds, ready for JSON."""
    device = torch.device(arguments.device)
    recipe = load_recipe(arguments.recipe, [f"train.precision={arguments.precision}", "model.backbone_weights=none"])
    step = TrainingStep(recipe, arguments.size, arguments.batch, device)
    memory = PeakMemory(device)
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
        **{key: getattr(arguments, key) for key in ("recipe", "size", "batch", "precision", "repeat", "device")},
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {"panformer": __version__, "torch": torch.__version__, "timm": timm.__version__},
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
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    print(f"{content['device']} ({content['device_name']}), {content['threads']} threads, {versions}")


def fail(message: str) -> NoReturn:
    """Print an error on stderr and exit with code 2."""
    print(f"Error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    """Parse the options, compare, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="r50", help="name or YAML file [r50]")
    parser.add_argument("--size", default="480x640", metavar="HxW", help="size of the images [480x640]")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images per step [1]")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the matrix products [fp32]")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each [3]")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu or cuda [cpu]")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    arguments = parser.parse_args()
    if min(arguments.repeat, arguments.batch) < 1:
        fail("--repeat and --batch: expected 1 or more")
    try:
        arguments.size = parse_size(arguments.size)
        content = compare(arguments)
    except PanformerError as error:
        fail(str(error))
    if arguments.json:
        print(json.dumps(content, indent=2))
    else:
        show(content)


if __name__ == "__main__":
    main()
