"""One image cached for merging at any thresholds.

The thresholds only decide which kernels become segments; which kernel wins a pixel does not depend on them. So the
pixels that each kernel shares with the ground truth are counted once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import PanopticMap, Sample, Segment
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import ImageOverlap, compare
from panformer_cli.models.knet.postprocessing import Ints, KernelPrediction, kept_rows
from panformer_cli.models.knet.settings import WinnerSettings
from panformer_cli.storage.files import write_json
from panformer_cli.storage.plain_json import parse as parse_json

_NO_BOX = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class WinnerCache:
    """An image with all kernels that win a pixel as segments.

    Attributes:
        whole: overlap of these segments with the ground truth, one column per kernel.
        own: number of pixels of each kernel's own mask, in the order of the columns.
    """

    whole: ImageOverlap
    own: Ints

    def overlap(self, settings: WinnerSettings, categories: CategoryTable) -> ImageOverlap:
        """Return the overlap of the result of merging at the thresholds of `settings`. Boxes are 0."""
        segments = self.whole.predictions
        scores = np.array([segment.score for segment in segments], np.float32)
        is_thing = np.array([categories.by_id(segment.category_id).is_thing for segment in segments], np.bool_)
        columns = kept_rows(scores, is_thing, self.whole.predicted_pixels, self.own, settings)
        kept = self.whole.overlap[:, columns]
        void = self.whole.overlap.sum(axis=1) - kept.sum(axis=1)
        predictions = tuple(replace(segments[column], id=number) for number, column in enumerate(columns.tolist(), 1))
        return replace(self.whole, predictions=predictions, overlap=np.column_stack([kept, void]))

    def save(self, path: Path) -> None:
        """Write a JSON file of some kilobytes, atomically."""
        write_json(path, {"whole": self.whole.to_json(), "own": self.own.tolist()})

    @classmethod
    def load(cls, path: Path) -> WinnerCache:
        """Read a file that `save` wrote.

        Raises:
            DataError: the file is corrupt.
        """
        try:
            content: Any = parse_json(path.read_bytes())
            whole, own = ImageOverlap.from_json(content["whole"]), np.array(content["own"], np.int64)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{path} is corrupt: {error}; delete it and run the command again") from error
        return cls(whole, own)


def cache_of(prediction: KernelPrediction, sample: Sample) -> WinnerCache:
    """Return an image for any thresholds.

    Args:
        prediction: prediction of the image.
        sample: the same image with its ground truth.

    Raises:
        DataError: see `metrics.image_overlap.compare`.
    """
    scored, winners = prediction.scored, prediction.winners
    rows = np.flatnonzero(winners.won)
    segments = tuple(
        Segment(row + 1, prediction.categories.by_label(label).id, area, _NO_BOX, score=score)
        for row, label, area, score in zip(
            rows.tolist(),
            scored.labels[rows].tolist(),
            winners.won[rows].tolist(),
            scored.scores[rows].tolist(),
            strict=True,
        )
    )
    everything = PanopticMap(winners.rows + np.int32(1), segments)
    whole = compare(everything, sample.annotation, sample.image_id, sample.file_name)
    return WinnerCache(whole, winners.own[rows])
