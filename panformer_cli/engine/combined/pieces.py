"""Masks of a large image, kept as packed crops: the memory of a segment depends on its extent, not on the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from panformer_cli.engine.combined.grid import Rectangle
from panformer_cli.models.candidates import Bools, Claim


@dataclass(frozen=True)
class Region:
    """A set of pixels of an image.

    Attributes:
        box: the smallest rectangle that contains them.
        bits: the pixels of the box in rows, eight per byte.
        area: number of pixels, 1 or more.
    """

    box: Rectangle
    bits: npt.NDArray[np.uint8]
    area: int

    @classmethod
    def of(cls, mask: Bools, top: int = 0, left: int = 0) -> Region | None:
        """Return the true pixels of a mask, a crop of the image at `top` and `left`; None if there are none."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return None
        inner = Rectangle(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
        crop = mask[inner.top : inner.bottom, inner.left : inner.right]
        box = Rectangle(top + inner.top, left + inner.left, top + inner.bottom, left + inner.right)
        return cls(box, np.packbits(crop), int(np.count_nonzero(crop)))

    def mask(self) -> Bools:
        """Return the pixels of `box`."""
        height, width = self.box.shape
        return np.unpackbits(self.bits, count=height * width).reshape(height, width).astype(np.bool_)

    def mask_in(self, area: Rectangle) -> Bools:
        """Return the pixels of another rectangle."""
        mask = np.zeros(area.shape, np.bool_)
        if (shared := self.box.intersection(area)) is not None:
            mask[shared.within(area)] = self.mask()[shared.within(self.box)]
        return mask

    def shared_area(self, other: Region) -> int:
        """Return the number of pixels in both regions."""
        shared = self.box.intersection(other.box)
        if shared is None:
            return 0
        return int(np.count_nonzero(self.mask_in(shared) & other.mask_in(shared)))


@dataclass(frozen=True)
class Piece:
    """A candidate for the merging of the whole image: a thing, or the stuff of one class in one part of the image."""

    label: int
    score: float
    region: Region

    def claim(self) -> Claim:
        """Return the piece unpacked."""
        return Claim(self.label, self.score, self.region.box.top, self.region.box.left, self.region.mask())
