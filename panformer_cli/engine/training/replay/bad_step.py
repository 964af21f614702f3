"""The file of a skipped step: a checkpoint from before the step, and everything else that the step depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from panformer_cli.data.structures import Batch, Targets
from panformer_cli.engine.checkpoints.checkpoint import (
    MODEL,
    Checkpoint,
    TrainProgress,
    describe,
    is_own_checkpoint,
    read_checkpoint,
    read_tensors,
)
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.training.step import StepInputs
from panformer_cli.errors import CheckpointError
from panformer_cli.models.base import LossCounts, PanopticModel
from panformer_cli.models.layers.sampling import SamplingName
from panformer_cli.recipe import Recipe
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.storage.tensor_files import read_header, write_tensors

STEP = "step"
"""Metadata of the file with what is not a tensor, and the first part of the names of its tensors."""


@dataclass(frozen=True)
class BadStep:
    """A step of one process that was skipped.

    Attributes:
        number: The step, from 1.
        reason: `loss` or `gradient`, whichever was not finite.
        images: File names of the images whose loss was not finite, or of all images of the step.
        rank: The process, from 0.
        world_size: Number of processes of the run.
        device: Type of its device, such as `cpu` or `cuda`.
        sampling: Implementation of deformable sampling that the command line asked for.
        threads: Number of threads of torch.
        inputs: What the process computed the step from.
    """

    number: int
    reason: str
    images: list[str]
    rank: int
    world_size: int
    device: str
    sampling: SamplingName
    threads: int
    inputs: StepInputs

    @classmethod
    def of(cls, process: Process, number: int, reason: str, images: list[str], inputs: StepInputs) -> BadStep:
        """Return a step that this process has just skipped."""
        place = (process.rank, process.world_size, process.device.type, process.sampling, torch.get_num_threads())
        return cls(number, reason, images, *place, inputs)

    @property
    def image_ids(self) -> list[int | str]:
        """The ids of all images of this process."""
        return [image_id for batch in self.inputs.batches for image_id in batch.image_ids]

    def write(self, path: Path, model: PanopticModel, recipe: Recipe, progress: TrainProgress) -> None:
        """Write the file, atomically; the model and the progress are those before the step.

        Raises:
            WriteError: The file cannot be written.
        """
        inputs = self.inputs
        facts = {name: value for name, value in vars(self).items() if name != "inputs"}
        facts |= {"counts": [inputs.counts.things, inputs.counts.stuff], "scale": inputs.scale}
        facts["image_ids"] = [batch.image_ids for batch in inputs.batches]
        facts["losses"] = [list(losses) for losses in inputs.losses]
        metadata = describe(recipe, model.categories, progress) | {STEP: json.dumps(facts)}
        tensors = {MODEL + name: tensor for name, tensor in model.state_dict().items()}
        tensors |= {f"{STEP}.{name}": tensor.clone() for name, tensor in _tensors(inputs).items()}
        write_tensors(path, tensors, metadata)


def _tensors(inputs: StepInputs) -> dict[str, Tensor]:
    """Return the tensors of a step by name."""
    tensors = {f"random.{name}": state for name, state in inputs.random.items()}
    for index, losses in enumerate(inputs.losses):
        tensors |= {f"{index}.losses.{name}": value for name, value in losses.items()}
    for index, batch in enumerate(inputs.batches):
        tensors |= {f"{index}.images": batch.images, f"{index}.padding_mask": batch.padding_mask}
        for image, target in enumerate(batch.targets):
            tensors |= {f"{index}.targets.{image}.{name}": value for name, value in vars(target).items()}
    return tensors


def read_bad_step(path: Path) -> tuple[Checkpoint, BadStep]:
    """Return the checkpoint from before a skipped step, and the step.

    Raises:
        CheckpointError: The file is missing, corrupt, or something else.
    """
    expected = "expected bad-step-<n>.safetensors from the folder of a run that skipped a step"
    if not path.is_file():
        raise CheckpointError(f"--replay {path}: {'this is a folder' if path.is_dir() else 'no such file'}; {expected}")
    if not is_own_checkpoint(path) or STEP not in read_header(path)[0]:
        raise CheckpointError(f"--replay {path}: this file has no recorded step; {expected}")
    checkpoint = read_checkpoint(path)
    try:
        facts = parse_json(read_header(path)[0][STEP])
        step = _step(facts, read_tensors(path, f"{STEP}."))
        _check(step, len(checkpoint.categories))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"--replay {path}: the recorded step is corrupt ({error}); copy the file from the folder of the run again"
        ) from error
    return checkpoint, step


def _step(facts: dict[str, Any], tensors: Mapping[str, Tensor]) -> BadStep:
    """Return the step that `BadStep.write` wrote as these facts and tensors."""
    things, stuff = map(float, facts.pop("counts"))
    scale = float(facts.pop("scale"))
    random = {name.removeprefix("random."): value for name, value in tensors.items() if name.startswith("random.")}
    batches = [_batch(f"{index}.", ids, tensors) for index, ids in enumerate(facts.pop("image_ids"))]
    losses = [
        {str(name): tensors[f"{index}.losses.{name}"] for name in names}
        for index, names in enumerate(facts.pop("losses"))
    ]
    return BadStep(**facts, inputs=StepInputs(batches, LossCounts(things, stuff), scale, random, losses))


def _batch(prefix: str, image_ids: list[int | str], tensors: Mapping[str, Tensor]) -> Batch:
    names = [f"{prefix}targets.{image}." for image in range(len(image_ids))]
    targets = [Targets(*(tensors[name + part] for part in ("labels", "boxes", "masks"))) for name in names]
    return Batch(tensors[f"{prefix}images"], tensors[f"{prefix}padding_mask"], targets, image_ids)


def _check(step: BadStep, classes: int) -> None:
    """Raise ValueError unless numbers, shapes and dtypes are those of a step."""
    numbers = (step.number, step.rank, step.world_size, step.threads)
    if not all(isinstance(number, int) and 0 <= number < 1 << 40 for number in numbers) or not 0 < step.threads < 4096:
        raise ValueError("a number is out of range")
    texts = (step.reason, step.device, step.sampling, *step.images)
    if not all(isinstance(text, str) for text in texts) or step.sampling not in get_args(SamplingName):
        raise ValueError("a name is unknown or not a text")
    if not step.inputs.batches:
        raise ValueError("it has no images")
    for batch in step.inputs.batches:
        count, _, height, width = batch.images.shape
        is_image = batch.images.dtype == torch.float32 and batch.padding_mask.dtype == torch.bool
        if not is_image or batch.padding_mask.shape != (count, height, width) or len(batch.targets) != count:
            raise ValueError("images, padding and targets do not match")
        for target in batch.targets:
            labels, boxes, masks = target.labels, target.boxes, target.masks
            kinds = [(tensor.dtype, tensor.ndim) for tensor in (labels, boxes, masks)]
            fits = kinds == [(torch.int64, 1), (torch.float32, 2), (torch.bool, 3)]
            fits = fits and len(labels) == len(boxes) == len(masks) and boxes.shape[1] == 4
            if not fits or masks.shape[1] > height or masks.shape[2] > width:
                raise ValueError("the targets of an image do not match")
            if bool(((labels < 0) | (labels >= classes)).any()):
                raise ValueError("a label is not one of the categories")
