"""Convert a source to COCO's panoptic layout: PNGs, images, JSON, manifest and summary, in parallel processes.

    OUT/images/<split>/<name>.jpg           a hard link if the file system supports it, else a copy
    OUT/annotations/panoptic_<split>/<name>.png
    OUT/annotations/panoptic_<split>.json
    OUT/manifest.json  OUT/summary.json  OUT/summary.html

The JSON files are written when all images of all splits are done. Until then, a log of finished images is kept next to
each, from which the same command resumes after an interruption.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.json_values import is_name
from panformer_cli.data.coco.panoptic_png import expect_reads, write_panoptic_png
from panformer_cli.data.coco.panoptic_writer import annotation_row, write_panoptic_json
from panformer_cli.data.coverage import spread
from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.image_header import ImageHeader, read_header
from panformer_cli.data.layout import check_split_name
from panformer_cli.errors import DataError
from panformer_cli.prepare.left_out import COVERED, NO_PIXELS, AnnotationLog, without_small_segments
from panformer_cli.prepare.manifest import SplitManifest, finished_split, write_split
from panformer_cli.prepare.parts import stamp_of, work_out
from panformer_cli.prepare.samples import MOST, Load, load_written
from panformer_cli.prepare.source import (
    AmbiguousLabels,
    ChecksMarks,
    EmbedsImages,
    HasOwnFiles,
    LabeledMap,
    ReadsMore,
    ReadsPanopticPngs,
    SelectsImages,
    Source,
    SourceImage,
)
from panformer_cli.prepare.summary import SplitSummary, report_summary
from panformer_cli.prepare.unused_files import UsedFiles, unreadable_images
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import (
    atomic_write,
    is_file,
    name_inside,
    resolve_links,
    sha256_of,
    temporary_path,
    temporary_paths,
    write_json,
    writing,
)
from panformer_cli.storage.result_log import Line, ResultLog, stored_settings
from panformer_cli.wording import counted, with_first

MAX_PIXELS = 2**28
"""Larger images are not converted: the panoptic map alone would take gigabytes."""


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert a source.

    Attributes:
        workers: Number of processes; 1 works in the calling process.
        skips_bad_images: Skip images that cannot be used and list them in the summary, instead of raising an error.
        skips_bad_annotations: The same for single annotations, in sources that have them.
        smallest_area: Segments of fewer pixels become void.
    """

    workers: int = 1
    skips_bad_images: bool = False
    skips_bad_annotations: bool = False
    smallest_area: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what affects the result. Options at their default are left out, as in older manifests."""
        others = {"skip_bad_annotations": self.skips_bad_annotations, "drop_small": self.smallest_area}
        return {"skip_bad_images": self.skips_bad_images} | {key: value for key, value in others.items() if value}


class Folders(NamedTuple):
    """Output paths of a split."""

    images: Path
    pngs: Path
    annotation: Path
    parts: Path

    @classmethod
    def of(cls, out: Path, split: str) -> Folders:
        pngs = out / "annotations" / f"panoptic_{split}"
        return cls(
            out / "images" / split, pngs, pngs.with_name(f"{pngs.name}.json"), pngs.with_name(f".{pngs.name}.parts")
        )

    def contain(self, image: SourceImage) -> bool:
        """Return whether an image and its PNG have been written."""
        return all(map(is_file, self._files(image.file_name)))

    def clear(self, file_name: str) -> None:
        """Remove the files that an earlier run wrote for an image that is now skipped."""
        with suppress(DataError, OSError):  # its name may be the problem
            name_inside(self.images, file_name, "")
            for path in self._files(file_name):
                path.unlink(missing_ok=True)

    def _files(self, file_name: str) -> tuple[Path, Path]:
        return self.images / file_name, (self.pngs / file_name).with_suffix(".png")


def convert(
    source: Source, out: Path, splits: Sequence[str], options: ConvertOptions, reporter: Reporter
) -> list[SplitSummary]:
    """Convert `splits` of `source` (all if empty) into the folder `out`, and return their summaries.

    A split that `out` already contains, made from the same files with the same settings, is not converted again.

    Raises:
        DataError: The source or some of its images cannot be used, its labels are ambiguous, or `out` contains another
            data set. The error describes the first bad images; finished images are kept.
        PanformerError: `out` cannot be written, the disk is full, or a worker was killed.
    """
    for split in splits:
        check_split_name(split)
    names = splits or source.splits()
    check_out_is_separate(source, [out, *(folder for split in names for folder in Folders.of(out, split)[:3])])
    warn_of_names(source.categories, f"{source.root}", reporter)
    conversions = [_listed_split(source, out, split, options) for split in dict.fromkeys(names)]
    for sentence in unused_files(source, (conversion.images for conversion in conversions)):
        reporter.message(sentence)
    for conversion in conversions:
        _convert_images(conversion, reporter)
    if isinstance(source, ChecksMarks):
        source.check_marks({one.split: _marks(one) for one in conversions if one.finished is None})
    return [_finish_split(conversion, reporter) for conversion in conversions]


@dataclass(frozen=True)
class _Conversion:
    """The conversion of one split.

    Attributes:
        images: The images of the split.
        manifest: The manifest entry, with the stamps of the images.
        finished: The summary, if `out` already contains the split.
    """

    source: Source
    out: Path
    split: str
    options: ConvertOptions
    images: DiskList[SourceImage]
    manifest: SplitManifest
    finished: SplitSummary | None

    @property
    def folders(self) -> Folders:
        return Folders.of(self.out, self.split)


def unused_files(source: Source, splits: Iterable[Iterable[SourceImage]]) -> list[str]:
    """Return one line for each reason why files in the folders of images and labels are not used.

    Args:
        source: The data set.
        splits: The images of its splits.
    """
    if isinstance(source, SelectsImages):
        return []
    used = UsedFiles(source.own_files if isinstance(source, HasOwnFiles) else ())
    for images in splits:
        used.add(images)
    return used.sentences(source.root)


def warn_of_names(categories: CategoryTable, where: str, reporter: Reporter) -> None:
    """Warn of unusual category names, such as two equal ones."""
    for problem in categories.name_problems():
        reporter.warn(f"{where}: {problem.sentence}")


def check_out_is_separate(source: Source, written: Sequence[Path]) -> None:
    """Raise a DataError if an output folder in `written` is inside an input folder."""
    read = [source.root, *(source.also_read if isinstance(source, ReadsMore) else ())]
    for folder in written:
        for other in read:
            if resolve_links(folder).is_relative_to(resolve_links(other)):
                raise DataError(
                    f"the output folder {folder} is inside the input folder {other}, so outputs could overwrite inputs "
                    "or be read as inputs; choose an --out outside of it"
                )


def _listed_split(source: Source, out: Path, split: str, options: ConvertOptions) -> _Conversion:
    """List and check the images of a split. Writes nothing."""
    images, folders = DiskList(source.images(split)), Folders.of(out, split)
    check_names(images, f"{source.root}, {split}", source.root)
    manifest = SplitManifest.of_source(source, split, options.to_json())
    for image in images:
        manifest.add_stamp(_stamp(image))
    finished = finished_split(out, manifest, folders.annotation)
    if finished is not None and sum(not folders.contain(image) for image in images) > len(finished.left_out):
        finished = None
    return _Conversion(source, out, split, options, images, manifest, finished)


def _convert_images(conversion: _Conversion, reporter: Reporter) -> None:
    """Write images and PNGs, and keep their rows in the log. Raises a DataError if some cannot be used."""
    if conversion.finished is not None:
        return
    source, split, options, images = conversion.source, conversion.split, conversion.options, conversion.images
    folders, total = conversion.folders, len(images)
    if isinstance(source, ReadsPanopticPngs) and source.reads_panoptic_pngs(split):
        expect_reads(total)
    _start_log(folders.parts, conversion.manifest.setting)
    with closing(ResultLog(folders.parts)) as log:
        work, stamp = partial(_convert_image, source, folders, options), partial(_stamp_if_written, folders)
        with reporter.progress(f"{source.name} {split}", total) as progress:
            problems = work_out(log, total, lambda: images, stamp, work, options.workers, progress)
    refuse_bad_images(problems, total, f"{source.root}, {split}", options.skips_bad_images)


def _marks(conversion: _Conversion) -> Counter[str]:
    """Return the sum of `LabeledMap.marks` over the images of a split."""
    marks = Counter[str]()
    for line in ResultLog(conversion.folders.parts).lines(len(conversion.images)):
        marks.update(line.get("marks", {}))
    return marks


def _finish_split(conversion: _Conversion, reporter: Reporter) -> SplitSummary:
    """Write the JSON of a split, unless it is finished already, and report its summary."""
    out, split, folders, total = conversion.out, conversion.split, conversion.folders, len(conversion.images)
    if conversion.finished is not None:
        reporter.message(f"{split} in {out} is up to date; nothing to do")
        shutil.rmtree(folders.parts, ignore_errors=True)
        report_summary(conversion.finished, reporter)
        return conversion.finished
    with closing(ResultLog(folders.parts)) as log:
        lines = partial(log.lines, total)
        summary = _write_split(conversion.source, split, out, conversion.manifest, lines, total)
        log.remove()
    unlisted = _remove_temporary_files(folders) - summary.images
    if unlisted > 0:
        files = f"{counted(unlisted, 'file')} not listed in {folders.annotation.name}"
        reporter.warn(
            f"{folders.images} contains {files}, possibly from an earlier version of the source; delete what is not "
            "needed"
        )
    report_summary(summary, reporter)
    return summary


def _start_log(parts: Path, setting: dict[str, Any]) -> None:
    """Start or resume a log. Finished images stay valid if the command is rerun with an option that skips more."""
    setting = _without(setting, "skip_bad_images")
    stored = stored_settings(parts)
    resumes = stored is not None and stored in (setting, _without(setting, "skip_bad_annotations"))
    if resumes:
        write_json(parts / "settings.json", setting)
    ResultLog.start(parts, setting, resume=resumes)


def _without(setting: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in setting.items() if key != name}


def _convert_image(source: Source, folders: Folders, options: ConvertOptions, image: SourceImage) -> Line:
    """Write an image and its PNG; return its JSON rows, or a description of the problem."""
    stamp, log = _stamp(image), AnnotationLog(options.skips_bad_annotations)
    try:
        if image.problem:
            raise DataError(image.problem)
        if not is_name(image.file_name):
            raise DataError(f"the file name {image.path} is not valid UTF-8, which JSON requires; rename the file")
        embedded = source.embedded_image(image) if isinstance(source, EmbedsImages) else None
        header = usable_header(image.path, embedded)
        panoptic = source.read(image, header.shown, log)
        check_map_size(image, header, panoptic.ids.shape)
        panoptic = without_small_segments(panoptic, options.smallest_area, image.file_name, log)
        png_name = str(PurePosixPath(image.file_name).with_suffix(".png"))
        png = name_inside(folders.pngs, png_name, str(source.root))
        target = name_inside(folders.images, image.file_name, str(source.root))
    except DataError as error:
        problem = str(error).encode(errors="backslashreplace").decode()  # file names may not be valid UTF-8
        return {"stamp": stamp, "problem": problem}
    write_panoptic_png(png, panoptic.ids, waits_for_disk=False)
    if embedded is None:
        link_or_copy(image.path, target)
    else:
        with atomic_write(target, waits_for_disk=False) as temporary:
            temporary.write_bytes(embedded)
    height, width = header.shown
    row = {"id": image.id, "file_name": image.file_name, "height": height, "width": width}
    hashes = {"picture": sha256_of(target), "png": sha256_of(png)}
    line = {"stamp": stamp, "image": row, "annotation": annotation_row(image.id, png_name, panoptic), **hashes}
    if isinstance(panoptic, LabeledMap):
        line |= {"void_values": panoptic.void_values, "marks": panoptic.marks}
    return line | {key: rows for key, rows in (("left_out", log.left_out), ("changed", log.changed)) if rows}


def usable_header(path: Path, data: bytes | None = None) -> ImageHeader:
    """Return the header of an image file, or of `data`. Raises a DataError if it cannot be read or is too large."""
    header = read_header(path, data)
    height, width = header.shown
    if height * width > MAX_PIXELS:
        raise DataError(f"{path} declares {width}x{height} pixels; expected at most {MAX_PIXELS}; scale it down")
    return header


def check_map_size(image: SourceImage, header: ImageHeader, found: tuple[int, ...]) -> None:
    """Raise a DataError unless the annotation has the size `found` of its image as displayed."""
    if found == header.shown:
        return
    labels = image.labels[0] if image.labels else f"the annotation of {image.file_name}"
    rotated = f", with its EXIF orientation {header.orientation} applied" if found == header.stored else ""
    raise DataError(
        f"{labels} is {found[1]}x{found[0]} but {image.path} is displayed as {header.shown[1]}x{header.shown[0]} "
        f"(width x height{rotated}); expected equal sizes"
    )


def link_or_copy(source: Path, target: Path, copies: bool = False) -> None:
    """Create `target` as a hard link to `source`; as a copy if `copies`, or if the file system has no hard links."""
    temporary = temporary_path(target)
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            is_linked = False
            if not copies:
                with suppress(OSError):
                    os.link(resolve_links(source), temporary)
                    is_linked = True
            if not is_linked:
                shutil.copyfile(source, temporary)
            os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _stamp(image: SourceImage) -> list[Any]:
    return [image.id, image.file_name, *stamp_of(image.path, *image.labels)]


def _stamp_if_written(folders: Folders, image: SourceImage) -> list[Any] | None:
    """Return the stamp with which a logged line is still valid; None if the image must be converted again."""
    return _stamp(image) if folders.contain(image) else None


def check_names(images: Sequence[SourceImage], where: str, root: Path | None = None) -> None:
    """Raise a DataError if there are no images, or if two share an output path or an id.

    Args:
        images: The images of a split.
        where: The split, for errors.
        root: The folder in which images that cannot be read are named if there are no others.
    """
    if not images:
        others = unreadable_images(root) if root is not None else ""
        raise DataError(
            f"{where}: no images found{others}; expected at least one (docs/data.md shows the folder layout)"
        )
    names, ids = DiskList[str](key=str), DiskList[str](key=str)
    for image in images:
        names.append(_name_key(image))
        ids.append(f"id {image.id}")
    for keys, expected in (
        (names, "expected one PNG per image; rename one of them or its folder"),
        (ids, "expected a unique id for each image; change one where it is listed"),
    ):
        for index in keys.repeats():
            first, second = (images[same] for same in (next(keys.positions(keys[index])), index))
            if first.path == second.path:
                raise DataError(_labeled_twice(first, second))
            raise DataError(f"{where}: {first.path} and {second.path} have the same {keys[index]}; {expected}")


def _labeled_twice(first: SourceImage, second: SourceImage) -> str:
    name = first.file_name if first.problem else first.path
    labels = [image.labels[0] if image.labels else image.path for image in (first, second)]
    both = f"both times in {labels[0]}" if labels[0] == labels[1] else f"in {labels[0]} and {labels[1]}"
    return f"{name} is labeled twice, {both}; keep one of them"


def _name_key(image: SourceImage) -> str:
    """Return the name of the PNG without its suffix."""
    *folders, name = filter(None, re.split(r"[/\\]", image.file_name))
    return f"name {'/'.join([*folders, name.rpartition('.')[0] or name])}"


def refuse_bad_images(problems: Sequence[str], images: int, where: str, may_be_left_out: bool) -> None:
    """Raise a DataError if images have problems, unless they may be skipped and other images remain."""
    if not problems or (may_be_left_out and len(problems) < images):
        return
    skip = "" if may_be_left_out else ", or skip them with --skip-bad-images"
    first = (
        f"{where}: {len(problems)} of {images} images cannot be used, so the split is incomplete; fix them "
        f"and rerun the same command{skip}:"
    )
    raise DataError(with_first(first, problems))


def _write_split(
    source: Source, split: str, out: Path, manifest: SplitManifest, lines: Callable[[], Iterator[Line]], total: int
) -> SplitSummary:
    """Write manifest, summary and, last, the JSON from the log's lines, one at a time."""
    summary, folders, marks = SplitSummary(split, source.categories), Folders.of(out, split), Counter[str]()
    drawn: list[tuple[str, Load]] = []
    due = [*spread(total, MOST), math.inf]  # of the images to draw; the next good image replaces a bad one
    for line in lines():
        if "problem" in line:
            summary.left_out.append(line["problem"])
            folders.clear(line["stamp"][1])
            continue
        name, row = line["image"]["file_name"], line["annotation"]
        summary.add((line["image"]["height"], line["image"]["width"]), row)
        summary.add_left_out(line.get("left_out", ()))
        summary.add_changed(line.get("changed", ()))
        summary.void_values.update(line.get("void_values", {}))
        marks.update(line.get("marks", {}))
        manifest.add(line["picture"], line["png"])
        if line["index"] >= due[len(drawn)]:
            drawn.append((name, partial(load_written, folders.images / name, folders.pngs / row["file_name"], row)))
    _refuse_no_segments(summary, f"{source.root}, {split}")
    if isinstance(source, AmbiguousLabels):
        summary.conventions += source.conventions(split, marks)
    annotation = folders.annotation
    info = {"description": f"{source.name}, {split}, in COCO panoptic format", "made_by": "panformer prepare-data"}
    with atomic_write(annotation) as temporary:
        write_panoptic_json(temporary, _rows(lines(), "image"), _rows(lines(), "annotation"), source.categories, info)
        write_split(out, manifest.finish(temporary, annotation.name), summary, drawn)
    return summary


