"""Find models that `panformer weights push` published: `hub:USER/NAME[@REVISION]` on the Hugging Face Hub.

Only the two files of a model are downloaded. They are as untrusted as any download: the weights are safetensors, and
the names of the files are fixed, so nothing is written outside the cache.
"""

from __future__ import annotations

from pathlib import Path

from panformer_cli.errors import CheckpointError
from panformer_cli.reporting import Reporter
from panformer_cli.storage.hub import HubReference, open_snapshot
from panformer_cli.storage.model_folder import CONFIG, WEIGHTS, read_json

PREFIX = "hub:"
EXTRA = "hub"
"""The extra of panformer that installs huggingface_hub."""
LIBRARY = "panformer"
"""`library_name` in the configuration of a published model."""


def is_hub_reference(given: Path) -> bool:
    """Return whether a checkpoint is given as `hub:...`."""
    return str(given).startswith(PREFIX)


def find_hub_model(given: Path, reporter: Reporter) -> Path:
    """Return the checkpoint file that `hub:USER/NAME[@REVISION]` names, in the cache of the Hub.

    The weights are downloaded only if the configuration is that of a model of panformer.

    Raises:
        CheckpointError: The name is not valid, or the repository does not exist or has no model of panformer.
        DownloadError: The Hub cannot be reached, and the cache has no copy.
    """
    from panformer_cli.engine.checkpoints.checkpoint import is_own_checkpoint  # imports torch

    reference = HubReference.parse(given.as_posix().removeprefix(PREFIX))
    snapshot = open_snapshot(reference, EXTRA, reporter)
    config = read_json(snapshot.fetch(CONFIG, reporter).parent, CONFIG)
    if config.get("library_name") != LIBRARY:
        other = f"; models of transformers are given as hf:{reference}" if "model_type" in config else ""
        raise CheckpointError(
            f"the repository {reference} has no model of panformer: its {CONFIG} does not name {LIBRARY}{other}"
        )
    path = snapshot.fetch(WEIGHTS, reporter)
    if not is_own_checkpoint(path):
        raise CheckpointError(f"{WEIGHTS} of the repository {reference} is not a checkpoint of panformer")
    return path
