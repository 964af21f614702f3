"""Self-describing checkpoints: one safetensors file with weights, recipe, categories and progress.

The files contain no pickle, and weights can be read without the optimizer state. Checkpoints of a reference
implementation can be used in their place; what such a file does not state is inferred from its tensor names and shapes.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from panformer_cli import __version__
from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.checkpoints.model_folders import is_model_folder, recipe_name
from panformer_cli.engine.checkpoints.official import describe_official
from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.models.base import PanopticModel
from panformer_cli.models.build import build_model
from panformer_cli.models.families import read_saved_folder
from panformer_cli.models.layers.sampling import SamplingName
from panformer_cli.models.official import OfficialFormat
from panformer_cli.models.saved_model import SavedModel
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import recipe_from_dict, recipe_to_dict
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.storage.tensor_files import kind_of, read_header, read_state, write_tensors
from panformer_cli.wording import counted, listing

_LOG = logging.getLogger(__name__)

FORMAT = "panformer 1"
MODEL, AVERAGED, OPTIMIZER, RANDOM = "model.", "averaged.", "optimizer.", "random."
SCALER, LOG = "scaler.", "log."
NAMED = 20
"""Maximum number of tensors that an error lists for each problem."""


@dataclass
class TrainProgress:
    """Progress of a run.

    Attributes:
        step: Completed optimizer steps.
        evaluated_step: Step of the last evaluation.
        best_pq: Highest PQ of an evaluation so far, in percent; None before the first one.
        seconds: Time spent training.
        skipped_steps: Steps among `step` that changed nothing, because a loss or a gradient was not finite.
        overflows: Those of them in which only the scaled gradient of fp16 overflowed, which is normal.
        bad_steps: Number of other skipped steps in a row, up to the last one.
        rollbacks: How often training returned to an earlier checkpoint because it diverged.
        lr_factor: Factor on all learning rates, which each rollback lowers.
        usual_loss: Slow moving average of the loss; None before the first step.
        recent_loss: Fast moving average of the loss; None before the first step.
        loss_is_high: Whether a warning was printed that the loss has risen, and it has not come down since.
        steps_per_epoch: Optimizer steps of an epoch; 0 in checkpoints of earlier versions.
        evaluations_since_best: Evaluations after the one with the highest PQ, for early stopping.
        evaluated_pq: PQ of the last evaluation, in percent; None before the first one, and if it was NaN.
    """

    step: int = 0
    evaluated_step: int = 0
    best_pq: float | None = None
    seconds: float = 0.0
    skipped_steps: int = 0
    overflows: int = 0
    bad_steps: int = 0
    rollbacks: int = 0
    lr_factor: float = 1.0
    usual_loss: float | None = None
    recent_loss: float | None = None
    loss_is_high: bool = False
    steps_per_epoch: int = 0
    evaluations_since_best: int = 0
    evaluated_pq: float | None = None

    @property
    def pq(self) -> float | None:
        """PQ after the current step, in percent; None if it was not evaluated."""
        return self.evaluated_pq if self.evaluated_step == self.step else None

    def add_evaluation(self, pq: float) -> bool:
        """Record an evaluation after the current step, and return whether its PQ is the highest so far (NaN: no)."""
        self.evaluated_step, self.evaluated_pq = self.step, None if math.isnan(pq) else pq
        best = not math.isnan(pq) and (self.best_pq is None or pq > self.best_pq)
        if best:
            self.best_pq = pq
        self.evaluations_since_best = 0 if best else self.evaluations_since_best + 1
        return best


@dataclass
class Checkpoint:
    """The content of a checkpoint file without its tensors.

    Attributes:
        path: The file.
        recipe: Recipe of the run.
        categories: Category table of the model.
        progress: Progress of the run.
        training_state: Whether the file has the optimizer and random state, so that training can resume from it.
        version: Version of panformer that wrote it.
        official: Format of the reference implementation that wrote it; None for a checkpoint of panformer.
        saved: The model of a folder that transformers wrote; None for a file.
        notes: What a user should know about the categories, one sentence each.
    """

    path: Path
    recipe: Recipe
    categories: CategoryTable
    progress: TrainProgress
    training_state: bool
    version: str
    official: OfficialFormat | None = None
    saved: SavedModel | None = None
    notes: tuple[str, ...] = ()

    def labeled(self, categories: CategoryTable | None, label_map: Mapping[str, int] | None) -> Checkpoint:
        """Return a checkpoint whose labels are matched to other categories; see `folder_checkpoint`.

        Raises:
            PanformerError: It is a checkpoint of panformer, which has its categories, or no label matches.
        """
        if self.saved is None:
            raise PanformerError(
                f"checkpoint {self.path} has its own categories; --categories and --label-map are for models saved by "
                "transformers (hf:...); leave them out"
            )
        return folder_checkpoint(self.path, categories, label_map)


@dataclass
class TrainingState:
    """The state that a run needs besides the weights to resume exactly.

    Attributes:
        optimizer: The optimizer's tensors, by `<parameter>.<name>`.
        random: torch's random states, by `<rank>.<device type>`.
        averaged: The averaged weights (`train.ema_decay`) by the names of the weights; empty without averaging.
        scaler: `scale` and `growth_tracker` of the gradient scaler (`train.precision: fp16`); empty without one.
        log: Losses since the last row of the log, by `<rank>.<name>`; see `TrainLog.state`.
    """

    optimizer: dict[str, Tensor] = field(default_factory=dict)
    random: dict[str, Tensor] = field(default_factory=dict)
    averaged: dict[str, Tensor] = field(default_factory=dict)
    scaler: dict[str, Tensor] = field(default_factory=dict)
    log: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by their names in a checkpoint."""
        parts = {
            OPTIMIZER: self.optimizer,
            RANDOM: self.random,
            AVERAGED: self.averaged,
            SCALER: self.scaler,
            LOG: self.log,
        }
        return {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()}

    @classmethod
    def read(cls, path: Path) -> TrainingState:
        """Return the state in a checkpoint."""
        return cls(*(read_tensors(path, prefix) for prefix in (OPTIMIZER, RANDOM, AVERAGED, SCALER, LOG)))


