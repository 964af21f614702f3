"""Models as saved by transformers: a folder with a config.json and safetensors, in one file or in shards."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from panformer_cli.errors import CheckpointError
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.wording import listing, short

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
"""Describes the preparation of images; a folder may lack it."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Lists the shards of weights in several files."""

_PICKLES = (".bin", ".pth", ".pt", ".ckpt")


def weight_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the safetensors files of a folder, which exist.

    Raises:
        CheckpointError: There are none, or one of them is missing.
    """
    if main_weights({file.name for file in folder.iterdir()}, f"checkpoint {folder}") == WEIGHTS:
        return (WEIGHTS,)
    names = shard_names(folder)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointError(
            f"checkpoint {folder}: {INDEX} lists {listing(missing, 3)}, which is not in the folder; copy or download "
            "all files again"
        )
    return names


def main_weights(names: Collection[str], where: str) -> str:
    """Return WEIGHTS or INDEX, whichever is among the files of a folder or repository.

    Args:
        names: Names of all files.
        where: The folder or repository in errors.

    Raises:
        CheckpointError: There is neither.
    """
    if found := next((name for name in (WEIGHTS, INDEX) if name in names), None):
        return found
    if pickles := sorted(name for name in names if name.endswith(_PICKLES)):
        raise CheckpointError(
            f"{where}: it has its weights only as {listing(pickles, 3)}, a pickle, which can run code; panformer loads "
            "safetensors only; look for a conversion among the pull requests on the Hugging Face Hub, and give it as "
            "hf:OWNER/NAME@refs/pr/N"
        )
    raise CheckpointError(f"{where}: it has no weights; expected {WEIGHTS}, or {INDEX} and the files that it lists")


def shard_names(folder: Path) -> tuple[str, ...]:
    """Return the files that the INDEX of a folder lists, sorted. They may be missing.

    Raises:
        CheckpointError: The index is corrupt, or names a file outside its folder.
    """
    weights = read_json(folder, INDEX).get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
        raise CheckpointError(f"{folder / INDEX}: it has no weight_map with the file of each tensor; download it again")
    for name in sorted(set(weights.values())):
        if PurePosixPath(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{folder / INDEX} lists {short(name)}; expected names of safetensors files in the same folder; get "
                "the model from another source"
            )
    return tuple(sorted(set(weights.values())))


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return the content of a JSON file in a folder, an object.

    Raises:
        CheckpointError: The folder or the file is missing, or the file is corrupt.
    """
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint {folder}: no such folder; expected a folder that transformers saved")
    path = folder / name
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"checkpoint {folder}: it has no {name}; expected a folder that transformers saved"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not valid JSON, or truncated ({error}); download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: it contains {short(content)}; expected an object")
    return content
