"""The options of a prediction that concern videos."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from panformer_cli.errors import PanformerError

MEMORY = 30
"""About a second."""
OVERLAY, JSON, PANOPTIC = "overlay", "json", "panoptic"
OUTPUTS = (OVERLAY, JSON, PANOPTIC)
"""What can be written of a video."""
USUAL = (OVERLAY, JSON)
"""What is written by default."""


@dataclass(frozen=True)
class VideoOptions:
    """How videos are read and tracked.

    Attributes:
        stride: Every how many-th frame is predicted and written, 1 or more.
        memory: Largest number of frames of the video for which an object can be hidden and keep its track, 0 or more.
    """

    stride: int = 1
    memory: int = MEMORY


def check_outputs(names: Iterable[str]) -> None:
    """Raise a PanformerError if an output does not exist for videos."""
    chosen = list(names)
    if not chosen or (other := [name for name in chosen if name not in OUTPUTS]):
        raise PanformerError(
            f"--save {','.join(other if chosen else chosen) or 'names no output'}: of a video, only "
            f"{', '.join(OUTPUTS)} can be written; for the others, save the frames as images"
        )
