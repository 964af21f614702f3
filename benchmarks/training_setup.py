"""What the benchmarks of a training step share: a model with a batch, the stages of a step, and common options."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import timm
import torch
from torch import Tensor, nn

from panformer_cli import __version__
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.structures import Batch, Targets
from panformer_cli.engine.benchmarking.benchmark import parse_size
from panformer_cli.engine.benchmarking.meters import clock_of, device_name
from panformer_cli.engine.distributed.runtime import ProcessOptions, device_of
from panformer_cli.engine.precision import autocast
from panformer_cli.engine.training.optimizer import build_optimizer
from panformer_cli.errors import PanformerError
from panformer_cli.models.base import LossCounts, PanopticModel
from panformer_cli.models.build import build_model
from panformer_cli.models.layers.deformable_attention import DeformableAttention
from panformer_cli.models.layers.sampling import SamplingName, sampling_named
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import load_recipe

STUFF = 6
"""Number of stuff segments per image."""
PARTS = ("backbone", "neck", "encoder", "location_decoder", "thing_mask_decoder", "stuff_mask_decoder")
FORWARD = (*PARTS[:4], "matching", *PARTS[4:])
BACKWARD = ("backward decoders", "backward encoder", "backward neck, backbone")
STAGES = (*FORWARD, "losses", *BACKWARD, "optimizer")


class TrainingStep:
    """A model with random weights, its optimizer, and a batch of noise whose segments are rectangles.

    Attributes:
        handles: Hooks of the model that a benchmark added.
    """

    def __init__(self, recipe: Recipe, size: tuple[int, int], batch: int, device: torch.device, things: int) -> None:
        torch.manual_seed(0)
        self.recipe, self.device, self.counts = recipe, device, LossCounts(things, STUFF)
        model = build_model(recipe.model, recipe.inference, COCO, pretrained=False)
        model.freeze(recipe.train.freeze)
        self.model: PanopticModel = model.to(device).train()
        self.optimizer = build_optimizer(self.model, recipe.train)
        self.batch = random_batch(size, batch, things).to(device)
        self.handles: list[Any] = []

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
        with autocast(self.recipe.train.precision, self.device):
            losses = self.model(self.batch, self.counts)
        return torch.stack(list(losses.values())).sum()

    def sample_by(self, name: SamplingName) -> None:
        """Use this sampling implementation from the next step on."""
        for module in self.model.modules():
            if isinstance(module, DeformableAttention):
                module.sampling = sampling_named(name)


def random_batch(size: tuple[int, int], images: int, things: int) -> Batch:
    """Return images of noise with random targets."""
    targets = [random_targets(size, things) for _ in range(images)]
    padding_mask = torch.zeros(images, *size, dtype=torch.bool)
    return Batch(torch.randn(images, 3, *size), padding_mask, targets, [*range(images)])


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


def step_clock(device: torch.device) -> Callable[[], float]:
    """Return a clock, in seconds: on a CPU with one thread that of CPU time, which other load hardly changes."""
    single = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if single else clock_of(device)


def whole_step(step: TrainingStep) -> float:
    """Return the seconds of a step that reads the clock only before and after it."""
    read = step_clock(step.device)
    begin = read()
    step(lambda _: None)
    return read() - begin


def staged_step(step: TrainingStep) -> dict[str, float]:
    """Return the seconds of each of `STAGES`."""
    read = step_clock(step.device)
    marks: list[tuple[str, float]] = [("begin", read())]
    handles = _add_hooks(step.model, lambda name: marks.append((name, read())))
    try:
        step(lambda name: marks.append((name, read())))
    finally:
        for handle in handles:
            handle.remove()
    pairs = zip(marks, marks[1:], strict=False)
    return {name: now - before for (_, before), (name, now) in pairs}


def _add_hooks(model: PanopticModel, mark: Callable[[str], None]) -> list[Any]:
    """Return hooks that report when a part ends, and when the backward pass reaches its output.

    Matching is between the location decoder and the mask decoder of the things.
    """

    def ended(part: str, output: Any) -> None:
        mark(part)
        if part == "encoder":
            output.tokens.register_hook(lambda _: mark(BACKWARD[0]))
        elif part == "neck":
            output[0].register_hook(lambda _: mark(BACKWARD[1]))

    parts = {part: model.get_submodule(part) for part in PARTS}
    matched = parts["thing_mask_decoder"].register_forward_pre_hook(lambda *_: mark("matching"))
    return [
        matched,
        *(
            module.register_forward_hook(lambda _, __, output, part=part: ended(part, output))
            for part, module in parts.items()
        ),
    ]


def step_parser(description: str, size: str, precisions: Sequence[str] = ("fp32", "bf16")) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks of a training step have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="r50", help="name or YAML file [r50]")
    parser.add_argument("--size", default=size, metavar="HxW", help=f"size of the images [{size}]")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images per step [1]")
    if precisions:
        parser.add_argument("--precision", choices=precisions, default="fp32", help="of the matrix products [fp32]")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="timed steps of each [3]")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu or cuda [cpu]")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


def parse(parser: argparse.ArgumentParser, words: Sequence[str], least_repeat: int = 1) -> argparse.Namespace:
    """Return the options; `size` is (height, width). Exit with code 2 if a number is too small or the size invalid."""
    arguments = parser.parse_args(words)
    if arguments.repeat < least_repeat or arguments.batch < 1:
        fail(f"--repeat: expected {least_repeat} or more; --batch: expected 1 or more")
    try:
        arguments.size = parse_size(arguments.size)
    except PanformerError as error:
        fail(str(error))
    return arguments


def step_of(arguments: argparse.Namespace, things: int, settings: Sequence[str] = ()) -> TrainingStep:
    """Return the model, optimizer and batch that the options describe; `settings` as for `--set`."""
    overrides = [f"train.precision={arguments.precision}", "model.backbone_weights=none", *settings]
    recipe = load_recipe(arguments.recipe, overrides)
    device = device_of(ProcessOptions(device=arguments.device))  # keeps freed memory, like training
    return TrainingStep(recipe, arguments.size, arguments.batch, device, things)


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options and the machine, for JSON."""
    keys = ("recipe", "size", "batch", "precision", "repeat", "device")
    return {
        **{key: getattr(arguments, key) for key in keys if hasattr(arguments, key)},
        "device_name": device_name(torch.device(arguments.device)),
        "threads": torch.get_num_threads(),
        "versions": {"panformer": __version__, "torch": torch.__version__, "timm": timm.__version__},
    }


def machine(content: dict[str, Any]) -> str:
    """Return a line about the machine of `about`."""
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    return f"{content['device']} ({content['device_name']}), {content['threads']} threads, {versions}"


def run_comparison(
    arguments: argparse.Namespace,
    compare: Callable[[argparse.Namespace], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
) -> None:
    """Compare, and print the results as tables or, with `--json`, as JSON; errors end the program."""
    try:
        content = compare(arguments)
    except PanformerError as error:
        fail(str(error))
    if arguments.json:
        print(json.dumps(content, indent=2))
    else:
        show(content)


def fail(message: str) -> NoReturn:
    """Print an error on stderr and exit with code 2."""
    print(f"Error: {message}", file=sys.stderr)
    raise SystemExit(2)