def save_checkpoint(
    path: Path,
    model: nn.Module,
    recipe: Recipe,
    categories: CategoryTable,
    progress: TrainProgress,
    state: TrainingState | None = None,
) -> None:
    """Write a checkpoint atomically.

    Raises:
        PanformerError: The file cannot be written.
    """
    tensors = {MODEL + name: tensor for name, tensor in model.state_dict().items()}
    if state is not None:
        tensors |= state.tensors()
    write_tensors(path, tensors, describe(recipe, categories, progress))


def describe(recipe: Recipe, categories: CategoryTable, progress: TrainProgress) -> dict[str, str]:
    """Return the metadata of a checkpoint."""
    return {
        "format": FORMAT,
        "version": __version__,
        "torch": torch.__version__,
        "recipe": json.dumps(recipe_to_dict(recipe)),
        "categories": json.dumps(categories.to_coco()),
        "progress": json.dumps(asdict(progress)),
    }


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the description of a checkpoint, panformer's or an official one, without reading its tensors.

    Raises:
        CheckpointError: The file is missing, corrupt, or not a checkpoint of a known model family.
    """
    if is_model_folder(path):
        return folder_checkpoint(path)
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
        raise CheckpointError(f"{where}: its metadata is corrupt ({error}); use another checkpoint") from error
    _LOG.debug("%s: recipe %s, %d categories, step %d", path, recipe.name, len(categories), progress.step)
    # The optimizer has no state before the first step.
    has_state = any(name.startswith((OPTIMIZER, RANDOM)) for name in names)
    return Checkpoint(path, recipe, categories, progress, has_state, metadata.get("version", "unknown"))


def is_own_checkpoint(path: Path) -> bool:
    """Return whether `save_checkpoint` wrote the file.

    Raises:
        CheckpointError: The file is missing, corrupt, or not a checkpoint.
    """
    return kind_of(path) == "safetensors" and read_header(path)[0].get("format") == FORMAT


def official_checkpoint(
    path: Path, recipe_name: str | None = None, categories: CategoryTable | None = None
) -> Checkpoint:
    """Return an official file as a checkpoint; arguments and errors as `describe_official`."""
    official, recipe, table = describe_official(path, recipe_name, categories)
    return Checkpoint(path, recipe, table, TrainProgress(), False, "official", official)


def folder_checkpoint(
    path: Path, categories: CategoryTable | None = None, label_map: Mapping[str, int] | None = None
) -> Checkpoint:
    """Return the model in a folder that transformers wrote as a checkpoint.

    Args:
        path: The folder.
        categories: Categories of a data set, to which the labels are matched; None for those of the model.
        label_map: Category id by label or name; it decides instead of the names.

    Raises:
        CheckpointError: The folder is incomplete or corrupt, or its model is not supported.
        DataError: No label matches a category, or the label map has an unknown label or category.
    """
    saved = read_saved_folder(path, categories, label_map)
    recipe = Recipe(name=recipe_name(path), model=saved.model, data=saved.data, inference=saved.inference)
    progress = TrainProgress()
    return Checkpoint(path, recipe, saved.categories, progress, False, "transformers", saved=saved, notes=saved.notes)


def load_model(checkpoint: Checkpoint, sampling: SamplingName = "auto") -> PanopticModel:
    """Return the checkpoint's model with its weights, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: The weights do not fit the model, or have NaN or infinity, with which it would find nothing.
    """
    recipe = checkpoint.recipe
    if checkpoint.saved is not None:
        model = checkpoint.saved.load()
    else:
        model = build_model(recipe.model, recipe.inference, checkpoint.categories, pretrained=False, sampling=sampling)
        load_weights(model, checkpoint)
    check_finite(model, checkpoint)
    return model.eval()


def load_weights(model: PanopticModel, checkpoint: Checkpoint, averaged: bool = True) -> None:
    """Load the checkpoint's weights into `model`; arguments as `read_weights`, errors as `fill_model`."""
    fill_model(model, checkpoint, read_weights(checkpoint, averaged))


