"""The label errors that `evaluate --label-errors` suspects, as a task for a reviewer."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.json_values import is_count, is_finite, is_image_id, is_name, is_text
from panformer_cli.data.images import read_bytes
from panformer_cli.errors import DataError
from panformer_cli.metrics.analysis.label_errors import Kind
from panformer_cli.prepare.sets.existing import Chosen, ExistingSets
from panformer_cli.storage.files import write_text
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.wording import counted, listing, short

REVIEW = "review.csv"
"""The list of suspects beside the labels."""

_KINDS = {kind.value: kind for kind in Kind}
_AGAIN = "write it again with `panformer evaluate --label-errors`"


@dataclass(frozen=True)
class ListedSuspect:
    """A probable label error, as read from label_errors.json.

    Attributes:
        rank: Its position in label_errors.json, from 1.
        image_id: Id of the image.
        file_name: Of the image, relative to the folder of its split.
        kind: Kind of the error.
        score: How certain it is, 0..1.
        truth: The ids and category ids of the ground truth segments.
        box: (x, y, width, height) of the region to look at, in pixels.
        reason: A sentence.
    """

    rank: int
    image_id: int | str
    file_name: str
    kind: Kind
    score: float
    truth: frozenset[tuple[int, int]]
    box: tuple[int, int, int, int]
    reason: str

    @property
    def text(self) -> str:
        """What a reviewer needs to know, in one line."""
        x, y, width, height = self.box
        reason = " ".join(self.reason.split())
        return f"{self.rank}. {self.kind.title} ({width} x {height} pixels at x {x}, y {y}): {reason}"


def read_suspects(path: Path, limit: int | None = None) -> list[ListedSuspect]:
    """Return the first `limit` suspects of a label_errors.json, all if it is None; the most certain are first.

    Raises:
        DataError: The file is missing, is not a label_errors.json, or has no suspects.
    """
    data = read_bytes(path, "list of label errors")
    try:
        content = parse_json(data)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON, or is truncated; {_AGAIN}") from error
    rows = content.get("suspects") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise DataError(f"{path} has no list `suspects`; expected the label_errors.json of `evaluate --label-errors`")
    if not rows:
        raise DataError(f"{path} lists no suspects, so there is nothing to review; leave out --review")
    return [_suspect(row, rank, path) for rank, row in enumerate(rows[:limit], 1)]


def _suspect(row: Any, rank: int, path: Path) -> ListedSuspect:
    values = row if isinstance(row, dict) else {}
    expected: dict[str, tuple[Callable[[Any], bool], str]] = {
        "image_id": (is_image_id, "an integer or text"),
        "file_name": (is_name, "a file name"),
        "kind": (_is_kind, f"one of {listing(_KINDS)}"),
        "score": (is_finite, "a number"),
        "truth": (_is_truth, "a list of objects with id and category_id"),
        "box": (_is_box, "[x, y, width, height] in pixels"),
        "reason": (_is_sentence, "a sentence"),
    }
    for key, (is_right, what) in expected.items():
        if not is_right(values.get(key)):
            found = short(values.get(key))
            raise DataError(f"{path}: suspect {rank} has the {key} {found}; expected {what}; {_AGAIN}")
    return ListedSuspect(
        rank,
        values["image_id"],
        values["file_name"],
        _KINDS[values["kind"]],
        float(values["score"]),
        frozenset((segment["id"], segment["category_id"]) for segment in values["truth"]),
        tuple(values["box"]),
        values["reason"],
    )


def _is_kind(value: Any) -> bool:
    return isinstance(value, str) and value in _KINDS


def _is_truth(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(segment, dict) and is_count(segment.get("id"), 1) and is_count(segment.get("category_id"), 0)
        for segment in value
    )


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(is_count(number, 0) for number in value)


def _is_sentence(value: Any) -> bool:
    return isinstance(value, str) and is_text(value)


def only_suspected(source: ExistingSets, suspects: Sequence[ListedSuspect], path: Path) -> ExistingSets:
    """Return the source with only the images of the suspects, those of the most certain ones first.

    Args:
        source: All images of one split; see `open_truth`.
        suspects: The suspects, in descending score.
        path: The JSON of the suspects, for errors.

    Raises:
        DataError: The source has several splits, or the suspects are those of another annotation.
    """
    if len(source.parts) != 1:
        names = listing(source.splits())
        raise DataError(f"--review needs one split, and {source.root} has {names}; add --split NAME")
    (part,), (split,) = source.parts, source.splits()
    suspects_of = by_image(suspects)
    images = enumerate(part.data.listed.images)
    index_of = {info.id: index for index, info in images if info.id in suspects_of}
    for suspect in suspects:
        _check_belongs(suspect, part.data, index_of, path)
    return replace(source, chosen={split: [Chosen(0, [index_of[image_id] for image_id in suspects_of])]})


def _check_belongs(suspect: ListedSuspect, data: CocoPanoptic, index_of: Mapping[int | str, int], path: Path) -> None:
    """Raise a DataError unless the annotation has the image of a suspect with its segments."""
    index, problem = index_of.get(suspect.image_id), ""
    if index is None:
        problem = f"has no image with the id {short(suspect.image_id)}"
    elif data.image_info(index).file_name != suspect.file_name:
        problem = f"lists the image {short(suspect.image_id)} as {short(data.image_info(index).file_name)}"
    else:
        listed = {(segment.id, segment.category_id) for segment in data.listed.segments(index)}
        missing = sorted(id_ for id_, _ in suspect.truth - listed)
        if missing:
            problem = f"does not list the segments {listing(missing)} of this image with the same classes"
    if problem:
        raise DataError(
            f"{path} belongs to another annotation: suspect {suspect.rank} is in the image {suspect.file_name}, and "
            f"{data.layout.annotation} {problem}; choose the split that was evaluated, or {_AGAIN}"
        )


def by_image(suspects: Iterable[ListedSuspect]) -> dict[int | str, tuple[ListedSuspect, ...]]:
    """Return the suspects of each image, the images in the order of their first suspects."""
    grouped: dict[int | str, list[ListedSuspect]] = {}
    for suspect in suspects:
        grouped.setdefault(suspect.image_id, []).append(suspect)
    return {image_id: tuple(found) for image_id, found in grouped.items()}


def write_review(path: Path, suspects: Iterable[ListedSuspect]) -> None:
    """Write the suspects as a table."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["rank", "image_id", "file_name", "kind", "score", "x", "y", "width", "height", "reason"])
    for suspect in suspects:
        values = (suspect.rank, suspect.image_id, suspect.file_name, suspect.kind.value, round(suspect.score, 4))
        rows.writerow([*values, *suspect.box, suspect.reason])
    write_text(path, text.getvalue())


def summary(suspects: Sequence[ListedSuspect], out: Path) -> str:
    """Return a line about the suspects that were exported."""
    images = counted(len({suspect.image_id for suspect in suspects}), "image")
    return f"To review: {counted(len(suspects), 'probable label error')} in {images}, listed in {out / REVIEW}"
