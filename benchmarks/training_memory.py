"""Measure the memory and time of a training step, part by part, with and without activation checkpointing.

    python benchmarks/training_memory.py
    python benchmarks/training_memory.py --size 480x640 --checkpoint "" encoder encoder,stuff_masks --repeat 3 --json

Each list of parts (see `train.checkpoint`; "" is no checkpointing) is measured alone: the peak memory of a step, and
the bytes that each part of the model keeps for the backward pass. On a CPU the peak is that of a process of its own.
Then all lists alternate in one process, step by step, for the time of a step and of each of its stages, and for their
gradients. Images are noise, weights are random, and every image has 30 things and 6 stuff classes, which are
rectangles.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from training_setup import (
    PARTS,
    STAGES,
    TrainingStep,
    about,
    fail,
    machine,
    parse,
    staged_step,
    step_of,
    step_parser,
    whole_step,
)

from panformer_cli.console import print_table
from panformer_cli.engine.benchmarking.meters import PeakMemory, Spread
from panformer_cli.engine.training.memory.parts import return_memory_between_stages
from panformer_cli.errors import PanformerError
from panformer_cli.models.base import PanopticModel
from panformer_cli.models.layers.recompute import recompute_in_backward

THINGS = 30
"""Objects per image: more than 98 % of the images of COCO have."""
EVERYTHING = "encoder,stuff_masks,thing_masks,location_decoder,backbone"
LISTS = ("", "encoder", "encoder,stuff_masks", EVERYTHING)
LABELS = {"": "nothing", EVERYTHING: "all parts"}
"""What the tables call these lists."""


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


def checkpoint_parts(step: TrainingStep, names: str) -> None:
    """Checkpoint exactly the named parts, as training does."""
    model = step.model
    while step.handles:
        step.handles.pop().remove()
    if names and step.device.type == "cpu":
        step.handles = return_memory_between_stages(model)
    chosen = set(filter(None, names.split(",")))
    for name, modules in model.parts().items():
        for module in modules:
            module.__dict__.pop("forward", None)
        if name in chosen:
            recompute_in_backward(modules)


def memory_of(arguments: argparse.Namespace, names: str) -> dict[str, Any]:
    """Return the peak memory of two steps, and the kept bytes of the second one, in MiB.

    `state` is the share of the peak that no checkpointing changes: weights, gradients and the optimizer's moments.
    """
    gc.collect()  # the model of the list before
    step = step_of(arguments, THINGS)
    checkpoint_parts(step, names)
    peak, kept = PeakMemory(step.device), KeptBytes(step.model)
    peak.reset()
    before = peak.mib()
    whole_step(step)
    with kept.counted():
        whole_step(step)
    in_mib = {part: size / 2**20 for part, size in kept.by_part.items()}
    return {"before": before, "peak": peak.mib(), "state": state_bytes(step) / 2**20, "kept": in_mib}


def state_bytes(step: TrainingStep) -> int:
    """Return the bytes of weights, of their gradients, and of the optimizer's state."""
    weights = sum(parameter.nbytes for parameter in step.model.parameters())
    gradients = sum(parameter.nbytes for parameter in step.model.parameters() if parameter.requires_grad)
    moments = sum(value.nbytes for state in step.optimizer.state.values() for value in state.values())
    return int(weights + gradients + moments)


def times_of(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the seconds of each list's steps and stages, and how far its gradients are from those of the first."""
    step, lists = step_of(arguments, THINGS), arguments.checkpoint
    whole: list[list[float]] = [[] for _ in lists]
    staged: list[list[dict[str, float]]] = [[] for _ in lists]
    differences: list[float] = []
    reference: list[Tensor] = []
    for names in lists:
        checkpoint_parts(step, names)
        gradients = gradients_of(step)
        reference = reference or gradients
        differences.append(max(map(_relative_difference, gradients, reference)))
        del gradients
    whole_step(step)  # the first step creates the optimizer's moments
    for _ in range(arguments.repeat):
        for names, seconds, stages in zip(lists, whole, staged, strict=True):
            checkpoint_parts(step, names)
            seconds.append(whole_step(step))
            stages.append(staged_step(step))
    ratios = [[one / other for one, other in zip(each, whole[0], strict=True)] for each in whole]
    return [
        {
            "seconds": asdict(Spread.of(seconds)),
            "ratio": asdict(Spread.of(ratio)),
            "stages": {stage: asdict(Spread.of([one[stage] for one in stages])) for stage in STAGES},
            "gradient_difference": difference,
        }
        for seconds, ratio, stages, difference in zip(whole, ratios, staged, differences, strict=True)
    ]


def _relative_difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two gradients, relative to the largest value of the second."""
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))


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
        if arguments.device == "cpu":  # the peak is that of the process
            command = [sys.executable, __file__, *words, "--only", names]
            memories.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
        else:
            memories.append(memory_of(arguments, names))
    times = times_of(arguments) if arguments.repeat else [{}] * len(memories)
    rows = zip(arguments.checkpoint, memories, times, strict=True)
    return about(arguments) | {"rows": [{"checkpoint": names, **memory, **time} for names, memory, time in rows]}


def show(content: dict[str, Any]) -> None:
    """Print the results as tables."""
    height, width = content["size"]
    title = f"{content['recipe']}, {height}x{width}, batch {content['batch']}, {content['precision']}, {THINGS} things"
    rows = content["rows"]
    names = [LABELS.get(row["checkpoint"], row["checkpoint"]) for row in rows]
    kept = [[name, *_with_shares(row["kept"])] for name, row in zip(names, rows, strict=True)]
    print_table(f"{title}: MiB kept for the backward pass", ["checkpointed", *PARTS, "losses", "sum"], kept)
    if all("stages" in row for row in rows):
        stages = [
            _with_shares({stage: 1e3 * spread["median"] for stage, spread in row["stages"].items()}) for row in rows
        ]
        by_stage = [list(cells) for cells in zip([*STAGES, "sum"], *stages, strict=True)]
        print_table(f"{title}: ms of each stage", ["stage", *names], by_stage)
    columns = ["checkpointed", "before, MiB", "weights, gradients, moments, MiB", "peak, MiB"]
    totals = [
        [name, row["before"], row["state"], row["peak"], *_time_cells(row)]
        for name, row in zip(names, rows, strict=True)
    ]
    print_table(title, [*columns, "step, s", "ratio", "gradient difference"], totals)
    print(machine(content))


def _with_shares(values: dict[str, float]) -> list[str]:
    """Return each value with its share of the sum, and the sum."""
    total = sum(values.values())
    return [*(f"{value:.0f} ({100 * value / total:.0f} %)" for value in values.values()), f"{total:.0f}"]


def _time_cells(row: dict[str, Any]) -> list[str | None]:
    if "ratio" not in row:
        return [None] * 3
    return [f"{row['seconds']['median']:.2f}", f"{row['ratio']['median']:.2f}", f"{row['gradient_difference']:.0e}"]


def main(words: list[str]) -> None:
    """Parse the options, measure, and print the results."""
    parser = step_parser(__doc__ or "", "800x1333")
    parser.add_argument("--checkpoint", nargs="+", default=LISTS, metavar="PARTS", help="lists of parts to compare")
    parser.add_argument("--only", metavar="PARTS", help=argparse.SUPPRESS)
    arguments = parse(parser, words, least_repeat=0)  # 0: memory only
    try:
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
