"""Find models as saved by transformers: `hf:OWNER/NAME[@REVISION]` on the Hugging Face Hub, or `hf:FOLDER`.

This is the only place that knows the prefix. transformers is never asked to find anything: it gets a local folder.
"""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from panformer_cli.engine.checkpoints import hub_models
from panformer_cli.errors import CheckpointError
from panformer_cli.models.families import check_saved_config
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import check_can_exist, resolve_links
from panformer_cli.storage.hub import HubReference, hub_name, open_snapshot
from panformer_cli.storage.model_folder import CONFIG, INDEX, PREPROCESSOR, WEIGHTS, main_weights, shard_names
from panformer_cli.wording import short

PREFIX = "hf:"
EXTRA = "hf"
"""The extra of panformer that installs transformers and huggingface_hub."""

_OLDEST = 5  # major version of transformers
_LOOKS_LIKE_A_PATH = re.compile(r"[./~\\]|[A-Za-z]:[/\\]")


def is_reference(given: Path) -> bool:
    """Return whether a checkpoint is given as `hf:...`."""
    return str(given).startswith(PREFIX)


def is_model_folder(path: Path) -> bool:
    """Return whether a folder has a model as saved by transformers, and not one of panformer."""
    if not (path / CONFIG).is_file():
        return False
    if not (path / WEIGHTS).is_file():
        return not any((path / name).is_file() for name in ("best.safetensors", "last.safetensors"))
    from panformer_cli.engine.checkpoints.checkpoint import is_own_checkpoint  # imports torch

    try:
        return not is_own_checkpoint(path / WEIGHTS)
    except CheckpointError:
        return True  # the problem is reported when it is read


def find_model_folder(given: Path, reporter: Reporter) -> Path:
    """Return the folder that `hf:OWNER/NAME[@REVISION]` or `hf:FOLDER` names. An existing folder has priority.

    From the Hub only the configuration, the processor's and the weights as safetensors are downloaded, and only if the
    configuration is that of a known model.

    Raises:
        CheckpointError: transformers is not installed, or the folder or repository does not exist or has no known
            model.
        DataError: No folder can have this name.
        DownloadError: The Hub cannot be reached, and the cache has no copy.
    """
    check_installed()
    text = given.as_posix().removeprefix(PREFIX)
    check_can_exist(text)
    folder = Path(os.path.expanduser(text))  # noqa: PTH111 - pathlib raises an error for ~NAME of an unknown user
    if text and folder.is_dir():
        check_saved_config(folder)
        return folder
    if text and (folder.is_file() or _LOOKS_LIKE_A_PATH.match(text)):
        found = "is a file" if folder.is_file() else "does not exist"
        raise CheckpointError(
            f"checkpoint {given}: {folder} {found}; expected the folder of a model as saved by transformers, with "
            f"{CONFIG} and safetensors"
        )
    try:
        reference = HubReference.parse(text)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {short(str(given))}: the folder does not exist, and {error}") from error
    return _from_hub(reference, reporter)


def shown_name(path: Path) -> str:
    """Return a checkpoint as a person names it; its path, or for one in the cache of the Hub what it was loaded as.

    That is `hf:OWNER/NAME` for the folder of a model that transformers saved, `hub:OWNER/NAME` for a file.
    """
    for prefix, folder in ((PREFIX, path), (hub_models.PREFIX, path.parent)):
        if name := hub_name(folder):
            return f"{prefix}{name.replace('--', '/', 1)}"
    return str(path)


def recipe_name(folder: Path) -> str:
    """Return a name for the recipe of a model: that of its repository or folder, which may contain anything."""
    name = hub_name(folder) or resolve_links(folder).name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".-") or "transformers"


def check_installed() -> None:
    """Raise CheckpointError unless a version of transformers is installed that panformer can use."""
    try:
        installed = version("transformers")
    except PackageNotFoundError as error:
        raise CheckpointError(
            f"models saved by transformers need the package transformers, which is not installed; install it with: "
            f"pip install 'panformer[{EXTRA}]'"
        ) from error
    if int(installed.partition(".")[0]) < _OLDEST:
        raise CheckpointError(
            f"transformers {installed} is too old; expected {_OLDEST} or newer; update it with: pip install --upgrade "
            f"'panformer[{EXTRA}]'"
        )


def _from_hub(reference: HubReference, reporter: Reporter) -> Path:
    """Download the model of a repository, and return its folder in the cache."""
    snapshot = open_snapshot(reference, EXTRA, reporter)
    if CONFIG not in snapshot.names:
        raise snapshot.missing(CONFIG)
    snapshot.fetch(CONFIG, reporter)
    check_saved_config(snapshot.folder)
    if PREPROCESSOR in snapshot.names:
        snapshot.fetch(PREPROCESSOR, reporter)
    if snapshot.offline and not snapshot.names & {WEIGHTS, INDEX}:
        raise snapshot.missing(WEIGHTS)
    weights = main_weights(snapshot.names, f"repository {reference}")
    snapshot.fetch(weights, reporter)
    if weights == INDEX:
        for name in shard_names(snapshot.folder):
            snapshot.fetch(name, reporter)
    return snapshot.folder
