"""Average the weights of several checkpoints of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from panformer_cli.engine.checkpoints.checkpoint import (
    Checkpoint,
    fill_model,
    load_model,
    read_checkpoint,
    read_weights,
    save_checkpoint,
)
from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.recipe_io import recipe_to_dict
from panformer_cli.wording import listing

SUFFIX = ".safetensors"


def average_checkpoints(paths: Sequence[Path], out: Path) -> Path:
    """Write a checkpoint with the mean weights of several ones, without the state to resume training.

    Tensors are matched by name. Weights and running statistics are averaged in float64 and keep their dtype. Whole
    numbers, such as the counters of BatchNorm, are the largest of the checkpoints. Tensors that are equal in all
    checkpoints are unchanged, bit for bit. Recipe and progress are those of the checkpoint with the most steps.

    Args:
        paths: Two or more checkpoints of the same model and categories.
        out: A new file, with the suffix `.safetensors`.

    Returns:
        `out`.

    Raises:
        PanformerError: A checkpoint cannot be used, the models differ, or `out` exists or cannot be written.
    """
    if out.suffix != SUFFIX or out.exists():
        found = "already exists" if out.suffix == SUFFIX else f"does not end in {SUFFIX}"
        raise PanformerError(f"--out {out} {found}; expected a new file, such as average{SUFFIX}")
    if len(paths) < 2:
        raise PanformerError(f"expected two or more checkpoints to average, not {len(paths)}")
    checkpoints = [read_checkpoint(path) for path in paths]
    for other in checkpoints[1:]:
        _check_same_model(checkpoints[0], other)
    model = load_model(checkpoints[0])
    mean = _Mean(model.state_dict())
    for other in checkpoints[1:]:
        fill_model(model, other, read_weights(other))
        mean.add(model.state_dict())
    model.load_state_dict(mean.result())
    last = max(checkpoints, key=lambda checkpoint: checkpoint.progress.step)
    # The average was not evaluated.
    save_checkpoint(out, model, last.recipe, last.categories, replace(last.progress, evaluated_pq=None))
    return out


class _Mean:
    """The mean of state dicts with the same names, added one by one."""

    def __init__(self, first: dict[str, Tensor]) -> None:
        self._first = {name: tensor.clone() for name, tensor in first.items()}
        self._sums = {name: _summable(tensor) for name, tensor in self._first.items()}
        self._different: set[str] = set()
        self._count = 1

    def add(self, state: dict[str, Tensor]) -> None:
        self._count += 1
        for name, tensor in state.items():
            if not torch.equal(tensor, self._first[name]):
                self._different.add(name)
            combine = torch.add if tensor.is_floating_point() else torch.maximum
            self._sums[name] = combine(self._sums[name], _summable(tensor))

    def result(self) -> dict[str, Tensor]:
        """Return the mean in the dtypes of the first state dict."""
        mean = dict(self._first)
        for name in self._different:
            total, dtype = self._sums[name], self._first[name].dtype
            mean[name] = (total / self._count if dtype.is_floating_point else total).to(dtype)
        return mean


def _summable(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor.clone()


def _check_same_model(one: Checkpoint, other: Checkpoint) -> None:
    """Raise CheckpointError if two checkpoints have different models or categories."""
    first, second = (recipe_to_dict(checkpoint.recipe)["model"] for checkpoint in (one, other))
    lasting = [key for key in second if key not in other.recipe.model.starting_only]
    different = [
        f"model.{key} is {first.get(key)!r} and {second[key]!r}" for key in lasting if first.get(key) != second[key]
    ]
    if one.categories != other.categories:
        different.append("their categories differ")
    if different:
        raise CheckpointError(
            f"{one.path} and {other.path} are of different models: {listing(different, 3, '; ')}; expected "
            "checkpoints of the same model, such as those of one run"
        )