def read_weights(checkpoint: Checkpoint, averaged: bool = True) -> dict[str, Tensor]:
    """Return the model's tensors by panformer's names.

    Args:
        checkpoint: The checkpoint.
        averaged: Return the averaged weights if the checkpoint has them.

    Raises:
        CheckpointError: Another library saved the model, which can only be run.
    """
    check_can_be_saved(checkpoint)
    if checkpoint.official:
        return checkpoint.official.own_weights(read_state(checkpoint.path))
    average = read_tensors(checkpoint.path, AVERAGED) if averaged else {}
    return average or read_tensors(checkpoint.path, MODEL)


def check_can_be_saved(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if another library saved the model, so that it can only be run."""
    if checkpoint.saved is not None:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} was saved by transformers; such models can be run (predict, evaluate, "
            "benchmark), but not trained, imported, averaged or saved; use a checkpoint of panformer"
        )


def fill_model(model: PanopticModel, checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> None:
    """Load `weights`, which come from the checkpoint, into `model`.

    Raises:
        CheckpointError: A tensor is missing, unexpected, of another shape, or for example sparse or quantized.
    """
    check_backbone(model.backbone.name, checkpoint)
    problems = _mismatches(model.state_dict(), weights, checkpoint.official)
    if problems:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} (recipe {checkpoint.recipe.name}, {len(checkpoint.categories)} categories) "
            f"does not match this model: {problems}; use a complete checkpoint, with the recipe and the categories "
            "that it was trained with"
        )
    model.load_state_dict(weights, strict=False)  # official files may lack BatchNorm's counters


def check_finite(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if a model with the weights of the checkpoint has NaN or infinity in a tensor."""
    state, official = model.state_dict(), checkpoint.official
    bad = [name for name, tensor in state.items() if not is_finite(tensor)]
    if bad:
        first = official.official_name(bad[0], state) if official else bad[0]
        raise CheckpointError(
            f"checkpoint {checkpoint.path} has non-finite values (NaN or infinity) in {counted(len(bad), 'tensor')}; "
            f"the first is {first}; the file is corrupt, or its training diverged; use another checkpoint"
        )


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor has neither NaN nor infinity.

    The sum of one that has is not finite either; it takes a fifth of the time, which matters for large models. Only a
    sum that is not finite, which may have overflowed, needs a look at the values.
    """
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def check_family(expected: Recipe, actual: Recipe, what: str) -> None:
    """Raise CheckpointError if weights are of another model family than a recipe.

    Args:
        expected: The recipe.
        actual: The recipe of the weights.
        what: The weights, for the message.
    """
    own, other = expected.model.family, actual.model.family
    if own != other:
        raise CheckpointError(
            f"{what} has a model of the family {other}, but the recipe {expected.name} is of the family {own}; give a "
            "checkpoint of the same family"
        )


def check_backbone(expected: str, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if the checkpoint's backbone is not the expected one."""
    actual = checkpoint.recipe.model.backbone
    if actual != expected:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} is from recipe {checkpoint.recipe.name} with the backbone {actual}, but "
            f"this model has {expected}; give a checkpoint of the same recipe"
        )


