"""`prepare-data export`: write the segments of a source in a label format, in parallel processes.

The output is a new folder with the labels and the images, which appears when everything is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from panformer_cli.data.coco.panoptic_png import expect_reads
from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.layout import check_split_name
from panformer_cli.data.parallel import map_in_order
from panformer_cli.errors import DataError
from panformer_cli.prepare.convert import (
    ConvertOptions,
    check_map_size,
    check_names,
    check_out_is_separate,
    link_or_copy,
    refuse_bad_images,
    usable_header,
)
from panformer_cli.prepare.export import class_files
from panformer_cli.prepare.export.label_format import LabeledSplit, LabelFormat, LabelReport, Labels, LimitsSplits
from panformer_cli.prepare.export.labeled_image import labeled_image
from panformer_cli.prepare.export.review import REVIEW, ListedSuspect, by_image, write_review
from panformer_cli.prepare.left_out import AnnotationLog
from panformer_cli.prepare.source import ReadsPanopticPngs, Source, SourceImage
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import atomic_folder, name_inside


@dataclass(frozen=True)
class ExportOptions(ConvertOptions):
    """How to export a source.

    Attributes:
        copies_images: Copy the images instead of creating hard links.
        suspects: Probable label errors to review.
    """

    copies_images: bool = False
    suspects: tuple[ListedSuspect, ...] = ()


@dataclass
class ExportedSplit:
    """What was written for a split.

    Attributes:
        left_out: One sentence per skipped image.
        suspects: The probable label errors in its images.
    """

    name: str
    images: int = 0
    report: LabelReport = field(default_factory=LabelReport)
    left_out: list[str] = field(default_factory=list)
    suspects: list[ListedSuspect] = field(default_factory=list)


class _Result(NamedTuple):
    """The labels of an image and their counts, or why it cannot be used."""

    labels: Labels | None
    report: LabelReport
    problem: str = ""


def export(
    source: Source, label_format: LabelFormat, out: Path, options: ExportOptions, reporter: Reporter
) -> list[ExportedSplit]:
    """Write all splits of `source` to the new folder `out`, and return what was written.

    Raises:
        DataError: The source or some of its images cannot be used, class names cannot be written, or `out` has files.
            Nothing is written then.
        PanformerError: `out` cannot be written, the disk is full, or a worker was killed.
    """
    names = list(source.splits())
    for name in names:
        check_split_name(name)
    _check_splits(label_format, names)
    class_files.check_names(source.categories, str(source.root))
    check_out_is_separate(source, [out])
    exported, splits = [], []
    with atomic_folder(out) as folder:
        for name in names:
            written, labels = _export_split(source, label_format, name, folder, options, reporter)
            split = LabeledSplit(name, labels)
            written.suspects = split.suspects
            exported.append(written)
            splits.append(split)
        label_format.write(folder, splits, source.categories)
        if options.suspects:
            write_review(folder / REVIEW, [suspect for split in exported for suspect in split.suspects])
    return exported


def _check_splits(label_format: LabelFormat, splits: Sequence[str]) -> None:
    if isinstance(label_format, LimitsSplits) and (lost := label_format.unnamed(splits)):
        raise DataError(
            f"{label_format.name} labels cannot name the split {lost[0]!r} beside others; expected at most three "
            "splits: train, val and test; export it alone with --split, or choose another --to"
        )


def _export_split(
    source: Source, label_format: LabelFormat, split: str, out: Path, options: ExportOptions, reporter: Reporter
) -> tuple[ExportedSplit, DiskList[Labels]]:
    images, where = DiskList(source.images(split)), f"{source.root}, {split}"
    check_names(images, where)
    if isinstance(source, ReadsPanopticPngs) and source.reads_panoptic_pngs(split):
        expect_reads(len(images))
    written, labels = ExportedSplit(split), DiskList[Labels]()
    folder = out / label_format.image_folder(split)
    suspects = by_image(options.suspects)
    work = partial(_export_image, source, label_format, folder, options.copies_images)
    with reporter.progress(f"{label_format.name} {split}", len(images)) as progress:
        for result in map_in_order(work, images, options.workers):
            if result.labels is None:
                written.left_out.append(result.problem)
            else:
                labels.append(result.labels._replace(suspects=suspects.get(result.labels.image_id, ())))
                written.report.add(result.report)
            progress.advance()
    refuse_bad_images(written.left_out, len(images), where, options.skips_bad_images)
    written.images = len(labels)
    return written, labels


def _export_image(source: Source, label_format: LabelFormat, folder: Path, copies: bool, image: SourceImage) -> _Result:
    """Put an image into `folder`, and return its labels."""
    report = LabelReport()
    try:
        if image.problem:
            raise DataError(image.problem)
        header = usable_header(image.path)
        panoptic = source.read(image, header.shown, AnnotationLog())
        check_map_size(image, header, panoptic.ids.shape)
        target = name_inside(folder, image.file_name, str(source.root))
        labeled = labeled_image(image.id, image.file_name, panoptic, source.categories)
        content = label_format.labels(labeled, report)
    except DataError as error:
        return _Result(None, report, str(error))
    link_or_copy(image.path, target, copies)
    return _Result(Labels(image.id, image.file_name, labeled.size, content), report)


def total(splits: Sequence[ExportedSplit]) -> LabelReport:
    """Return the counts of all splits together."""
    report = LabelReport()
    for split in splits:
        report.add(split.report)
    return report
