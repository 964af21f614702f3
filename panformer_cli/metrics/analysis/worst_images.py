"""The images that lose most."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from math import fsum
from typing import Any

from panformer_cli.metrics.analysis.attribution import Attribution
from panformer_cli.metrics.analysis.causes import Cause
from panformer_cli.metrics.image_overlap import ImageOverlap


@dataclass(frozen=True)
class ImageLoss:
    """What one image lost.

    causes: in segments, by cause: 1 - IoU of every pair, and a half for every FP and every FN.
    pq: percent, PQ of the image by itself: the mean over the categories that count in it.
    tp, fp, fn: segments.
    """

    image_id: int | str
    file_name: str
    causes: dict[Cause, float]
    pq: float
    tp: int
    fp: int
    fn: int

    @classmethod
    def of(cls, record: ImageOverlap, image: Attribution) -> ImageLoss:
        """From the attribution of this image alone."""
        result = image.result()
        return cls(
            record.image_id,
            record.file_name,
            image.segments_lost(),
            float(result.pq[result.counting].mean()),
            *(int(counts.sum()) for counts in (result.tp, result.fp, result.fn)),
        )

    @property
    def lost(self) -> float:
        """Segments lost."""
        return fsum(self.causes.values())

    def to_json(self) -> dict[str, Any]:
        """`{"image_id", "file_name", "lost", "pq", "tp", "fp", "fn", "causes": {"missed": ..., ...}}`."""
        causes = {cause.key: value for cause, value in self.causes.items()}
        names = {"image_id": self.image_id, "file_name": self.file_name, "lost": self.lost}
        return {**names, "pq": self.pq, "tp": self.tp, "fp": self.fp, "fn": self.fn, "causes": causes}


@dataclass
class WorstImages:
    """At most `limit` images, the worst first; the order in which they came does not matter."""

    limit: int
    images: list[ImageLoss] = field(default_factory=list)

    def add(self, record: ImageOverlap, image: Attribution) -> None:
        """Keep an image if it lost anything and is among the worst."""
        lost = fsum(image.segments_lost().values())
        if lost > 0 and (len(self.images) < self.limit or lost >= self.images[-1].lost):
            self._keep(ImageLoss.of(record, image))

    def merge(self, other: WorstImages) -> None:
        """Add the images of `other`."""
        for image in other.images:
            self._keep(image)

    def _keep(self, image: ImageLoss) -> None:
        insort(self.images, image, key=lambda kept: (-kept.lost, kept.file_name, str(kept.image_id)))
        del self.images[self.limit :]
