"""Check every image of every split in parallel processes, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from panformer_cli.data.coco.image_pairing import kind_of, other_kind_of
from panformer_cli.data.coco.json_stream import read_panoptic_members
from panformer_cli.data.coco.json_values import is_image_id
from panformer_cli.data.coco.panoptic_png import expect_reads
from panformer_cli.data.coverage import Coverage
from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.layout import SplitLayout, annotation_folders, check_root, find_images, find_split, find_splits
from panformer_cli.data.parallel import map_in_order
from panformer_cli.errors import DataError
from panformer_cli.prepare.open_form import first_problems
from panformer_cli.prepare.recognize import contents, recognize, unsupported
from panformer_cli.prepare.source import SourceImage
from panformer_cli.prepare.unused_files import UNLISTED_IMAGE, UsedFiles
from panformer_cli.reporting import Reporter
from panformer_cli.verify.findings import Finding, Findings, Problem, ProblemReport
from panformer_cli.verify.fix import ChangeLog, FixedFile
from panformer_cli.verify.images import AnnotationRow, ImageResult, ImageTask, Setting, check_image
from panformer_cli.verify.outline import ImageId, ListedImage, Outline, read_outline
from panformer_cli.wording import short


@dataclass(frozen=True)
class VerifyOptions:
    """How to check.

    Attributes:
        workers: Number of processes; 1 works in the calling process.
        decodes_images: Decode images instead of reading only their headers.
        fixes: Repair what has only one correct fix.
    """

    workers: int = 1
    decodes_images: bool = False
    fixes: bool = False


@dataclass(frozen=True)
class SplitReport:
    """The result of checking a split.

    Attributes:
        split: Name of the split.
        images: Number of checked images.
        segments: Number of checked segments.
        problems: Problems by kind.
        fixed: The repaired file; None if nothing was repaired.
        unlisted: One line for each reason why files in the folder of images are not used.
    """

    split: str
    images: int
    segments: int
    problems: tuple[ProblemReport, ...]
    fixed: FixedFile | None = None
    unlisted: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether no errors remain. Warnings do not count."""
        return all(
            found.problem.is_warning or (self.fixed is not None and found.fixable == found.count)
            for found in self.problems
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON, with problems by the name of their kind."""
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
        return {
            **content,
            "problems": problems,
            "unlisted": list(self.unlisted),
            "fixed": self.fixed.to_json() if self.fixed else None,
        }


def verify(root: Path, splits: Sequence[str], options: VerifyOptions, reporter: Reporter) -> list[SplitReport]:
    """Check the splits of a COCO panoptic data set and return one report per split.

    With `options.fixes`, a repaired JSON replaces the old one, see `fix.ChangeLog.apply`.

    Args:
        root: The data set.
        splits: Names such as `val2017`; if empty, all splits with annotations and images. Images are compared between
            the splits checked together.
        options: How to check.
        reporter: Receives progress and warnings.

    Raises:
        DataError: The folder or a split does not exist, or has no images or PNGs.
        PanformerError: A repaired JSON cannot be written, or a worker was killed.
    """
    check_root(root)
    if not any(path for folder in annotation_folders(root) for path in folder.glob("panoptic_*.json")):
        raise _not_prepared(root)
    layouts = {split: find_split(root, split) for split in splits or _complete_splits(root, reporter)}
    owners = _ImageOwners() if len(layouts) > 1 else None
    return [_verify_split(split, layout, options, owners, reporter) for split, layout in layouts.items()]


def _complete_splits(root: Path, reporter: Reporter) -> list[str]:
    known = find_splits(root)
    complete = [split for split in known if find_images(root, split) is not None]
    if not complete:
        found = f"annotations of {', '.join(known)} but no folder of images" if known else "no images and no PNGs"
        raise DataError(
            f"{root} has {found}; expected images/<split>/ or <split>/ and annotations/panoptic_<split>.json "
            f"(`panformer prepare-data coco --root {root}` unpacks COCO's zips)"
        )
    for split in sorted(set(known) - set(complete)):
        reporter.warn(f"skipping {split}: {root} has its annotations but not its image folder")
    return complete


def _not_prepared(root: Path) -> DataError:
    """Return the error for a folder without a panoptic JSON: the form of its labels, and the command for it."""
    expected = "expected images/<split>/ or <split>/ and annotations/panoptic_<split>.json"
    forms = recognize(root)
    if not forms:
        other = f" ({note})" if (note := unsupported(root)) else ""
        return DataError(f"{root} has no panoptic JSON; found {contents(root)}{other}; {expected}")
    named = " or ".join(f"{form.title} ({form.evidence})" for form in forms)
    commands = " or ".join(f"`{form.command()}`" for form in forms)
    problem = f"{root} has no panoptic JSON but {named}; {expected}; convert it first: {commands}"
    return DataError("\n  ".join([problem, *(first_problems(forms[0]) if len(forms) == 1 else ())]))


class _ImageOwners:
    """The split that each image was first seen in, by the digest of its bytes."""

    def __init__(self) -> None:
        self._names: dict[str, DiskList[tuple[bytes, str]]] = {}  # file names per split, by digest

    def claim(self, result: ImageResult, split: str) -> Iterator[Finding]:
        """Yield a finding if an earlier split has the same image. Splits must be claimed one after another."""
        if result.digest is None or result.file_name is None:
            return
        self._names.setdefault(split, DiskList(key=itemgetter(0))).append((result.digest, result.file_name))
        for other, names in self._names.items():
            index = names.first(result.digest) if other != split else None
            if index is not None:
                _, name = names[index]
                sentence = f"{short(result.file_name)} of {split} is the same file as {short(name)} of {other}"
                yield Finding(Problem.LEAKAGE, f"{sentence}; expected splits without common images")
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
    pixels, void = 0, 0
    expect_reads(total)
    log = ChangeLog()
    with reporter.progress(f"Checking {split}", total) as progress:
        for result in map_in_order(partial(check_image, setting), tasks, options.workers):
            for finding in [*result.findings, *(owners.claim(result, split) if owners else ())]:
                findings.add(finding)
                log.add(finding.changes if options.fixes else ())
            images += 1
            segments += result.segments
            pixels += result.pixels
            void += result.void
            progress.advance()
        fixed = log.apply(layout.annotation) if log else None
    if outline.annotations is not None:  # a missing list is another finding
        _add_coverage(Coverage(images, segments, pixels, void), layout.annotation, findings)
    return SplitReport(split, images, segments, findings.report(), fixed, _unlisted_files(layout.images, outline))


def _unlisted_files(folder: Path, outline: Outline) -> tuple[str, ...]:
    """Return one line for each reason why files in the folder of images are not used."""
    used = UsedFiles(unused_image=UNLISTED_IMAGE)
    names = (listed.file_name for _, listed in outline.images or ())
    used.add(SourceImage(0, folder / name, name) for name in names if not Path(name).is_absolute())
    return tuple(used.sentences(folder))


def _add_coverage(coverage: Coverage, annotation: Path, findings: Findings) -> None:
    """Report a split without segments or with more void than segments."""
    sentence = coverage.problem(str(annotation))
    if sentence is not None:
        findings.add(Finding(Problem.SPLIT_EMPTY if coverage.is_empty else Problem.SPLIT_VOID, sentence))


def _tasks(annotation: Path, outline: Outline, findings: Findings) -> Iterator[ImageTask]:
    """Yield all annotated images, in the order of the annotations, and then the other images."""
    images, all_usable = outline.images or DiskList[tuple[ImageId, ListedImage]](), True
    is_done = bytearray(len(images))
    for repeat in images.repeats():
        is_done[repeat] = True
    unlisted: set[ImageId] = set()

    def add(problem: Problem, sentence: str) -> None:
        findings.add(Finding(problem, f"{annotation}: {sentence}"))

    for key, rows in read_panoptic_members(annotation):
        if key != "annotations" or outline.annotations is None:
            continue
        for index, row in enumerate(rows):
            if not _is_usable(row):
                sentence = f"an annotation is {short(row)}; expected image_id, file_name and a list segments_info"
                add(Problem.ANNOTATION_ROW, sentence)
                all_usable = False
                continue
            image_id = row["image_id"]
            position = images.first(image_id)
            listed = images[position][1] if position is not None else None
            if image_id in unlisted if position is None else is_done[position]:
                name = short(listed.file_name if listed else row["file_name"])
                add(Problem.ANNOTATION_TWICE, f"{name} is annotated twice (image id {short(image_id)}); expected once")
                continue
            if position is not None:
                is_done[position] = True
            else:
                unlisted.add(image_id)
                if len(images) and not outline.has_bad_images:
                    sentence = (
                        f"{short(row['file_name'])} is the annotation of image id {short(image_id)}, which is not "
                        f"listed in images{_other_kind(image_id, images)}"
                    )
                    add(Problem.ANNOTATION_UNLISTED, f"{sentence}; list it, or remove the annotation")
            yield ImageTask(image_id, listed, AnnotationRow(index, row["file_name"], row["segments_info"]))
    for position, (image_id, listed) in enumerate(images):
        if not is_done[position]:
            if all_usable and outline.annotations is not None:
                sentence = f"lists {short(listed.file_name)} but does not annotate it"
                sentence = f"{annotation} {sentence}; annotate it, or remove it from images"
                findings.add(Finding(Problem.IMAGE_UNANNOTATED, sentence))
            yield ImageTask(image_id, listed, None)


def _other_kind(image_id: ImageId, images: DiskList[tuple[ImageId, ListedImage]]) -> str:
    """Return that `images` has the id as a number instead of text, or the other way round; empty if it has not."""
    other = other_kind_of(image_id)
    if other is None or images.first(other) is None:
        return ""
    return f" as {kind_of(image_id)} but as {kind_of(other)} ({other!r}); write both alike"


def _is_usable(row: Any) -> bool:
    """Return whether a row of `annotations` identifies its image and its PNG."""
    return (
        isinstance(row, dict)
        and is_image_id(row.get("image_id"))
        and isinstance(row.get("file_name"), str)
        and bool(row["file_name"])
        and isinstance(row.get("segments_info"), list)
    )
