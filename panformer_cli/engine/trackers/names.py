"""Find a tracker by its name, which is that of its package, its extra and its module; no import of torch here."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from panformer_cli.errors import PanformerError

if TYPE_CHECKING:
    from panformer_cli.engine.trackers.tracker import OpenTracker


TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""All trackers."""


def check_installed(names: Sequence[str]) -> None:
    """Raise PanformerError if a tracker's package is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise PanformerError(
                f"--log {name} needs the package {name}, which is not installed; install it with: "
                f"pip install 'panformer[{name}]'"
            )


def opener_of(name: str) -> OpenTracker:
    """Return the function that opens a run in the tracker `name`."""
    opener: OpenTracker = importlib.import_module(f"panformer_cli.engine.trackers.{name}").open_run
    return opener
