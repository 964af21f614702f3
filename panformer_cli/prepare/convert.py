"""Bring a source into COCO's panoptic layout: PNGs, images, JSON, manifest and summary, image by image in processes.

    OUT/images/<split>/<name>.jpg           linked where the disk allows it, else copied
    OUT/annotations/panoptic_<split>/<name>.png
    OUT/annotations/panoptic_<split>.json
    OUT/manifest.json  OUT/summary.json  OUT/summary.html

The JSON of a split appears when all its images are done; until then a log of finished images lies beside it, from
which the same command resumes.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from panformer_cli.data.coco.json_values import is_name
from panformer_cli.data.coco.panoptic_png import expect_reads, write_panoptic_png
from panformer_cli.data.coco.panoptic_writer import annotation_row, write_panoptic_json
from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.image_header import ImageHeader, read_header
from panformer_cli.data.layout import check_split_name
from panformer_cli.errors import DataError
from panformer_cli.prepare.manifest import SplitManifest, finished_split, write_split
from panformer_cli.prepare.parts import stamp_of, work_out
from panformer_cli.prepare.source import ReadsMore, ReadsPanopticPngs, Source, SourceImage
from panformer_cli.prepare.summary import SplitSummary
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import (
    atomic_write,
    is_file,
    name_inside,
    resolve_links,
    sha256_of,
    temporary_path,
    temporary_paths,
    writing,
)
from panformer_cli.storage.result_log import Line, ResultLog, stored_settings
from panformer_cli.wording import first_items

MAX_PIXELS = 2**28
"""An image that declares more is not converted: its map alone would take gigabytes."""

PROBLEMS_NAMED = 5
"""How many unusable images an error describes; the others are counted."""


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert.

    workers: processes; 1 works in this one.
    skips_bad_images: leave out images that cannot be used, and say so in the summary, instead of an error at the end.
    """

    workers: int = 1
    skips_bad_images: bool = False


class Folders(NamedTuple):
    """Where the parts of a split are written."""

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

    def hold(self, image: SourceImage) -> bool:
        """Whether picture and PNG of an image are there."""
        return all(map(is_file, self._files(image.file_name)))

    def clear(self, file_name: str) -> None:
        """Remove what an earlier attempt has written of an image that is left out."""
        with suppress(DataError, OSError):  # what is wrong with it may be its name
            name_inside(self.images, file_name, "")
            for path in self._files(file_name):
                path.unlink(missing_ok=True)

    def _files(self, file_name: str) -> tuple[Path, Path]:
        return self.images / file_name, (self.pngs / file_name).with_suffix(".png")


def convert(
    source: Source, out: Path, splits: Sequence[str], options: ConvertOptions, reporter: Reporter
) -> list[SplitSummary]:
    """Convert `splits` of `source` (none: all of them) into the folder `out`; returns what each holds.

    A split that `out` holds already, made of the same files in the same way, is left as it is.

    Raises:
        DataError: the source cannot be used, or images of it cannot: the first are described, and nothing but the
            finished images is kept. `out` holds another data set.
        PanformerError: `out` cannot be written, the disk is full, or a process was ended from outside.
    """
    for split in splits:
        check_split_name(split)
    wanted = splits or source.splits()
    _keep_apart(source, out, wanted)
    return [_convert_split(source, out, split, options, reporter) for split in wanted]


def _keep_apart(source: Source, out: Path, splits: Sequence[str]) -> None:
    """DataError where something would be written into a folder that is read."""
    read = [source.root, *(source.also_read if isinstance(source, ReadsMore) else ())]
    written = [out, *(folder for split in splits for folder in Folders.of(out, split)[:3])]
    for folder in written:
        for other in read:
            if resolve_links(folder).is_relative_to(resolve_links(other)):
                raise DataError(
                    f"{folder} is the folder that is read, or inside of it: what is written would be read next time, "
                    f"or overwrite it; choose an --out outside of {other}"
                )


