"""What `export` needs to know about a label format, and what it reports about the labels."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from panformer_cli.data.categories import CategoryTable
from panformer_cli.prepare.export.labeled_image import LabeledImage, LabeledSegment
from panformer_cli.prepare.export.outlines import Part, changed_pixels, simplified
from panformer_cli.prepare.export.review import ListedSuspect
from panformer_cli.wording import counted

ShapeKind = Literal["masks", "polygons"]
"""Masks are exact. Polygons are easier to edit."""


class Loss(NamedTuple):
    """Something that a format cannot express, and what the export does instead.

    Attributes:
        noun: What is counted, such as `crowd segment`.
        result: The rest of the sentence, for one and for several.
    """

    noun: str
    result: str


@dataclass
class LabelReport:
    """Counts of the labels that were written; `add` counts those of another report.

    Attributes:
        segments: Segments written.
        shapes: Shapes written, by `mask` or `polygon`. A segment may have several.
        losses: Segments that the format cannot express as they are.
        pixels: Pixels of all segments.
        changed: Pixels in which simplified polygons differ from their segments.
    """

    segments: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    losses: Counter[Loss] = field(default_factory=Counter)
    pixels: int = 0
    changed: int = 0

    def add(self, other: LabelReport) -> None:
        self.segments += other.segments
        self.shapes += other.shapes
        self.losses += other.losses
        self.pixels += other.pixels
        self.changed += other.changed

    def count(self, segment: LabeledSegment, kind: str, shapes: int = 1) -> None:
        """Count a segment with its shapes."""
        self.segments += 1
        self.pixels += segment.area
        self.shapes[kind] += shapes

    def simplified(self, parts: Sequence[Part], segment: LabeledSegment, tolerance: float) -> Sequence[Part]:
        """Return the outlines of a segment with fewer points, and count the pixels that this changes.

        Args:
            parts: The segment's exact outlines.
            segment: The segment.
            tolerance: How far the new outlines may be from the exact ones, in pixels; 0 keeps them.
        """
        if not tolerance:
            return parts
        fewer = simplified(parts, segment.box.size, tolerance)
        self.changed += changed_pixels(fewer, segment.mask)
        return fewer

    def sentences(self) -> list[str]:
        """Return one sentence for each kind of loss, the most frequent first."""
        return [f"{counted(number, loss.noun)} {loss.result}" for loss, number in self.losses.most_common()]


def command_back(source: str, out: Path, *options: str) -> str:
    """Return a line with the command that converts the export back with the source of the same name."""
    command = shlex.join(["panformer", "prepare-data", source, "--root", str(out), *options, "--out", "DIR"])
    return f"To convert the labels back: {command}"


class Labels(NamedTuple):
    """The labels of an image.

    Attributes:
        content: What the format's `labels` returned.
        suspects: Probable label errors that the format shows to the reviewer if it can.
    """

    image_id: int | str
    file_name: str
    size: tuple[int, int]
    content: Any
    suspects: tuple[ListedSuspect, ...] = ()


class LabeledSplit(NamedTuple):
    """A split with the labels of its images."""

    name: str
    labels: Sequence[Labels]

    @property
    def suspects(self) -> list[ListedSuspect]:
        """The probable label errors in its images, the most certain first."""
        found = [suspect for labels in self.labels for suspect in labels.suspects]
        return sorted(found, key=lambda suspect: suspect.rank)


@runtime_checkable
class LimitsSplits(Protocol):
    """A `LabelFormat` in which only splits with usual names can be told apart."""

    def unnamed(self, splits: Sequence[str]) -> list[str]:
        """Return the splits that would be lost when the labels of all `splits` are converted back."""


class LabelFormat(Protocol):
    """A format of labels. Must be picklable, because the labels of images are made in several processes."""

    @property
    def name(self) -> str:
        """The value of `--to`, such as `cvat`."""

    def image_folder(self, split: str) -> str:
        """Return the folder of a split's images, relative to the output."""

    def labels(self, image: LabeledImage, report: LabelReport) -> Any:
        """Return the labels of an image, and count them in `report`.

        Raises:
            DataError: The format cannot contain the image at all.
        """

    def write(self, out: Path, splits: Sequence[LabeledSplit], categories: CategoryTable) -> None:
        """Write the label files into the folder `out`, in which the images already are."""

    def next_steps(self, out: Path, splits: Sequence[str]) -> Iterable[str]:
        """Return lines that explain how to open `out` in the tool, and how to convert it back."""