def _refuse_no_segments(summary: SplitSummary, where: str) -> None:
    """Raise a DataError if no segment remains because of annotations that cannot be used. Empty ones may mean that."""
    reasons = [item for item in summary.annotations_left_out.items() if item[0] not in (NO_PIXELS, COVERED)]
    if reasons and not summary.segments:
        heading = f"{where}: none of the annotations can be used:"
        raise DataError(
            with_first(heading, [f"{group.count} x {reason}: {group.first[0]}" for reason, group in reasons])
        )


def _rows(lines: Iterator[Line], key: str) -> Iterator[dict[str, Any]]:
    return (line[key] for line in lines if key in line)


def _remove_temporary_files(folders: Folders) -> int:
    """Remove the temporary files of killed processes; return the number of files in `images`."""
    for path in temporary_paths(folders.annotation):
        path.unlink(missing_ok=True)
    _remove_temporary_files_below(folders.pngs)
    return _remove_temporary_files_below(folders.images)


def _remove_temporary_files_below(folder: Path) -> int:
    """Remove temporary files in `folder`, recursively; return the number of visible files. Builds no list of files."""
    others = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                others += _remove_temporary_files_below(Path(entry.path))
            elif not entry.name.startswith("."):
                others += 1
            elif entry.name.endswith(".tmp"):
                Path(entry.path).unlink()
    return others
