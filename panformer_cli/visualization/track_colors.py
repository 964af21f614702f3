"""Colors that stay with an object from frame to frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import Segment
from panformer_cli.visualization.colors import VOID, Colors, category_colors, shade


class TrackColors:
    """Chooses the colors of a video whose segment ids stay with an object, as `drawing.segment_colors` for one image.

    The first track of a category has the color of the category, and later things have other shades of it.
    """

    def __init__(self, categories: CategoryTable) -> None:
        self._categories = categories
        self._color_of: dict[int, Colors] = {}
        self._tracks: Counter[int] = Counter()

    def __call__(self, segments: Sequence[Segment]) -> Colors:
        """Return the colors of void and of the segments of the next frame, (1 + N, 3) uint8 RGB."""
        for segment in segments:
            if segment.id not in self._color_of:
                label = self._categories.label(segment.category_id)
                is_thing = self._categories.by_label(label).is_thing
                base = category_colors(self._categories)[label]
                self._color_of[segment.id] = shade(base, self._tracks[label] if is_thing else 0)
                self._tracks[label] += 1
        return np.array([VOID, *(self._color_of[segment.id] for segment in segments)], np.uint8)
