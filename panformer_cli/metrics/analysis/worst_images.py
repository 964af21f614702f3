"""The images with the largest losses."""

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
    """The loss of one image.

    Attributes:
        image_id: dataset id of the image.
        file_name: of the image.
        causes: loss by cause, in segments: 1 - IoU of each pair, and one half for each FP and FN.
        pq: of the image alone, in percent: the mean over the categories that count in it.
        tp: matched pairs.
        fp: predictions without a match.
        fn: ground truth segments without a match.
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
        """Return the loss of an image from the attribution of that image alone."""
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
        """Total loss, in segments."""
        return fsum(self.causes.values())

    def to_json(self) -> dict[str, Any]:
        """Return `{"image_id", "file_name", "lost", "pq", "tp", "fp", "fn", "causes": {"missed": ..., ...}}`."""
        causes = {cause.key: value for cause, value in self.causes.items()}
        names = {"image_id": self.image_id, "file_name": self.file_name, "lost": self.lost}
        return {**names, "pq": self.pq, "tp": self.tp, "fp": self.fp, "fn": self.fn, "causes": causes}


@dataclass
class WorstImages:
    """At most `limit` images in descending loss; the order in which they are added does not matter."""

    limit: int
    images: list[ImageLoss] = field(default_factory=list)

    def add(self, record: ImageOverlap, image: Attribution) -> None:
        """Add an image if it has a loss and is among the worst."""
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
