"""Checking a data set: every image of every split, in several processes, in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from panformer_cli.data.coco.json_stream import read_members
from panformer_cli.data.coco.json_values import is_image_id
from panformer_cli.data.coco.panoptic_png import expect_reads
from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.layout import SplitLayout, find_images, find_split, find_splits
from panformer_cli.data.parallel import map_in_order
from panformer_cli.errors import DataError
from panformer_cli.reporting import Reporter
from panformer_cli.verify.findings import Finding, Findings, Problem, ProblemReport
from panformer_cli.verify.fix import ChangeLog, FixedFile
from panformer_cli.verify.images import AnnotationRow, ImageResult, ImageTask, Setting, check_image
from panformer_cli.verify.outline import ImageId, ListedImage, Outline, read_outline
from panformer_cli.wording import short


@dataclass(frozen=True)
class VerifyOptions:
    """How to check.

    workers: processes; 1 works in this one.
    decodes_images: read the pixels of images, not only their headers.
    fixes: repair what has one right answer.
    """

    workers: int = 1
    decodes_images: bool = False
    fixes: bool = False


@dataclass(frozen=True)
class SplitReport:
    """What was found in a split.

    images, segments: how many were looked at.
    problems: by kind; empty where all is well.
    fixed: what was repaired; None where nothing was.
    """

    split: str
    images: int
    segments: int
    problems: tuple[ProblemReport, ...]
    fixed: FixedFile | None = None

    @property
    def is_good(self) -> bool:
        """Whether no error is left; warnings do not count."""
        return all(
            found.problem.is_warning or (self.fixed is not None and found.fixable == found.count)
            for found in self.problems
        )

    def to_json(self) -> dict[str, Any]:
        """The report for a program; problems by the name of their kind."""
        problems = {
            found.problem.name.lower(): {
                "severity": found.problem.severity,
                "count": found.count,
                "fixable": found.fixable,
                "examples": list(found.examples),
            }
            for found in self.problems
        }
        content = {"split": self.split, "images": self.images, "segments": self.segments, "is_good": self.is_good}
        return {**content, "problems": problems, "fixed": self.fixed.to_json() if self.fixed else None}


def verify(root: Path, splits: Sequence[str], options: VerifyOptions, reporter: Reporter) -> list[SplitReport]:
    """Check the splits of a data set in COCO's panoptic form, one report for each.

    splits: names such as `val2017`; none stands for all splits with annotations and images. Images are compared between
        the splits that are checked together.

    With `options.fixes` a repaired JSON takes the place of the old one, see `fix.ChangeLog.apply`.

    Raises:
        DataError: no such folder or split, or one without its images or PNGs.
        PanformerError: a repaired JSON cannot be written, or a process was ended from outside.
    """
    layouts = {split: find_split(root, split) for split in splits or _complete_splits(root, reporter)}
    owners = _ImageOwners() if len(layouts) > 1 else None
    return [_verify_split(split, layout, options, owners, reporter) for split, layout in layouts.items()]


def _complete_splits(root: Path, reporter: Reporter) -> list[str]:
    known = find_splits(root)
    complete = [split for split in known if find_images(root, split) is not None]
    if not complete:
        found = f"annotations of {', '.join(known)} but no folder of images" if known else "no panoptic JSON"
        raise DataError(
            f"{root} has {found}; expected images/<split>/ or <split>/ and annotations/panoptic_<split>.json "
            f"(`panformer prepare-data coco --root {root}` unpacks COCO's zips)"
        )
    for split in sorted(set(known) - set(complete)):
        reporter.warn(f"{split} is left out: {root} has its annotations but no folder of its images")
    return complete


class _ImageOwners:
    """Which split an image was first seen in, by the digest of its bytes."""

    def __init__(self) -> None:
        self._names: dict[str, DiskList[tuple[bytes, str]]] = {}  # of each split, by digest

    def claim(self, result: ImageResult, split: str) -> Iterator[Finding]:
        """A finding where an earlier split has the same image. All images of a split come before those of the next."""
        if result.digest is None or result.file_name is None:
            return
        self._names.setdefault(split, DiskList(key=itemgetter(0))).append((result.digest, result.file_name))
        for other, names in self._names.items():
            place = names.first(result.digest) if other != split else None
            if place is not None:
                _, name = names[place]
                sentence = f"{short(result.file_name)} of {split} is the same file as {short(name)} of {other}"
                yield Finding(Problem.LEAKAGE, f"{sentence}; expected splits without a common image")
                return


def _verify_split(
    split: str, layout: SplitLayout, options: VerifyOptions, owners: _ImageOwners | None, reporter: Reporter
) -> SplitReport:
    findings = Findings()
    outline = read_outline(layout.annotation, findings)
    if outline is None:
        return SplitReport(split, 0, 0, findings.report())
    setting = Setting(layout, outline.is_thing, options.decodes_images, owners is not None)
    tasks = _tasks(layout.annotation, outline, findings)
    total, images, segments = max(len(outline.images or ()), outline.annotations or 0), 0, 0
    expect_reads(total)
    log = ChangeLog()
    with reporter.progress(f"Checking {split}", total) as progress:
        for result in map_in_order(partial(check_image, setting), tasks, options.workers):
            for finding in [*result.findings, *(owners.claim(result, split) if owners else ())]:
                findings.add(finding)
                log.add(finding.changes if options.fixes else ())
            images += 1
            segments += result.segments
            progress.advance()
        fixed = log.apply(layout.annotation) if log else None
    return SplitReport(split, images, segments, findings.report(), fixed)


def _tasks(annotation: Path, outline: Outline, findings: Findings) -> Iterator[ImageTask]:
    """Every image that is annotated, in the order of the annotations, and then every other one."""
    images, all_usable = outline.images or DiskList[tuple[ImageId, ListedImage]](), True
    is_done = bytearray(len(images))
    for repeat in images.repeats():
        is_done[repeat] = True
    unlisted: set[ImageId] = set()

    def add(problem: Problem, sentence: str) -> None:
        findings.add(Finding(problem, f"{annotation}: {sentence}"))

    for key, rows in read_members(annotation):
        if key != "annotations" or outline.annotations is None:
            continue
        for index, row in enumerate(rows):
            if not _is_usable(row):
                sentence = f"an annotation is {short(row)}; expected image_id, file_name and a list segments_info"
                add(Problem.ANNOTATION_ROW, sentence)
                all_usable = False
                continue
            image_id = row["image_id"]
            place = images.first(image_id)
            if image_id in unlisted if place is None else is_done[place]:
                add(Problem.ANNOTATION_TWICE, f"image {short(image_id)} is annotated twice; expected one annotation")
                continue
            if place is not None:
                is_done[place] = True
            else:
                unlisted.add(image_id)
                if len(images) and not outline.has_bad_images:
                    sentence = f"image {short(image_id)} is annotated but not listed in images"
                    add(Problem.ANNOTATION_UNLISTED, f"{sentence}; list it, or take the annotation out")
            listed = images[place][1] if place is not None else None
            yield ImageTask(image_id, listed, AnnotationRow(index, row["file_name"], row["segments_info"]))
    for place, (image_id, listed) in enumerate(images):
        if not is_done[place]:
            if all_usable and outline.annotations is not None:
                sentence = f"lists image {short(image_id)} ({short(listed.file_name)}) but does not annotate it"
                sentence = f"{annotation} {sentence}; annotate it, or take it out of images"
                findings.add(Finding(Problem.IMAGE_UNANNOTATED, sentence))
            yield ImageTask(image_id, listed, None)


def _is_usable(row: Any) -> bool:
    """Whether a row of `annotations` has what tells its image and its PNG."""
    return (
        isinstance(row, dict)
        and is_image_id(row.get("image_id"))
        and isinstance(row.get("file_name"), str)
        and bool(row["file_name"])
        and isinstance(row.get("segments_info"), list)
    )
