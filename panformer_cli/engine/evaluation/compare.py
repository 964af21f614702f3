"""Two checkpoints or two sets of predictions on the same images: which is better, how surely, and where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.results import METRICS, RECORDS
from panformer_cli.errors import DataError
from panformer_cli.metrics.bootstrap import (
    FIGURES,
    GROUPS,
    PairedIntervals,
    Resamples,
    image_quality,
    paired_intervals,
)
from panformer_cli.metrics.image_overlap import ImageOverlap
from panformer_cli.metrics.matching import match_segments
from panformer_cli.metrics.quality import PanopticQuality, PanopticResult
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.wording import listing

NAMED = 5
"""Images that an error names."""


@dataclass(frozen=True)
class CompareOptions:
    """How to compare.

    resamples: draws of the bootstrap, 1 or more. seed: of the draws.
    listed: images to list that gained most, and as many that lost most.
    """

    resamples: int = 1000
    seed: int = 0
    listed: int = 10


@dataclass(frozen=True)
class EvaluatedSet:
    """One side of a comparison.

    name: what a person calls it, such as the folder. records: of its images, read once, in any order.
    """

    name: str
    categories: CategoryTable
    records: Iterable[ImageOverlap]


@dataclass(frozen=True)
class ClassChange:
    """A category: PQ in percent on both sides and second - first; None where the category does not count."""

    category_id: int
    name: str
    is_thing: bool
    first: float | None
    second: float | None
    difference: float | None


@dataclass(frozen=True)
class ImageChange:
    """An image: PQ of this image alone on both sides, percent, and second - first."""

    image_id: int | str
    file_name: str
    first: float
    second: float
    difference: float


@dataclass(frozen=True)
class Comparison:
    """The second set against the first.

    classes: all that count on either side, those that gained most first, and last those that count on one side only.
    gained, lost: images whose PQ changed most, the greatest change first.
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
        """Second - first, in points: `{"all": {"pq": ..., "sq": ..., "rq": ...}, "things": ..., "stuff": ...}`."""
        return {
            group: {name: _figure(self.second, group, name) - _figure(self.first, group, name) for name in FIGURES}
            for group in GROUPS
        }

    def to_json(self) -> dict[str, Any]:
        """Figures in percent and points; `a` is the first set, `b` the second.

        `{"images", "resamples", "seed", "a": {"name", "all": {"pq", ...}, ..., "intervals": {"all": {"pq": [low,
        high], ...}, ...}}, "b": ..., "difference": {"all": {...}, ..., "intervals": {...}}, "better": {"all": share},
        "per_class": [...], "images_gained": [...], "images_lost": [...]}`.
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
            "per_class": [asdict(row) for row in self.classes],
            "images_gained": [asdict(row) for row in self.gained],
            "images_lost": [asdict(row) for row in self.lost],
        }


def compare_folders(first: Path, second: Path, options: CompareOptions) -> Comparison:
    """Compare what two evaluations left in their folders; errors as `read_evaluation` and `compare_sets`."""
    return compare_sets(read_evaluation(first), read_evaluation(second), options)


def compare_sets(first: EvaluatedSet, second: EvaluatedSet, options: CompareOptions) -> Comparison:
    """Compare two sets; of an image some hundred bytes are kept.

    Raises:
        DataError: the sets differ in their categories, images or ground truth, or a record cannot be counted.
    """
    if not first.categories.has_labels_of(second.categories):
        raise DataError(
            f"{first.name} and {second.name} have different categories; expected results on one data set; evaluate "
            "both on the same one"
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


def read_evaluation(folder: Path) -> EvaluatedSet:
    """What `panformer evaluate` left in `folder`: metrics.json, and records.jsonl, which is read as a stream.

    Raises:
        DataError: it holds no evaluation, or a damaged one; of the records, when they are read.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(
            f"{folder} {what}; expected a folder that `panformer evaluate` wrote; for JSONs of predictions name their "
            "ground truth with --annotations GT.json"
        )
    metrics, records = folder / METRICS, folder / RECORDS
    for path in (metrics, records):
        if not path.is_file():
            raise DataError(
                f"{folder} holds no {path.name}; expected the folder of an evaluation by this version; make one with "
                f"panformer evaluate CHECKPOINT --out {folder}"
            )
    try:
        rows = parse_json(metrics.read_text(encoding="utf-8"))["categories"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{metrics} is damaged or of another version: {error!r}; evaluate again") from error
    return EvaluatedSet(str(folder), CategoryTable.from_coco(rows, str(metrics)), read_records(records))


def read_records(path: Path) -> Iterator[ImageOverlap]:
    """The records of a file with one `ImageOverlap.to_json` a line, one after the other.

    Raises:
        DataError: a line is none.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = ImageOverlap.from_json(parse_json(line))
                hash((record.image_id, record.truth, record.predictions))  # ids are no lists or objects
            except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
                raise DataError(
                    f"{path}, line {number} is corrupt or truncated: {error!r}; expected the record of an image; "
                    "evaluate again"
                ) from error
            yield record


class _Image(NamedTuple):
    """An image: its name, a digest of its ground truth, and its PQ, percent."""

    file_name: str
    truth: int
    pq: float


class _Counted:
    """A set, counted; images by id."""

    def __init__(self, source: EvaluatedSet, options: CompareOptions) -> None:
        self.name = source.name
        self.resamples = Resamples(source.categories, options.resamples, options.seed)
        self.images: dict[int | str, _Image] = {}
        quality = PanopticQuality(source.categories)
        for record in source.records:
            if record.image_id in self.images:
                raise DataError(
                    f"{source.name}: image {record.image_id} ({record.file_name}) comes twice; expected every image "
                    "once; evaluate again"
                )
            matching = match_segments(record, source.categories)
            quality.add(matching)
            self.resamples.add(record.image_id, matching)
            truth = tuple((segment.id, segment.category_id, segment.area, segment.is_crowd) for segment in record.truth)
            digest, pq = hash((record.size, truth)), image_quality(matching, source.categories)
            self.images[record.image_id] = _Image(record.file_name, digest, pq)
        self.result = quality.result()


def _check_same_images(one: _Counted, other: _Counted) -> None:
    alone = [
        f"{mine.name} has {_images(names)} that {theirs.name} lacks"
        for mine, theirs in ((one, other), (other, one))
        if (names := [image.file_name for key, image in mine.images.items() if key not in theirs.images])
    ]
    if alone:
        raise DataError(f"{' and '.join(alone)}; expected the same images; evaluate both on one split")
    differing = [image.file_name for key, image in one.images.items() if other.images[key].truth != image.truth]
    if differing:
        raise DataError(
            f"{one.name} and {other.name} have different ground truth for {_images(differing)}; "
            "expected one annotation; evaluate both on the same one"
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


def _figure(result: PanopticResult, group: str, name: str) -> float:
    value: float = getattr(getattr(result, group), name)
    return value


def _images(names: list[str]) -> str:
    return f"{len(names)} {'image' if len(names) == 1 else 'images'} ({listing(names, NAMED)})"
