"""Load networks with transformers, from local files only."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import CheckpointError, PanformerError, RecipeError
from panformer_cli.models.hugging_face.architectures import ARCHITECTURES, ArchitectureName
from panformer_cli.models.hugging_face.folder import HuggingFaceFolder, weight_files
from panformer_cli.models.hugging_face.local_config import local_config
from panformer_cli.models.hugging_face.model import HuggingFaceModel
from panformer_cli.models.hugging_face.settings import HuggingFaceSettings
from panformer_cli.storage.model_folder import read_json
from panformer_cli.wording import counted, listing, truncated

_LOG = logging.getLogger(__name__)

OPTIONAL = ("criterion.empty_weight", "attn_mask_probs")
"""Buffers that a checkpoint may lack: they are set here, or not used at inference."""
IGNORED = ("criterion.", "model.text_mapper.")
"""Prefixes of tensors that only training needs; OneFormer has the second one."""
LONGEST_REASON = 300
"""Characters of an error of transformers that are shown."""


def load(folder: HuggingFaceFolder) -> HuggingFaceModel:
    """Return the model of a folder with its weights, float32, in evaluation mode, on the CPU.

    Unexpected tensors are logged as a warning.

    Raises:
        CheckpointError: transformers is missing, or the weights are corrupt, incomplete or do not fit the config.
    """
    weight_files(folder.path)
    transformers = _transformers()
    network_class = getattr(transformers, ARCHITECTURES[folder.model.architecture].network)
    config = _read_config(folder.model)
    with _quiet(transformers):
        try:
            network, found = network_class.from_pretrained(
                str(folder.path),
                config=config,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # `_check_loaded` reports them
                output_loading_info=True,
            )
        except Exception as error:  # transformers raises many types
            raise CheckpointError(
                f"checkpoint {folder.path}: transformers cannot load it ({_reason(error)}); download it again"
            ) from error
    _check_loaded(found, folder.path)
    return model_of(network, folder.model, folder.categories)


def build(settings: HuggingFaceSettings, categories: CategoryTable) -> HuggingFaceModel:
    """Return a model with random weights.

    Raises:
        PanformerError: transformers is missing, or the settings do not describe a network for these categories.
    """
    transformers = _transformers()
    config = _read_config(settings) if settings.config else _default_config(settings.architecture, len(categories))
    parts: list[Any] = [config, getattr(config, "backbone_config", None)]
    for part in parts:
        if getattr(part, "use_pretrained_backbone", False):
            part.use_pretrained_backbone = False  # nothing is downloaded
    with _quiet(transformers):
        network = getattr(transformers, ARCHITECTURES[settings.architecture].network)(config)
    return model_of(network, settings, categories)


def model_of(network: nn.Module, settings: HuggingFaceSettings, categories: CategoryTable) -> HuggingFaceModel:
    """Return the model of a network of transformers, in evaluation mode.

    Args:
        network: an instance of the class of `settings.architecture`.
        settings: the model's settings.
        categories: category table of the results.

    Raises:
        RecipeError: the settings do not have a category for each label, or one that the table lacks.
    """
    for name, buffer in network.named_buffers():
        if name == "attn_mask_probs":  # the original EoMT evaluates without masked attention
            buffer.fill_(0)
    labels = settings.labels or tuple(category.id for category in categories.categories)
    number = int(getattr(network.config, "num_labels", len(labels)))
    if len(labels) != number:
        raise RecipeError(
            f"model.labels has {counted(len(labels), 'category id')}, but the network has {counted(number, 'label')}; "
            "give one for each label"
        )
    unknown = sorted({label for label in labels if label >= 0 and label not in categories})
    if unknown:
        raise RecipeError(f"model.labels has {listing(unknown)}, which the category table does not have")
    return HuggingFaceModel(network, settings, labels, categories).eval()


def _read_config(settings: HuggingFaceSettings) -> Any:
    """Return the config in `settings.config`, set up for inference."""
    path = Path(settings.config)
    content = local_config(read_json(path.parent, path.name), path)
    transformers = _transformers()
    network_class = getattr(transformers, ARCHITECTURES[settings.architecture].network)
    with _quiet(transformers):
        try:
            config = network_class.config_class.from_dict(content)
        except Exception as error:  # transformers raises many types
            raise CheckpointError(
                f"{settings.config}: transformers cannot read it ({_reason(error)}); expected a config of "
                "transformers; download it again"
            ) from error
    config.is_training = False  # OneFormer's pixel decoder has dropout that depends on this alone
    return config


def _default_config(architecture: ArchitectureName, number: int) -> Any:
    transformers = _transformers()
    network_class = getattr(transformers, ARCHITECTURES[architecture].network)
    return network_class.config_class(num_labels=number)


def _check_loaded(found: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError if weights are missing or of another shape, and log tensors that the network lacks."""
    shapes = sorted((name, list(stored), list(own)) for name, stored, own in found["mismatched_keys"])
    shapes = [row for row in shapes if not row[0].startswith(IGNORED)]
    if shapes:
        name, stored, own = shapes[0]
        raise CheckpointError(
            f"checkpoint {path}: config.json and the weights do not belong together: {name} has the shape {stored}, "
            f"expected {own}; download the folder again"
        )
    missing = sorted(name for name in found["missing_keys"] if not name.endswith(OPTIONAL))
    if missing:
        raise CheckpointError(
            f"checkpoint {path}: it lacks {counted(len(missing), 'tensor')} of the network, such as {missing[0]}; "
            "use a complete checkpoint of this architecture"
        )
    unexpected = sorted(name for name in found["unexpected_keys"] if not name.startswith(IGNORED))
    if unexpected:
        _LOG.warning(
            "checkpoint %s: %s that the network does not have: %s",
            path,
            counted(len(unexpected), "tensor"),
            listing(unexpected, 3),
        )


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise PanformerError(
            "models of Hugging Face need the package transformers; install it with: pip install 'panformer[hf]'"
        ) from error
    return transformers


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Silence transformers' warnings and progress bars, and keep it from the network.

    `local_files_only` does not suffice: a config can name a backbone, which transformers looks for on the Hub.
    """
    from huggingface_hub import constants  # a requirement of transformers

    log = transformers.utils.logging
    level, shows_bars, offline = log.get_verbosity(), log.is_progress_bar_enabled(), constants.HF_HUB_OFFLINE
    log.set_verbosity_error()
    log.disable_progress_bar()
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        log.set_verbosity(level)
        if shows_bars:
            log.enable_progress_bar()


def _reason(error: Exception) -> str:
    """Return the text of an error of transformers, which can have many lines, in one."""
    text = truncated(" ".join(str(error).split()), LONGEST_REASON)
    return f"{type(error).__name__}: {text}" if isinstance(error, KeyError) or not text else text
