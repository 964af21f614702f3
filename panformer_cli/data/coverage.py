"""How much of a split is annotated: one rule for conversions, `verify`, `train` and `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass

from panformer_cli.wording import counted

MOST_VOID = 0.5
"""Share of void pixels above which a split is reported."""


@dataclass(frozen=True)
class Coverage:
    """The annotated part of a split.

    Attributes:
        images: Number of images.
        segments: Number of segments in them.
        pixels: Number of pixels; 0 if they were not counted.
        void: Number of pixels without a segment.
        sampled: Number of images whose pixels were counted, if not all of them.
    """

    images: int
    segments: int
    pixels: int = 0
    void: int = 0
    sampled: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no image has a segment."""
        return self.images > 0 and self.segments == 0

    @property
    def is_mostly_void(self) -> bool:
        """Whether more than half of the pixels are void."""
        return self.void > MOST_VOID * self.pixels

    def problem(self, where: str) -> str | None:
        """Return a sentence that starts with `where` if the split is empty or mostly void, else None.

        >>> Coverage(2, 0).problem("val").partition(",")[0]
        'val: none of the 2 images has a segment'
        >>> Coverage(2, 9, pixels=100, void=51).problem("val").partition(";")[0]
        'val: 51.0 % of all pixels are void'
        """
        if self.is_empty:
            found = (
                "the image has no segment" if self.images == 1 else f"none of the {self.images} images has a segment"
            )
            return (
                f"{where}: {found}, so there is nothing to learn and nothing to evaluate; check that the labels belong "
                "to these images"
            )
        if self.is_mostly_void:
            sample = "" if self.sampled is None else f", estimated from {counted(self.sampled, 'image')}"
            return (
                f"{where}: {100 * self.void / self.pixels:.1f} % of all pixels are void{sample}; predictions there do "
                "not count, and training treats these pixels as background; if they belong to classes, add these to "
                "the labels or the class table"
            )
        return None


def spread(images: int, most: int) -> list[int]:
    """Return the indices of at most `most` images, evenly spread, in ascending order.

    >>> spread(3, 8), spread(10, 2)
    ([0, 1, 2], [0, 5])
    """
    return [index * images // most for index in range(most)] if images > most else list(range(images))