def _convert_split(source: Source, out: Path, split: str, options: ConvertOptions, reporter: Reporter) -> SplitSummary:
    images = DiskList(source.images(split))
    _check_names(images, f"{source.root}, {split}")
    manifest = SplitManifest.of_source(source, split, options.skips_bad_images)
    for image in images:
        manifest.add_stamp(_stamp(image))
    folders = Folders.of(out, split)
    finished = finished_split(out, manifest, folders.annotation)
    if finished is not None and sum(not folders.hold(image) for image in images) <= len(finished.left_out):
        reporter.message(f"{split} is in {out} already, made of these files; nothing was done")
        shutil.rmtree(folders.parts, ignore_errors=True)
        return finished
    if isinstance(source, ReadsPanopticPngs) and source.reads_panoptic_pngs(split):
        expect_reads(len(images))
    # What was done stands when the command comes again with --skip-bad-images.
    setting = {key: value for key, value in manifest.setting.items() if key != "skip_bad_images"}
    ResultLog.start(folders.parts, setting, resume=stored_settings(folders.parts) == setting)
    with closing(ResultLog(folders.parts)) as log:
        work, stamp, total = partial(_convert_image, source, folders), partial(_stamp_if_written, folders), len(images)
        with reporter.progress(f"{source.name} {split}", total) as progress:
            problems = work_out(log, total, lambda: images, stamp, work, options.workers, progress)
        refuse_bad_images(problems, total, f"{source.root}, {split}", options.skips_bad_images)
        summary = _write_split(source, split, out, manifest, partial(log.lines, total))
        log.remove()
    strangers = _sweep(folders) - summary.images
    if strangers > 0:
        reporter.warn(
            f"{folders.images} holds {strangers} files that {folders.annotation.name} does not list, perhaps of images "
            "that the source had before; delete them if nothing else needs them"
        )
    return summary


def _convert_image(source: Source, folders: Folders, image: SourceImage) -> Line:
    """Write PNG and image; returns the rows of the JSON, or what is wrong with the image."""
    stamp = _stamp(image)
    try:
        if image.problem:
            raise DataError(image.problem)
        if not is_name(image.file_name):
            raise DataError(f"the name of {image.picture} is no text in UTF-8, as JSON has it; rename it")
        header = _usable_header(image.picture)
        panoptic = source.read(image, header.shown)
        _check_size(image, header, panoptic.ids.shape)
        png_name = str(PurePosixPath(image.file_name).with_suffix(".png"))
        png = name_inside(folders.pngs, png_name, str(source.root))
        picture = name_inside(folders.images, image.file_name, str(source.root))
    except DataError as error:
        told = str(error).encode(errors="backslashreplace").decode()  # names of files may be no text
        return {"stamp": stamp, "problem": told}
    write_panoptic_png(png, panoptic.ids, waits_for_disk=False)
    link_or_copy(image.picture, picture)
    height, width = header.shown
    row = {"id": image.id, "file_name": image.file_name, "height": height, "width": width}
    hashes = {"picture": sha256_of(picture), "png": sha256_of(png)}
    return {"stamp": stamp, "image": row, "annotation": annotation_row(image.id, png_name, panoptic), **hashes}


def _usable_header(picture: Path) -> ImageHeader:
    header = read_header(picture)
    height, width = header.shown
    if height * width > MAX_PIXELS:
        raise DataError(f"{picture} declares {width}x{height} pixels; expected {MAX_PIXELS} or fewer; scale it down")
    return header


def _check_size(image: SourceImage, header: ImageHeader, found: tuple[int, ...]) -> None:
    if found == header.shown:
        return
    labels = image.labels[0] if image.labels else f"the annotation of {image.file_name}"
    turned = f", as its EXIF orientation {header.orientation} turns it" if found == header.stored else ""
    raise DataError(
        f"{labels} is {found[1]}x{found[0]} but {image.picture} is shown as {header.shown[1]}x{header.shown[0]} "
        f"(width x height{turned}); expected equal sizes"
    )


def link_or_copy(source: Path, target: Path) -> None:
    """`source` at `target`: a second name of the same file, or a copy where the disk has no such names."""
    temporary = temporary_path(target)
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            try:
                os.link(resolve_links(source), temporary)
            except OSError:
                shutil.copyfile(source, temporary)
            os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _stamp(image: SourceImage) -> list[Any]:
    return [image.id, image.file_name, *stamp_of(image.picture, *image.labels)]


