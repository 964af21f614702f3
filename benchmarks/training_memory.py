"""Measure the memory and time of a training step with and without activation checkpointing.

    python benchmarks/training_memory.py
    python benchmarks/training_memory.py --size 480x640 --checkpoint "" encoder encoder,stuff_masks --repeat 3 --json

Each list of parts (see `train.checkpoint`; "" is no checkpointing) is measured in a process of its own: the peak of the
process, and the bytes that each part of the model keeps for the backward pass. Then all lists alternate in one process,
step by step, for their time and their gradients. Images are noise, weights are random, and every image has 30 things
and 6 stuff classes, which are rectangles.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from training_step import TrainingStep, fail, whole_step

from panformer_cli import __version__
from panformer_cli.console import print_table
from panformer_cli.engine.benchmarking.benchmark import parse_size
from panformer_cli.engine.benchmarking.meters import PeakMemory, Spread, device_name
from panformer_cli.engine.distributed.runtime import ProcessOptions, device_of
from panformer_cli.errors import PanformerError
from panformer_cli.models.base import PanopticModel
from panformer_cli.models.layers.recompute import recompute_in_backward
from panformer_cli.recipe_io import load_recipe

THINGS = 30
"""Objects per image: more than 98 % of the images of COCO have."""
PARTS = ("backbone", "neck", "encoder", "location_decoder", "thing_mask_decoder", "stuff_mask_decoder")
EVERYTHING = "encoder,stuff_masks,thing_masks,location_decoder,backbone"
LISTS = ("", "encoder", "encoder,stuff_masks", EVERYTHING)


class KeptBytes:
    """The bytes that each part of a model keeps for the backward pass: storages of saved tensors, weights excluded.

    Attributes:
        by_part: bytes by the part that saved a storage first. "losses" is everything outside of the parts.
    """

    def __init__(self, model: PanopticModel) -> None:
        self.by_part = dict.fromkeys((*PARTS, "losses"), 0)
        self._model = model
        self._part = "losses"
        self._seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is saved in this context."""
        handles = []
        for part in PARTS:
            module = self._model.get_submodule(part)
            handles.append(module.register_forward_pre_hook(lambda *_, part=part: self._enter(part)))
            handles.append(module.register_forward_hook(lambda *_: self._enter("losses")))
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, part: str) -> None:
        self._part = part

    def _save(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:  # nothing that is saved is freed before the backward pass
            self._seen.add(storage.data_ptr())
            self.by_part[self._part] += storage.nbytes()
        return tensor


def step_of(arguments: argparse.Namespace) -> TrainingStep:
    """Return the model, optimizer and batch that the options describe."""
    overrides = [f"train.precision={arguments.precision}", "model.backbone_weights=none"]
    recipe = load_recipe(arguments.recipe, overrides)
    device = device_of(ProcessOptions(device=arguments.device))  # keeps freed memory, like training
    return TrainingStep(recipe, arguments.size, arguments.batch, device, THINGS)


def checkpoint_parts(model: PanopticModel, names: str) -> None:
    """Checkpoint exactly the named parts."""
    chosen = set(filter(None, names.split(",")))
    for name, modules in model.parts().items():
        for module in modules:
            module.__dict__.pop("forward", None)
        if name in chosen:
            recompute_in_backward(modules)


def memory_of(arguments: argparse.Namespace, names: str) -> dict[str, Any]:
    """Return the peak memory of two steps in this process, and the kept bytes of the second one, in MiB."""
    step = step_of(arguments)
    checkpoint_parts(step.model, names)
    peak, kept = PeakMemory(step.device), KeptBytes(step.model)
    peak.reset()
    before = peak.mib()
    whole_step(step)
    with kept.counted():
        whole_step(step)
    return {"before": before, "peak": peak.mib(), "kept": {part: size / 2**20 for part, size in kept.by_part.items()}}


def times_of(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the seconds of each list's steps, and the largest difference of its gradients from those of the first."""
    step, lists = step_of(arguments), arguments.checkpoint
    seconds: list[list[float]] = [[] for _ in lists]
    differences: list[float] = []
    reference: list[Tensor] = []
    for names in lists:
        checkpoint_parts(step.model, names)
        gradients = gradients_of(step)
        reference = reference or gradients
        pairs = zip(gradients, reference, strict=True)
        differences.append(
            max(float((one - other).abs().max() / other.abs().max().clamp(min=1e-30)) for one, other in pairs)
        )
        del gradients
    for _ in range(arguments.repeat):
        for names, measured in zip(lists, seconds, strict=True):
            checkpoint_parts(step.model, names)
            measured.append(whole_step(step))
    ratios = [[one / other for one, other in zip(each, seconds[0], strict=True)] for each in seconds]
    return [
        {"seconds": asdict(Spread.of(each)), "ratio": asdict(Spread.of(ratio)), "gradient_difference": difference}
        for each, ratio, difference in zip(seconds, ratios, differences, strict=True)
    ]


def gradients_of(step: TrainingStep) -> list[Tensor]:
    """Return the gradients of a pass with a fixed seed, without an optimizer step."""
    torch.manual_seed(1)
    trained = [parameter for parameter in step.model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(step.loss(), trained, allow_unused=True)
    return [torch.zeros(1) if gradient is None else gradient for gradient in gradients]


def compare(arguments: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    """Return all measurements, ready for JSON."""
    memories = []
    for names in arguments.checkpoint:
        command = [sys.executable, __file__, *words, "--only", names]
        memories.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    times = times_of(arguments) if arguments.repeat else [{}] * len(memories)
    rows = zip(arguments.checkpoint, memories, times, strict=True)
    return {
        **{key: getattr(arguments, key) for key in ("recipe", "size", "batch", "precision", "repeat", "device")},
        "device_name": device_name(torch.device(arguments.device)),
        "threads": torch.get_num_threads(),
        "versions": {"panformer": __version__, "torch": torch.__version__},
        "rows": [{"checkpoint": names, **memory, **time} for names, memory, time in rows],
    }


def show(content: dict[str, Any]) -> None:
    """Print the results as tables."""
    height, width = content["size"]
    title = f"{content['recipe']}, {height}x{width}, batch {content['batch']}, {content['precision']}, {THINGS} things"
    kept = [
        [row["checkpoint"] or "nothing", *row["kept"].values(), sum(row["kept"].values())] for row in content["rows"]
    ]
    print_table(f"{title}: MiB kept for the backward pass", ["checkpointed", *PARTS, "losses", "sum"], kept)
    rows = []
    for row in content["rows"]:
        time = (
            [row["seconds"]["median"], row["ratio"]["median"], row["gradient_difference"]]
            if "ratio" in row
            else [None] * 3
        )
        rows.append([row["checkpoint"] or "nothing", row["before"], row["peak"], *time])
    print_table(title, ["checkpointed", "before, MiB", "peak, MiB", "step, s", "ratio", "gradient difference"], rows)
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    print(f"{content['device']} ({content['device_name']}), {content['threads']} threads, {versions}")


def main(words: list[str]) -> None:
    """Parse the options, measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="r50", help="name or YAML file [r50]")
    parser.add_argument("--size", default="800x1333", metavar="HxW", help="size of the images [800x1333]")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images per step [1]")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the matrix products [fp32]")
    parser.add_argument("--checkpoint", nargs="+", default=LISTS, metavar="PARTS", help="lists of parts to compare")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="timed steps of each; 0: memory only [3]")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu or cuda [cpu]")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--only", metavar="PARTS", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.repeat < 0 or arguments.batch < 1:
        fail("--repeat: expected 0 or more; --batch: expected 1 or more")
    try:
        arguments.size = parse_size(arguments.size)
        if arguments.only is not None:
            print(json.dumps(memory_of(arguments, arguments.only)))
            return
        content = compare(arguments, words)
    except PanformerError as error:
        fail(str(error))
    if arguments.json:
        print(json.dumps(content, indent=2))
    else:
        show(content)


if __name__ == "__main__":
    main(sys.argv[1:])
