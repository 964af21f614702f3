"""Models as saved by transformers: a folder with a config.json and safetensors, in one file or in shards."""

from __future__ import annotations

from collections.abc import Collection
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