def _mismatches(own: Mapping[str, Tensor], given: Mapping[str, Tensor], official: OfficialFormat | None) -> str:
    """Return a description of how the tensors differ from those of a model; empty if they match.

    Args:
        own: The model's tensors.
        given: The tensors to load.
        official: Use the tensor names of this format, and allow its optional tensors to be missing.
    """
    optional = official.optional if official else ()

    def shown(name: str) -> str:
        return official.official_name(name, own) if official else name

    groups = {
        "missing": [shown(name) for name in own if name not in given and not name.endswith(optional)],
        "unexpected": [shown(name) for name in given if name not in own],
        "of another shape": [
            f"{shown(name)} ({list(given[name].shape)}, expected {list(own[name].shape)})"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ],
        "not plain floating-point numbers": [
            shown(name) for name in own if name in given and not is_plain(given[name], own[name].is_floating_point())
        ],
    }
    return "; ".join(f"{what}: {listing(names, NAMED)}" for what, names in groups.items() if names)


def is_plain(tensor: Tensor, floating: bool = True) -> bool:
    """Return whether a tensor is dense and not quantized, and has a floating-point dtype if `floating`."""
    stored = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
    return stored and (tensor.is_floating_point() or not floating)


def read_training_state(checkpoint: Checkpoint) -> TrainingState:
    """Return the optimizer and random state; errors as `check_has_state`."""
    check_has_state(checkpoint)
    return TrainingState.read(checkpoint.path)


def check_has_state(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if the file has only weights."""
    if not checkpoint.training_state:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} has only weights, so training cannot resume from it; resume a run from its "
            "last.safetensors, or start a new one with --init-from"
        )


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors by parameter name, so that the order of parameters does not matter."""
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Load what `optimizer_state` returned into the optimizer.

    Parameters that it does not train, such as those of a part that is frozen from now on, get no state.
    """
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        of, _, key = name.rpartition(".")
        by_parameter.setdefault(of, {})[key] = value
    for name, parameter in model.named_parameters():
        own = by_parameter.get(name, {})
        if own and parameter in trained:
            optimizer.state[parameter] |= {key: value.to(parameter.device) for key, value in own.items()}


def read_tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix`, by the rest of the name."""
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (it is no dict)
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise CheckpointError(
            f"checkpoint {path} is a folder without best, last or model.safetensors; give a file or the folder of a run"
        )
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint {path}: no such file; give a checkpoint or the folder of a run, or train one first"
        )
