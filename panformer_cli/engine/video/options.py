"""The options of a prediction that concern videos."""

from __future__ import annotations

from dataclasses import dataclass

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
