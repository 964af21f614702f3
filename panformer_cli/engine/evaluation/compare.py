"""Compare two evaluations of the same images: metrics with confidence intervals, classes and images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.image_pairing import CONFLICTS, kind_of, other_kind_of, same_name
from panformer_cli.engine.results import METRICS, RECORDS
from panformer_cli.errors import DataError
from panformer_cli.metrics.bootstrap import (
    FEWEST_IMAGES,
    FIGURES,
    GROUPS,
    PairedIntervals,
    Resamples,
    Verdict,
    image_quality,
    images_needed,
    paired_intervals,
)
from panformer_cli.metrics.image_overlap import ImageOverlap
from panformer_cli.metrics.matching import match_segments
from panformer_cli.metrics.quality import PanopticQuality, PanopticResult
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.wording import counted, listing

NAMED = 5
"""Number of images that an error names."""


@dataclass(frozen=True)
class CompareOptions:
    """How to compare.

    Attributes:
        resamples: Bootstrap resamples, 1 or more.
        seed: Seed of the resamples.
        listed: Number of images to list that gained most, and that lost most.
    """

    resamples: int = 1000
    seed: int = 0
    listed: int = 10


@dataclass(frozen=True)
class EvaluatedSet:
    """One side of a comparison.

    Attributes:
        name: Name in messages and tables, such as the folder.
        categories: Categories of the overlaps.
        overlaps: One per image, in any order; read once.
    """

    name: str
    categories: CategoryTable
    overlaps: Iterable[ImageOverlap]


@dataclass(frozen=True)
class ClassChange:
    """The PQ of a category in both sets, in percent, and second - first; None where the category does not count."""

    category_id: int
    name: str
    is_thing: bool
    first: float | None
    second: float | None
    difference: float | None


@dataclass(frozen=True)
class ImageChange:
    """The PQ of one image in both sets, in percent, and second - first."""

    image_id: int | str
    file_name: str
    first: float
    second: float
    difference: float


@dataclass(frozen=True)
class Comparison:
    """Comparison of the second set with the first.

    Attributes:
        names: Names of the two sets.
        images: Number of images.
        options: How they were compared.
        first: Metrics of the first set.
        second: Metrics of the second set.
        paired: Confidence intervals of both sets and of the difference.
        classes: Categories that count in either set, by descending gain. Those that count in only one set are last.
        gained: Images whose PQ rose most, the largest change first.
        lost: Images whose PQ fell most, the largest change first.
    """

    names: tuple[str, str]
    images: int
    options: CompareOptions
    first: PanopticResult
    second: PanopticResult
    paired: PairedIntervals
    classes: tuple[ClassChange, ...]
    gained: tuple[ImageChange, ...]
    lost: tuple[ImageChange, ...]

    def difference(self) -> dict[str, dict[str, float]]:
        """Return second - first, in points: `{"all": {"pq": ..., "sq": ..., "rq": ...}, "things": ..., ...}`."""
        return {
            group: {name: _metric(self.second, group, name) - _metric(self.first, group, name) for name in FIGURES}
            for group in GROUPS
        }

    def verdict(self, group: str) -> Verdict:
        """Return which set has the higher PQ over `all`, `things` or `stuff`, if the difference is significant."""
        low, high = getattr(self.paired.difference, group).pq
        if self.paired.same[group] == 1 and _metric(self.first, group, "pq") == _metric(self.second, group, "pq"):
            return "same"
        if self.images < FEWEST_IMAGES or low <= 0 <= high:
            return "chance"
        return "b" if low > 0 else "a"

    def to_json(self) -> dict[str, Any]:
        """Return metrics in percent and differences in points; `a` is the first set, `b` the second.

        `{"images", "resamples", "seed", "a": {"name", "all": {"pq", ...}, ..., "intervals": {"all": {"pq": [low,
        high], ...}, ...}}, "b": ..., "difference": {"all": {...}, ..., "intervals": {...}}, "better": {"all": share},
        "same": {"all": share}, "verdict": {"all": ...}, "images_needed": {"all": number}, "per_class": [...],
        "images_gained": [...], "images_lost": [...]}`.
        """
        one, other = self.paired.first.to_json(), self.paired.second.to_json()
        return {
            "images": self.images,
            "resamples": self.options.resamples,
            "seed": self.options.seed,
            "a": {"name": self.names[0], **_groups(self.first), "intervals": one},
            "b": {"name": self.names[1], **_groups(self.second), "intervals": other},
            "difference": {**self.difference(), "intervals": self.paired.difference.to_json()},
            "better": self.paired.better,
            "same": self.paired.same,
            "verdict": {group: self.verdict(group) for group in GROUPS},
            "images_needed": {
                group: images_needed(error, self.images) for group, error in self.paired.standard_error.items()
            },
            "per_class": [asdict(row) for row in self.classes],
            "images_gained": [asdict(row) for row in self.gained],
            "images_lost": [asdict(row) for row in self.lost],
        }


def compare_sets(first: EvaluatedSet, second: EvaluatedSet, options: CompareOptions) -> Comparison:
    """Compare two sets. Memory holds a few hundred bytes per image.

    Raises:
        DataError: The sets differ in their categories, images or ground truth, or an overlap is corrupt.
    """
    if not first.categories.has_labels_of(second.categories):
        raise DataError(
            f"{first.name} and {second.name} have different categories; expected results on the same data set; "
            "evaluate both on one data set"
        )
    one, other = _Counted(first, options), _Counted(second, options)
    _check_same_images(one, other)
    paired = paired_intervals(one.resamples, other.resamples)
    changes = sorted(_image_changes(one, other), key=lambda change: -change.difference)
    return Comparison(
        (first.name, second.name),
        len(one.images),
        options,
        one.result,
        other.result,
        paired,
        _class_changes(one.result, other.result),
        gained=tuple(change for change in changes[: options.listed] if change.difference > 0),
        lost=tuple(change for change in reversed(changes[-options.listed :]) if change.difference < 0),
    )


def few_images_note(content: Mapping[str, Any]) -> str:
    """Return a sentence if a comparison (`Comparison.to_json`) has too few images to see a difference of one point."""
    images, needed = content["images"], content["images_needed"]["all"]
    if needed <= images or content["verdict"]["all"] == "same":
        return ""
    number = f"about {needed}" if needed > FEWEST_IMAGES else f"at least {FEWEST_IMAGES}"
    return (
        f"{counted(images, 'image')} cannot show a difference of 1 point of PQ between these two: {number} images are "
        "needed"
    )


def read_evaluation(folder: Path) -> EvaluatedSet:
    """Return the evaluation that `panformer evaluate` wrote to `folder`; records.jsonl is read as a stream.

    Raises:
        DataError: The folder has no evaluation, or a corrupt one. Errors in records.jsonl come when it is read.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(
            f"{folder} {what}; expected a folder that `panformer evaluate` wrote; to compare prediction JSONs, give "
            "their ground truth with --annotations GT.json"
        )
    metrics, overlaps = folder / METRICS, folder / RECORDS
    for path in (metrics, overlaps):
        if not path.is_file():
            raise DataError(
                f"{folder} has no {path.name}; expected the result folder of an evaluation by this version; create one "
                f"with panformer evaluate CHECKPOINT --out {folder}"
            )
    try:
        rows = parse_json(metrics.read_text(encoding="utf-8"))["categories"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{metrics} is corrupt or from another version: {error!r}; evaluate again") from error
    return EvaluatedSet(str(folder), CategoryTable.from_coco(rows, str(metrics)), read_overlaps(overlaps))


def read_overlaps(path: Path) -> Iterator[ImageOverlap]:
    """Yield the image overlaps of a file with one `ImageOverlap.to_json` per line.

    Raises:
        DataError: A line is not an image overlap.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                overlap = ImageOverlap.from_json(parse_json(line))
                hash((overlap.image_id, overlap.truth, overlap.predictions))  # raises if an id is a list or an object
            except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
                raise DataError(
                    f"{path}, line {number} is corrupt or truncated: {error!r}; expected the overlaps of an image; "
                    "evaluate again"
                ) from error
            yield overlap


class _Image(NamedTuple):
    """An image: its name, a hash of its ground truth, and its PQ in percent."""

    file_name: str
    truth: int
    pq: float


class _Counted:
    """The metrics of a set, and its images by id."""

    def __init__(self, source: EvaluatedSet, options: CompareOptions) -> None:
        self.name = source.name
        self.resamples = Resamples(source.categories, options.resamples, options.seed)
        self.images: dict[int | str, _Image] = {}
        quality = PanopticQuality(source.categories)
        for overlap in source.overlaps:
            if overlap.image_id in self.images:
                raise DataError(
                    f"{source.name}: image {overlap.image_id} ({overlap.file_name}) appears twice; expected every "
                    "image once; evaluate again"
                )
            matching = match_segments(overlap, source.categories)
            quality.add(matching)
            self.resamples.add(overlap.image_id, matching)
            truth = tuple(
                (segment.id, segment.category_id, segment.area, segment.is_crowd) for segment in overlap.truth
            )
            digest, pq = hash((overlap.size, truth)), image_quality(matching, source.categories)
            self.images[overlap.image_id] = _Image(overlap.file_name, digest, pq)
        self.result = quality.result()


def _check_same_images(one: _Counted, other: _Counted) -> None:
    for number in one.images:
        other_kind = other_kind_of(number)
        if number not in other.images and other_kind in other.images:
            raise DataError(
                f"the image ids are {kind_of(number)} in {one.name} ({number!r}) and {kind_of(other_kind)} in "
                f"{other.name} ({other_kind!r}); expected the same ids; evaluate both on one annotation"
            )
    missing = [
        f"{mine.name} has {_images(names)} that {theirs.name} lacks"
        for mine, theirs in ((one, other), (other, one))
        if (names := [image.file_name for key, image in mine.images.items() if key not in theirs.images])
    ]
    if missing:
        raise DataError(f"{' and '.join(missing)}; expected the same images; evaluate both on one split")
    renamed = [
        f"image {key!r} is {image.file_name} and {other.images[key].file_name}"
        for key, image in one.images.items()
        if not same_name(image.file_name, other.images[key].file_name)
    ]
    if renamed:
        raise DataError(
            f"{one.name} and {other.name} have different file names under {len(renamed)} of {len(one.images)} image "
            f"ids ({listing(renamed, CONFLICTS, '; ')}); expected the same images; evaluate both on one data set"
        )
    differing = [image.file_name for key, image in one.images.items() if other.images[key].truth != image.truth]
    if differing:
        raise DataError(
            f"{one.name} and {other.name} have different ground truth for {_images(differing)}; "
            "expected the same annotation; evaluate both on one annotation"
        )


def _class_changes(first: PanopticResult, second: PanopticResult) -> tuple[ClassChange, ...]:
    rows = []
    for one, other in zip(first.categories, second.categories, strict=True):
        before, after = one.pq if one.counts else None, other.pq if other.counts else None
        difference = None if before is None or after is None else after - before
        if one.counts or other.counts:
            rows.append(ClassChange(one.category_id, one.name, one.is_thing, before, after, difference))
    return tuple(sorted(rows, key=lambda row: (row.difference is None, -(row.difference or 0))))


def _image_changes(one: _Counted, other: _Counted) -> Iterator[ImageChange]:
    for image_id in sorted(one.images, key=lambda image_id: (isinstance(image_id, str), image_id)):
        image, first, second = one.images[image_id], one.images[image_id].pq, other.images[image_id].pq
        yield ImageChange(image_id, image.file_name, first, second, second - first)


def _groups(result: PanopticResult) -> dict[str, Any]:
    return {group: asdict(getattr(result, group)) for group in GROUPS}


def _metric(result: PanopticResult, group: str, name: str) -> float:
    value: float = getattr(getattr(result, group), name)
    return value


def _images(names: list[str]) -> str:
    return f"{counted(len(names), 'image')} ({listing(names, NAMED)})"
