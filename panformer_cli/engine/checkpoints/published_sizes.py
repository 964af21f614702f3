"""Sizes of published weights before they are downloaded, and whether the disk has space for them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from panformer_cli.engine.checkpoints.published import PUBLISHED
from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.models.published import PublishedWeights
from panformer_cli.recipe_library import parameters_of
from panformer_cli.storage.download import downloaded_bytes, remote_size
from panformer_cli.storage.files import weights_folder

ALL = "all"
_BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class PlannedDownload:
    """Published weights to download.

    Attributes:
        weights: The weights.
        size: Bytes of the file; None if neither a record nor the server has it.
        missing: Bytes that are not downloaded yet; at least these if the size is unknown.
    """

    weights: PublishedWeights
    size: int | None
    missing: int


def least_size(weights: PublishedWeights) -> int:
    """Return the bytes of the parameters in float32; a file may also have more, such as the state of the optimizer."""
    return round(parameters_of(weights.name) * 1e6) * _BYTES_PER_PARAMETER


def weights_named(names: Sequence[str]) -> list[PublishedWeights]:
    """Return the published weights with these names, without duplicates; all of them for the name `all`.

    Raises:
        CheckpointError: A name is unknown.
    """
    if ALL in names:
        return list(PUBLISHED.values())
    for name in names:
        if name not in PUBLISHED:
            close = get_close_matches(name.lower(), PUBLISHED, n=1)
            guess = f"did you mean {close[0]}? " if close else ""
            raise CheckpointError(f"no published weights {name!r}; {guess}expected {', '.join(PUBLISHED)} or {ALL}")
    return [PUBLISHED[name] for name in dict.fromkeys(names)]


def plan_downloads(chosen: Sequence[PublishedWeights]) -> list[PlannedDownload]:
    """Return what has to be downloaded, with sizes; the server is asked for those that are not known."""
    return [_plan(weights) for weights in chosen]


def _plan(weights: PublishedWeights) -> PlannedDownload:
    if weights.path.is_file():
        return PlannedDownload(weights, weights.path.stat().st_size, 0)
    size = weights.known_size or remote_size(weights.address)
    whole = least_size(weights) if size is None else size
    return PlannedDownload(weights, size, max(0, whole - downloaded_bytes(weights.path)))


def free_bytes() -> int:
    """Return the free space for weights, on the disk of the cache folder, which may not exist yet."""
    folder = weights_folder()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def check_space(plans: Sequence[PlannedDownload], free: int) -> None:
    """Raise PanformerError if `free` bytes are too few for all downloads; each file is checked again later."""
    needed = sum(plan.missing for plan in plans)
    if needed > free:
        names = ", ".join(plan.weights.name for plan in plans if plan.missing)
        raise PanformerError(
            f"{names}: {needed / 1e9:.2f} GB are to be downloaded to {weights_folder()}, but only "
            f"{free / 1e9:.2f} GB are free; free some space, download fewer, or set PANFORMER_HOME to another folder"
        )
