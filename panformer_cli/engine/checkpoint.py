"""Checkpoints that describe themselves: one safetensors file with weights, recipe, categories and progress.

No pickle is involved in either direction, and the weights can be read without the optimiser's state beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from panformer_cli import __version__
from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import CheckpointError
from panformer_cli.files import atomic_write
from panformer_cli.models.build import build_model
from panformer_cli.models.panoptic_segformer import PanopticSegFormer
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import recipe_from_dict, recipe_to_dict

FORMAT = "panformer 1"
MODEL, OPTIMIZER, RANDOM = "model.", "optimizer.", "random."


@dataclass
class TrainProgress:
    """How far a run is.

    step: optimiser steps done. evaluated_step: after which the model was last evaluated.
    best_pq: highest PQ of an evaluation so far, percent, or None. seconds: spent training.
    """

    step: int = 0
    evaluated_step: int = 0
    best_pq: float | None = None
    seconds: float = 0.0


@dataclass
class Checkpoint:
    """What a checkpoint file says, weights apart.

    training_state: whether optimiser and random state are in the file, so that a run can go on from it.
    """

    path: Path
    recipe: Recipe
    categories: CategoryTable
    progress: TrainProgress
    training_state: bool
    version: str


@dataclass
class TrainingState:
    """What a run needs besides the weights to go on as if it had never stopped.

    optimizer: tensors by `<parameter>.<name>`. random: torch's random state by `<rank>.<device type>`.
    """

    optimizer: dict[str, Tensor] = field(default_factory=dict)
    random: dict[str, Tensor] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    model: nn.Module,
    recipe: Recipe,
    categories: CategoryTable,
    progress: TrainProgress,
    state: TrainingState | None = None,
) -> None:
    """Write a checkpoint; the old file stays whole until the new one is.

    Raises:
        PanformerError: no room or no permission.
    """
    tensors = {MODEL + name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for prefix, part in ((OPTIMIZER, state.optimizer), (RANDOM, state.random)) if state else ():
        tensors |= {prefix + name: tensor.detach().cpu().contiguous() for name, tensor in part.items()}
    metadata = {
        "format": FORMAT,
        "version": __version__,
        "torch": torch.__version__,
        "recipe": json.dumps(recipe_to_dict(recipe)),
        "categories": json.dumps(categories.to_coco()),
        "progress": json.dumps(asdict(progress)),
    }
    with atomic_write(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # its own wrapping of what the system said
            raise OSError(str(error)) from error


def read_checkpoint(path: Path) -> Checkpoint:
    """What the file says; its tensors stay on disk.

    Raises:
        CheckpointError: missing, damaged, or not a checkpoint of panformer.
    """
    metadata, names = _header(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {path}: the file holds tensors but is no panformer checkpoint; expected a file that "
            "`panformer train` wrote, such as runs/<recipe>/<time>/best.safetensors"
        )
    where = f"checkpoint {path}"
    try:
        recipe = recipe_from_dict(json.loads(metadata["recipe"]), where)
        categories = CategoryTable.from_coco(json.loads(metadata["categories"]), where)
        progress = TrainProgress(**json.loads(metadata["progress"]))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{where}: its description is damaged ({error}); use another checkpoint") from error
    has_state = any(name.startswith(OPTIMIZER) for name in names)
    return Checkpoint(path, recipe, categories, progress, has_state, metadata.get("version", "unknown"))


def load_model(checkpoint: Checkpoint) -> PanopticSegFormer:
    """The checkpoint's model with its weights, in evaluation mode, on the CPU."""
    model = build_model(checkpoint.recipe.model, checkpoint.categories, pretrained=False)
    load_weights(model, checkpoint)
    return model.eval()


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Fill `model` with the checkpoint's weights.

    Raises:
        CheckpointError: a tensor is missing, surplus or of another shape: the checkpoint is of another model.
    """
    weights = read_tensors(checkpoint.path, MODEL)
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is not in this model" for name in weights if name not in own]
    problems += [
        f"{name} has the shape {list(weights[name].shape)}, expected {list(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise CheckpointError(
            f"checkpoint {checkpoint.path} (recipe {checkpoint.recipe.name}, {len(checkpoint.categories)} categories) "
            f"does not fit this model: {shown}; use the recipe and the categories that it was trained with"
        )
    model.load_state_dict(weights)


def read_training_state(checkpoint: Checkpoint) -> TrainingState:
    """Optimiser and random state.

    Raises:
        CheckpointError: the file holds weights only.
    """
    if not checkpoint.training_state:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} holds weights only, so training cannot go on from it; resume a run from its "
            "last.safetensors, or start a new one with --init-from"
        )
    return TrainingState(read_tensors(checkpoint.path, OPTIMIZER), read_tensors(checkpoint.path, RANDOM))


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors by parameter name, so that the order of parameters does not matter."""
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    """The reverse of `optimizer_state`."""
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        of, _, key = name.rpartition(".")
        by_parameter.setdefault(of, {})[key] = value
    for name, parameter in model.named_parameters():
        own = by_parameter.get(name, {})
        optimizer.state[parameter] |= {key: value.to(parameter.device) for key, value in own.items()}


def read_tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix`, by the rest of the name."""
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (it is no dict)
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}


def _header(path: Path) -> tuple[dict[str, str], list[str]]:
    if path.is_dir():
        raise CheckpointError(
            f"checkpoint {path} is a folder without best.safetensors or last.safetensors; give a file"
        )
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file; give a checkpoint, a run's folder, or train one first")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, list(file.keys())
    except (SafetensorError, OSError) as error:
        if _is_pickle(path):
            raise CheckpointError(
                f"checkpoint {path}: the file holds a pickle, which can run code when it is read; it was not opened; "
                "expected a .safetensors checkpoint that `panformer train` wrote"
            ) from error
        raise CheckpointError(
            f"checkpoint {path}: the file is damaged, cut short or not in safetensors form; expected a checkpoint that "
            "`panformer train` wrote; copy it again or use another"
        ) from error


def _is_pickle(path: Path) -> bool:
    """Whether the file begins as `torch.save` (a zip, formerly a bare pickle) and `pickle.dump` write it."""
    try:
        with path.open("rb") as file:
            return file.read(4).startswith((b"PK\x03\x04", b"\x80"))
    except OSError:
        return False