def _stamp_if_written(folders: Folders, image: SourceImage) -> list[Any] | None:
    """What a line has to say so that its image need not be converted again; None where it has to be."""
    return _stamp(image) if folders.hold(image) else None


def _check_names(images: Sequence[SourceImage], where: str) -> None:
    """DataError where there is no image, or two would be written to the same place or have one id."""
    if not images:
        raise DataError(f"{where}: there is no image; expected at least one (docs/data.md shows the folders)")
    names, ids = DiskList[str](key=str), DiskList[str](key=str)
    for image in images:
        names.append(_name_key(image))
        ids.append(f"id {image.id}")
    for keys, expected in (
        (names, "expected a PNG for each image; rename one of them, or its folder"),
        (ids, "expected an id of its own for each image; change one where it is listed"),
    ):
        for place in keys.repeats():
            first, second = (images[same].picture for same in (next(keys.positions(keys[place])), place))
            raise DataError(f"{where}: {first} and {second} have the same {keys[place]}; {expected}")


def _name_key(image: SourceImage) -> str:
    """What the PNG will be called, but for its suffix."""
    *folders, name = filter(None, re.split(r"[/\\]", image.file_name))
    return f"name {'/'.join([*folders, name.rpartition('.')[0] or name])}"


def refuse_bad_images(problems: Sequence[str], images: int, where: str, may_be_left_out: bool) -> None:
    """DataError where some of so many images have problems, unless they may be left out and others remain."""
    if not problems or (may_be_left_out and len(problems) < images):
        return
    leave_out = "" if may_be_left_out else ", or leave them out with --skip-bad-images"
    first = (
        f"{where}: {len(problems)} of {images} images cannot be used, so the split is not finished; fix them "
        f"and run the same command again{leave_out}:"
    )
    raise DataError(with_first(first, problems))


def with_first(heading: str, problems: Sequence[str]) -> str:
    """Return the heading and, on a line each, the first problems and how many more there are."""
    return "\n".join([heading, *(f"  {line}" for line in first_items(problems, PROBLEMS_NAMED))])


def _write_split(
    source: Source, split: str, out: Path, manifest: SplitManifest, lines: Callable[[], Iterator[Line]]
) -> SplitSummary:
    """The JSON out of the lines, one at a time, manifest and summary; the JSON appears last, when all is there."""
    summary, folders = SplitSummary(split, source.categories), Folders.of(out, split)
    for line in lines():
        if "problem" in line:
            summary.left_out.append(line["problem"])
            folders.clear(line["stamp"][1])
        else:
            summary.add((line["image"]["height"], line["image"]["width"]), line["annotation"])
            manifest.add(line["picture"], line["png"])
    annotation = folders.annotation
    info = {"description": f"{source.name}, {split}, in COCO's panoptic form", "made_by": "panformer prepare-data"}
    with atomic_write(annotation) as temporary:
        write_panoptic_json(temporary, _rows(lines(), "image"), _rows(lines(), "annotation"), source.categories, info)
        write_split(out, manifest.finish(temporary, annotation.name), summary)
    return summary


def _rows(lines: Iterator[Line], key: str) -> Iterator[dict[str, Any]]:
    return (line[key] for line in lines if key in line)


def _sweep(folders: Folders) -> int:
    """Remove what processes that were killed in the midst of a file left; returns how many files `images` holds."""
    for path in temporary_paths(folders.annotation):
        path.unlink(missing_ok=True)
    _without_temporary_files(folders.pngs)
    return _without_temporary_files(folders.images)


def _without_temporary_files(folder: Path) -> int:
    """Remove those in `folder` and below it; returns how many visible files there are. No list of all is made."""
    others = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                others += _without_temporary_files(Path(entry.path))
            elif not entry.name.startswith("."):
                others += 1
            elif entry.name.endswith(".tmp"):
                Path(entry.path).unlink()
    return others
