"""Statistics of a prepared split, counted row by row and shown as a table, JSON or an HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coverage import Coverage
from panformer_cli.prepare.occurrences import Occurrences
from panformer_cli.reporting import Reporter
from panformer_cli.wording import counted, listing

SMALL, MEDIUM = 32**2, 96**2
"""COCO's area limits between small, medium and large segments, in pixels."""


ANNOTATIONS_LISTED = 1000
"""Number of annotations that are listed for each reason; the others are only counted."""


@dataclass
class CategoryCount:
    """Counts of one category: segments (including crowds), crowds, images that contain it, and pixels."""

    segments: int = 0
    crowd: int = 0
    images: int = 0
    pixels: int = 0


@dataclass
class SplitSummary:
    """Counts over the images of a split; `add` counts one image.

    Attributes:
        categories: The table, including classes without segments.
        pixels: Number of all pixels.
        void: Number of pixels without a segment.
        image_sizes: Number of images by (height, width).
        segment_sizes: Number of thing segments by size, without crowds: small below 32 x 32 pixels, medium below
            96 x 96, and large.
        left_out: One sentence per skipped image.
        annotations_left_out: Annotations and segments that are left out of the other images, by reason.
        annotations_changed: Annotations that are not used exactly as they are in the file, by reason.
        void_values: Pixels that are void because of their class value, by this value; see `source.LabeledMap`.
        conventions: One sentence for each meaning of the labels that was assumed.
        samples: Images that the page shows, as returned by `samples.draw_samples`.
    """

    split: str
    categories: CategoryTable
    images: int = 0
    pixels: int = 0
    void: int = 0
    image_sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    segments_per_image: Counter[int] = field(default_factory=Counter)
    segment_sizes: Counter[str] = field(default_factory=Counter)
    by_category: dict[int, CategoryCount] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    annotations_left_out: dict[str, Occurrences] = field(default_factory=dict)
    annotations_changed: dict[str, Occurrences] = field(default_factory=dict)
    void_values: Counter[str] = field(default_factory=Counter)
    conventions: list[str] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.by_category = {category.id: CategoryCount() for category in self.categories.categories}

    def add(self, size: tuple[int, int], annotation: Mapping[str, Any]) -> None:
        """Count an image of height and width `size` with a row of `annotations`, which includes areas."""
        segments = annotation["segments_info"]
        self.images += 1
        self.pixels += size[0] * size[1]
        self.void += size[0] * size[1] - sum(segment["area"] for segment in segments)
        self.image_sizes[size] += 1
        self.segments_per_image[len(segments)] += 1
        for category_id in {segment["category_id"] for segment in segments}:
            self.by_category[category_id].images += 1
        for segment in segments:
            self._add_segment(segment)

    def add_left_out(self, annotations: Iterable[Sequence[str]]) -> None:
        """Count annotations of an image that are left out, each as reason and sentence."""
        _count(self.annotations_left_out, annotations)

    def add_changed(self, annotations: Iterable[Sequence[str]]) -> None:
        """Count annotations of an image that are changed, each as reason and sentence."""
        _count(self.annotations_changed, annotations)

    def _add_segment(self, segment: Mapping[str, Any]) -> None:
        count = self.by_category[segment["category_id"]]
        count.segments += 1
        count.crowd += segment["iscrowd"]
        count.pixels += segment["area"]
        if self.categories.by_id(segment["category_id"]).is_thing and not segment["iscrowd"]:
            area = segment["area"]
            self.segment_sizes["small" if area < SMALL else "medium" if area < MEDIUM else "large"] += 1

    @property
    def segments(self) -> int:
        return self.things + self.stuff

    @property
    def things(self) -> int:
        """Number of thing segments, including crowds."""
        return sum(count.segments for id_, count in self.by_category.items() if self.categories.by_id(id_).is_thing)

    @property
    def stuff(self) -> int:
        return sum(count.segments for id_, count in self.by_category.items() if not self.categories.by_id(id_).is_thing)

    @property
    def crowd(self) -> int:
        return sum(count.crowd for count in self.by_category.values())

    @property
    def void_share(self) -> float:
        """Fraction of pixels without a segment, 0..1."""
        return self.void / max(self.pixels, 1)

    @property
    def coverage(self) -> Coverage:
        return Coverage(self.images, self.segments, self.pixels, self.void)

    @property
    def labels(self) -> dict[str, Any]:
        """How labels were read, as JSON: `void_values`, the largest number of pixels first, and `conventions`."""
        return {"void_values": dict(self.void_values.most_common()), "conventions": self.conventions}

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON: totals, `categories`, `image_sizes`, `segments_per_image`, `segment_sizes`."""
        rows = [row | vars(self.by_category[row["id"]]) for row in self.categories.to_coco()]
        return {
            "images": self.images,
            "segments": self.segments,
            "things": self.things,
            "stuff": self.stuff,
            "crowd": self.crowd,
            "pixels": self.pixels,
            "void": self.void,
            "void_share": self.void_share,
            "categories": rows,
            "image_sizes": [[*size, count] for size, count in self.image_sizes.most_common()],
            "segments_per_image": sorted(self.segments_per_image.items()),
            "segment_sizes": {name: self.segment_sizes[name] for name in ("small", "medium", "large")},
            "left_out": self.left_out,
            "annotations_left_out": _to_json(self.annotations_left_out),
            "annotations_changed": _to_json(self.annotations_changed),
            **self.labels,
            "samples": self.samples,
        }

    @classmethod
    def from_json(cls, split: str, content: Mapping[str, Any]) -> SplitSummary:
        """Return the summary that `to_json` wrote."""
        keys = ("id", "name", "isthing", "color")
        rows = [{key: row[key] for key in keys if row.get(key) is not None} for row in content["categories"]]
        summary = cls(split, CategoryTable.from_coco(rows, split), content["images"], left_out=content["left_out"])
        summary.pixels, summary.void = content["pixels"], content["void"]
        for row in content["categories"]:
            counts = {key: row[key] for key in ("segments", "crowd", "images", "pixels")}
            summary.by_category[row["id"]] = CategoryCount(**counts)
        summary.image_sizes.update({(height, width): count for height, width, count in content["image_sizes"]})
        summary.segments_per_image.update(dict(content["segments_per_image"]))
        summary.segment_sizes.update(content["segment_sizes"])
        # All of these are missing in summaries of version 0.2.0.
        summary.annotations_left_out = _from_json(content.get("annotations_left_out", ()))
        summary.annotations_changed = _from_json(content.get("annotations_changed", ()))
        summary.void_values.update(content.get("void_values", {}))
        summary.conventions += content.get("conventions", [])
        summary.samples += content.get("samples", [])
        return summary


def _count(groups: dict[str, Occurrences], annotations: Iterable[Sequence[str]]) -> None:
    for reason, sentence in annotations:
        groups.setdefault(reason, Occurrences()).add(sentence, ANNOTATIONS_LISTED)


def _to_json(groups: Mapping[str, Occurrences]) -> list[dict[str, Any]]:
    return [{"reason": reason, **vars(group)} for reason, group in groups.items()]


def _from_json(rows: Iterable[Mapping[str, Any]]) -> dict[str, Occurrences]:
    return {row["reason"]: Occurrences(row["count"], row["first"]) for row in rows}


def report_summary(summary: SplitSummary, reporter: Reporter) -> None:
    """Report what a conversion assumed about the labels of a split, which values became void, and if most did."""
    for sentence in summary.conventions:
        reporter.warn(f"{summary.split}: {sentence}")
    if summary.void_values:
        values = (f"{value} in {counted(pixels, 'pixel')}" for value, pixels in summary.void_values.most_common())
        reporter.message(f"{summary.split}: class values that became void: {listing(values)}")
    if problem := summary.coverage.problem(summary.split):
        reporter.warn(problem)
