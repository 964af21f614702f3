"""Annotations and segments that are left out of an image, although the rest of the image is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError

# Reasons: the same words for all annotations with the same problem, so that they can be counted.
NO_AREA = "line or points, without area"
FEW_POINTS = "polygon of fewer than 3 points"
BOX_ONLY = "bounding box without an outline"
OUTSIDE = "outside of the image"
BAD_COORDINATES = "invalid coordinates"
FRACTIONS = "coordinates from 0 to 1: fractions of the image size, or smaller than a pixel"
BAD_RUNS = "invalid run lengths"
UNKNOWN_CLASS = "unknown class"
NO_PIXELS = "no pixels in the image"
COVERED = "covered by other annotations"
OTHER = "another problem"

CLIPPED = "clipped to the image"
"""A reason for annotations that are changed, not left out."""


class AnnotationError(DataError):
    """One annotation that cannot be used, although the others of its image can.

    Attributes:
        reason: One of the reasons of this module, or similar words.
    """

    def __init__(self, message: str, reason: str = OTHER) -> None:
        super().__init__(message)
        self.reason = reason


class NoAreaError(AnnotationError):
    """An annotation that is not meant to have pixels, such as a line or key points. It is always left out."""

    def __init__(self, message: str, reason: str = NO_AREA) -> None:
        super().__init__(message, reason)


@dataclass
class AnnotationLog:
    """The annotations of one image that are left out or changed.

    Attributes:
        skips_bad: Leave out annotations that cannot be used, instead of raising an error.
        left_out: A reason and a sentence for each annotation left out.
        changed: The same for annotations that are used, but not exactly as they are in the file.
    """

    skips_bad: bool = False
    left_out: list[tuple[str, str]] = field(default_factory=list)
    changed: list[tuple[str, str]] = field(default_factory=list)

    @contextmanager
    def annotation(self) -> Iterator[None]:
        """Read one annotation in this context. If it cannot be used, the context leaves it out or raises the error.

        >>> log = AnnotationLog(skips_bad=True)
        >>> with log.annotation():
        ...     raise AnnotationError("a.json: polygon 1 has 2 points", FEW_POINTS)
        >>> log.left_out
        [('polygon of fewer than 3 points', 'a.json: polygon 1 has 2 points')]

        Raises:
            DataError: The annotation cannot be used, and `skips_bad` is False.
        """
        try:
            yield
        except DataError as error:
            if not self.skips_bad and not isinstance(error, NoAreaError):
                raise DataError(f"{error}; or leave such annotations out with --skip-bad-annotations") from error
            reason = error.reason if isinstance(error, AnnotationError) else OTHER
            self.left_out.append((reason, str(error)))


def without_small_segments(panoptic: PanopticMap, area: int, where: str, log: AnnotationLog) -> PanopticMap:
    """Return the map without segments of fewer than `area` pixels, which become void.

    Args:
        panoptic: The map; it is not changed.
        area: Minimum number of pixels; 0 keeps all segments.
        where: The image, for the log.
        log: Receives the segments left out.
    """
    small = [segment for segment in panoptic.segments if segment.area < area]
    if not small:
        return panoptic
    for segment in small:
        sentence = f"{where}: a segment of category {segment.category_id} has an area of {segment.area} pixels"
        log.left_out.append((f"area below {area} pixels", sentence))
    ids = np.where(np.isin(panoptic.ids, [segment.id for segment in small]), 0, panoptic.ids)
    kept = tuple(segment for segment in panoptic.segments if segment.area >= area)
    return replace(panoptic, ids=ids, segments=kept)
