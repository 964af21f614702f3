"""The interface of an experiment tracker, and what each needs to open a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from panformer_cli.data.structures import ImageArray

Status = Literal["finished", "stopped", "failed"]
"""How training ended: completed, stopped by the user or the system, or an error."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker sees it.

    Attributes:
        folder: The run folder, absolute.
        name: A name for people, `<recipe> <folder>`.
        settings: The recipe, flat: `train.lr` to its value.
        step: The step after which training continues; 0 for a new run.
        id: What the tracker called the run when training last started, None if it is new to the tracker.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any]
    step: int = 0
    id: str | None = None


class Tracker(Protocol):
    """A run that is open in a tracker. All methods are called from one thread; any of them may raise.

    Attributes:
        id: What the tracker calls the run; None if it needs no name to continue it.
        forgets: Whether opening the run deleted the values after `TrackedRun.step`, so that they have to be sent again.
    """

    id: str | None
    forgets: bool

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values by name, such as `train/loss`."""

    def images(self, images: Mapping[str, ImageArray], step: int) -> None:
        """Send images by name, each (H, W, 3) uint8 RGB."""

    def finish(self, status: Status) -> None:
        """Close the run."""


class OpenTracker(Protocol):
    """Opens a run in a tracker, as `open_run` of its module does."""

    def __call__(self, run: TrackedRun, /) -> Tracker:
        """Open a new run, or continue the one with `run.id`."""
