"""Checkpoints that describe themselves: one safetensors file with weights, recipe, categories and progress.

Ours hold no pickle, and their weights can be read without the optimiser's state beside them. The files of the authors'
release are taken in their place; what they do not say of themselves is told from their names and shapes.
"""

from __future__ import annotations

import json
import os
import re
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
from panformer_cli.engine.checkpoints.official import describe_official
from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.models.base import PanopticModel
from panformer_cli.models.build import build_model
from panformer_cli.models.layers.sampling import SamplingName
from panformer_cli.models.official import OfficialFormat
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import recipe_from_dict, recipe_to_dict
from panformer_cli.storage.files import atomic_write
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.storage.tensor_files import kind_of, read_header, read_state
from panformer_cli.wording import listing

FORMAT = "panformer 1"
MODEL, OPTIMIZER, RANDOM = "model.", "optimizer.", "random."
NAMED = 20
"""Tensors of one kind that an error lists."""


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
    version: of panformer. official: the format of a reference implementation, whose names
        the tensors have; None for a file of ours.
    """

    path: Path
    recipe: Recipe
    categories: CategoryTable
    progress: TrainProgress
    training_state: bool
    version: str
    official: OfficialFormat | None = None


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
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise _as_os_error(error) from error
        temporary.chmod(mode)  # safetensors keeps what it writes from everybody else
        _sort_description(temporary)


def _as_os_error(error: SafetensorError) -> OSError:
    """What the system said, out of the wording of safetensors."""
    number = re.search(r"(?:\(os error |code: )(\d+)", str(error))  # the second before safetensors 0.6
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def _sort_description(path: Path) -> None:
    """Put the entries of the description in order: safetensors writes them in a new one each time."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        assert len(text) == size, "the same entries take the same room"
        file.seek(8)
        file.write(text)


def read_checkpoint(path: Path) -> Checkpoint:
    """What the file says, ours or one of the authors'; its tensors stay on disk.

    Raises:
        CheckpointError: missing, damaged, or no checkpoint of Panoptic SegFormer.
    """
    _check_is_file(path)
    if not is_own_checkpoint(path):
        return official_checkpoint(path)
    metadata, names = read_header(path)
    where = f"checkpoint {path}"
    try:
        recipe = recipe_from_dict(parse_json(metadata["recipe"]), where)
        categories = CategoryTable.from_coco(parse_json(metadata["categories"]), where)
        progress = TrainProgress(**parse_json(metadata["progress"]))
    except PanformerError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: its description is damaged ({error}); use another checkpoint") from error
    has_state = any(name.startswith(OPTIMIZER) for name in names)
    return Checkpoint(path, recipe, categories, progress, has_state, metadata.get("version", "unknown"))


def is_own_checkpoint(path: Path) -> bool:
    """Whether the file has the description that `save_checkpoint` writes.

    Raises:
        CheckpointError: missing, damaged, or no file of weights.
    """
    return kind_of(path) == "safetensors" and read_header(path)[0].get("format") == FORMAT


def official_checkpoint(
    path: Path, recipe_name: str | None = None, categories: CategoryTable | None = None
) -> Checkpoint:
    """Return an official file as a checkpoint; arguments and errors as of `describe_official`."""
    official, recipe, table = describe_official(path, recipe_name, categories)
    return Checkpoint(path, recipe, table, TrainProgress(), False, "official", official)


def load_model(checkpoint: Checkpoint, sampling: SamplingName = "auto") -> PanopticModel:
    """Return the checkpoint's model with its weights, in evaluation mode, on the CPU."""
    recipe = checkpoint.recipe
    model = build_model(recipe.model, recipe.inference, checkpoint.categories, pretrained=False, sampling=sampling)
    load_weights(model, checkpoint)
    return model.eval()


def load_weights(model: PanopticModel, checkpoint: Checkpoint) -> None:
    """Fill `model` with the checkpoint's weights; errors as `fill_model`."""
    fill_model(model, checkpoint, read_weights(checkpoint))


def read_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The model's tensors by our names."""
    if checkpoint.official:
        return checkpoint.official.own_weights(read_state(checkpoint.path))
    return read_tensors(checkpoint.path, MODEL)


def fill_model(model: PanopticModel, checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> None:
    """Fill `model` with `weights`, which are the checkpoint's.

    Raises:
        CheckpointError: a tensor is missing, surplus, of another shape, or sparse, quantised or the like.
    """
    check_backbone(model.backbone.name, checkpoint)
    problems = _misfits(model.state_dict(), weights, checkpoint.official)
    if problems:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} (recipe {checkpoint.recipe.name}, {len(checkpoint.categories)} categories) "
            f"does not fit this model: {problems}; use a whole checkpoint, with the recipe and the categories that it "
            "was trained with"
        )
    model.load_state_dict(weights, strict=False)  # official files may lack BatchNorm's counters


def check_backbone(wanted: str, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError where the checkpoint has another backbone than a model that it is to fill."""
    given = checkpoint.recipe.model.backbone
    if wanted != given:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} is of recipe {checkpoint.recipe.name}, with the backbone {given}, but the "
            f"model to be filled has {wanted}; give a checkpoint of the same recipe"
        )


def _misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor], official: OfficialFormat | None) -> str:
    """Return what keeps `given` from being the tensors of a model that has `own`, in words; empty where they fit.

    Args:
        official: name the tensors as this format does, and accept that its optional ones are missing.
    """
    optional = official.optional if official else ()

    def called(name: str) -> str:
        return official.official_name(name, own) if official else name

    groups = {
        "missing": [called(name) for name in own if name not in given and not name.endswith(optional)],
        "not in this model": [called(name) for name in given if name not in own],
        "of another shape": [
            f"{called(name)} ({list(given[name].shape)}, expected {list(own[name].shape)})"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ],
        "not plain floating-point numbers": [
            called(name) for name in own if name in given and not is_plain(given[name], own[name].is_floating_point())
        ],
    }
    return "; ".join(f"{what}: {listing(names, NAMED)}" for what, names in groups.items() if names)


def is_plain(tensor: Tensor, floating: bool = True) -> bool:
    """Return whether a tensor holds its values one by one, and as floating-point numbers where those are needed."""
    stored = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
    return stored and (tensor.is_floating_point() or not floating)


def read_training_state(checkpoint: Checkpoint) -> TrainingState:
    """Optimiser and random state.

    Raises:
        CheckpointError: the file holds weights only.
    """
    if not checkpoint.training_state:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} holds weights only, so training cannot resume from it; resume a run from "
            "its last.safetensors, or start a new one with --init-from"
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


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise CheckpointError(
            f"checkpoint {path} is a folder without best, last or model.safetensors; give a file, or a run's folder"
        )
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file; give a checkpoint, a run's folder, or train one first")
