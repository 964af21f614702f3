"""Models as saved by transformers: a folder with a config.json and safetensors, in one file or in shards."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from panformer_cli.errors import CheckpointError
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.wording import listing, short

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
"""Describes the preparation of images; a folder may lack it."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Lists the shards of weights in several files."""

_PICKLES = (".bin", ".pth", ".pt", ".ckpt")


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose files were checked.

    Attributes:
        path: The folder.
        config: The content of config.json.
        weights: Names of the files with the weights.
    """

    path: Path
    config: dict[str, Any]
    weights: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> ModelFolder:
        """Return a folder after checking that all its files are complete; tensors are not read.

        Raises:
            CheckpointError: A file is missing or corrupt, or the weights are a pickle.
        """
        from panformer_cli.storage.tensor_files import check_whole  # imports torch

        config = read_config(path)
        weights = weight_names({file.name for file in path.iterdir()}, str(path))
        if INDEX in weights:
            weights = (INDEX, *shard_names(path / INDEX))
        for name in weights[weights[0] == INDEX :]:
            file = path / name
            if not file.is_file():
                raise CheckpointError(
                    f"{path / INDEX} lists {name}, which is missing; expected all shards in the folder; copy or "
                    "download the model again"
                )
            check_whole(file)
        return cls(path, config, weights)

    @property
    def files(self) -> list[Path]:
        """All files that the model depends on."""
        names = (CONFIG, PROCESSOR, *self.weights)
        return [self.path / name for name in names if (self.path / name).is_file()]


def is_model_folder(path: Path) -> bool:
    """Return whether a folder has a config.json."""
    return (path / CONFIG).is_file()


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of config.json in a folder.

    Raises:
        CheckpointError: The file is missing, or not a JSON object.
    """
    return _read_json(path / CONFIG, "a model as saved by transformers")


def weight_names(names: Collection[str], where: str) -> tuple[str, ...]:
    """Return the files with the weights among the files of a folder or repository: WEIGHTS or INDEX.

    Args:
        names: Names of all files.
        where: The folder or repository in errors.

    Raises:
        CheckpointError: There is neither.
    """
    found = next((name for name in (WEIGHTS, INDEX) if name in names), None)
    if found is not None:
        return (found,)
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if pickles:
        raise CheckpointError(
            f"{where} has its weights only as {listing(pickles, 3)}, a pickle, which can run code; panformer loads "
            "safetensors only; look for a conversion among the pull requests of the repository on the Hugging Face "
            "Hub, and give it as hf:OWNER/NAME@refs/pr/N"
        )
    raise CheckpointError(f"{where} has no weights; expected {WEIGHTS}, or {INDEX} and the files that it lists")


def shard_names(index: Path) -> tuple[str, ...]:
    """Return the files that an INDEX lists, sorted.

    Raises:
        CheckpointError: The index is corrupt, or names a file outside its folder.
    """
    content = _read_json(index, "the list of the shards")
    weights = content.get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
        raise CheckpointError(
            f"{index}: expected an object weight_map with a file for each tensor; download the model again"
        )
    for name in sorted(set(weights.values())):
        if PurePosixPath(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} lists {short(name)}; expected names of safetensors files in the same folder; get the model "
                "from another source"
            )
    return tuple(sorted(set(weights.values())))


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); expected {what}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON, or is truncated: {error}; expected {what}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object; expected {what}")
    return content
