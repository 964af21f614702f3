"""Check a split that is already in COCO's panoptic layout and write its summary and manifest.

Optionally also writes the annotations in detection format, like the reference implementation's converter.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.json_stream import read_panoptic_members, write_list, write_texts
from panformer_cli.data.coco.panoptic_png import expect_reads, segment_ids
from panformer_cli.data.coverage import spread
from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.image_header import read_header
from panformer_cli.data.images import read_bytes
from panformer_cli.data.structures import IdMap, ImageArray, PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.coco import rle
from panformer_cli.prepare.coco.rle import encode_segments
from panformer_cli.prepare.convert import ConvertOptions, refuse_bad_images, warn_of_names
from panformer_cli.prepare.manifest import IN_PLACE, SplitManifest, check_folder, write_split
from panformer_cli.prepare.parts import stamp_of, work_out
from panformer_cli.prepare.samples import MOST
from panformer_cli.prepare.source import SourceImage
from panformer_cli.prepare.summary import SplitSummary, report_summary
from panformer_cli.prepare.unused_files import UsedFiles
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import atomic_write, resolve_links
from panformer_cli.storage.result_log import Line, ResultLog, stored_settings
from panformer_cli.wording import counted

Detection = Literal["none", "all", "things"]
"""Which segments are also written in detection format."""

Encoded = dict[int, dict[str, Any]]
"""RLE of each segment id, as returned by `rle.encode_segments`."""


@dataclass(frozen=True)
class Prepared:
    """The summary of a split, and its detection JSON if one was written."""

    summary: SplitSummary
    detection: Path | None = None


class Row(NamedTuple):
    """The index of an image in the data set, and its row of `annotations` as it is in the JSON."""

    image: int
    annotation: Mapping[str, Any]


def prepare_in_place(
    root: Path, split: str, options: ConvertOptions, reporter: Reporter, detection: Detection, out: Path | None = None
) -> Prepared:
    """Check all images of a split in `root`, and write its summary, manifest and detection JSON.

    Args:
        root: The data set.
        split: Name of the split.
        options: How to process the images.
        reporter: Receives progress and warnings.
        detection: The segments in the detection JSON, `panoptic_<split>_detection_format.json` for `all` or
            `panoptic_<split>_things_detection_format.json` for `things`.
        out: Output folder. None writes the detection JSON next to the panoptic one and the rest to `root`.

    Raises:
        DataError: An image or a PNG is missing or corrupt, or image, PNG and JSON disagree. Only a log of the checked
            images is kept, from which the same command resumes.
        PanformerError: The disk is full, or a folder cannot be written.
    """
    data = CocoPanoptic(root, split, skip_unannotated=True)
    if data.skipped:
        reporter.warn(
            f"{split}: {counted(len(data.skipped), 'image')} listed but not annotated; first: {data.skipped[0]}"
        )
    warn_of_names(data.categories, str(data.layout.annotation), reporter)
    _report_unused_files(data, root, reporter)
    check_folder(out or root)
    expect_reads(len(data))
    if detection != "none":
        rle.load()
    annotation = data.layout.annotation
    folder = out or annotation.parent
    parts, settings = folder / f".{annotation.stem}.parts", _settings(data, detection)
    ResultLog.start(parts, settings, resume=stored_settings(parts) == settings)
    with closing(ResultLog(parts)) as log:
        work, stamp, total = partial(_check_image, data, detection), partial(_stamp, data), len(data)
        with reporter.progress(f"checking {annotation.stem}", total) as progress:
            problems = work_out(log, total, lambda: _rows(data), stamp, work, options.workers, progress)
        refuse_bad_images(problems, total, str(annotation), options.skips_bad_images)
        summary = SplitSummary(split, data.categories, left_out=list(data.skipped))
        setting = {"source": IN_PLACE, "root": str(resolve_links(data.layout.images))}
        manifest = SplitManifest(split, setting | {"skip_bad_images": options.skips_bad_images})
        lines = _counted(log.lines(total), manifest, summary)
        written = _write_detection(lines, annotation, folder, detection) if detection != "none" else None
        deque(lines, maxlen=0)
        samples = ((data.image_info(index).file_name, partial(_load, data, index)) for index in spread(total, MOST))
        write_split(out or root, manifest.finish(annotation, annotation.name), summary, samples)
        log.remove()
    report_summary(summary, reporter)
    return Prepared(summary, written)


def _report_unused_files(data: CocoPanoptic, root: Path, reporter: Reporter) -> None:
    """Report the files in the folders of images and PNGs that the JSON does not annotate."""
    used = UsedFiles()
    for index in range(len(data)):
        with suppress(DataError):  # reported with the image
            info, png = data.image_info(index), data.png_path(index)
            used.add([SourceImage(info.id, data.image_path(index), info.file_name, (png,))])
    for sentence in used.sentences(root):
        reporter.message(sentence)


def _load(data: CocoPanoptic, index: int) -> tuple[ImageArray, PanopticMap]:
    sample = data[index]
    return sample.image, sample.annotation


def _settings(data: CocoPanoptic, detection: Detection) -> Line:
    annotation = data.layout.annotation
    return {"annotation": [str(resolve_links(annotation)), *stamp_of(annotation)], "detection": detection, "lines": 2}


def _rows(data: CocoPanoptic) -> Iterator[Row]:
    """Yield the annotated images in the order of `annotations`."""
    ids = DiskList((data.image_info(index).id for index in range(len(data))), key=lambda image_id: image_id)
    for key, rows in read_panoptic_members(data.layout.annotation):
        if key == "annotations":
            yield from (Row(next(ids.positions(row["image_id"])), row) for row in rows)


def _stamp(data: CocoPanoptic, row: Row) -> list[int | None]:
    return stamp_of(data.image_path(row.image), data.png_path(row.image))


def _check_image(data: CocoPanoptic, detection: Detection, row: Row) -> Line:
    encoded: Encoded = {}

    def encode(ids: IdMap) -> Encoded:
        encoded.update(encode_segments(ids))
        return encoded

    try:
        png = data.png_path(row.image)
        drawn = read_bytes(png, "panoptic PNG")
        panoptic = data.annotation(row.image, segment_ids if detection == "none" else encode, drawn)
        path = data.image_path(row.image)
        content = read_bytes(path, "image")
        _check_size(path, content, panoptic.ids.shape)
    except DataError as error:
        # A name that points outside of the folder has no stamp.
        return {"stamp": None, "problem": str(error)}
    line = {
        "stamp": stamp_of(path, png),
        "size": panoptic.ids.shape,
        "segments_info": _measured(panoptic),
        "picture": sha256(content).hexdigest(),
        "png": sha256(drawn).hexdigest(),
    }
    if detection != "none":
        rows = _detection_rows(panoptic, encoded, row.annotation)
        # Text without the closing brace, so that the row's id can be appended without parsing.
        line["detection"] = [json.dumps(row)[:-1] for row in rows if detection == "all" or _is_thing(data, row)]
    return line


def _is_thing(data: CocoPanoptic, row: Mapping[str, Any]) -> bool:
    return data.categories.by_id(row["category_id"]).is_thing


def _check_size(path: Path, content: bytes, expected: tuple[int, ...]) -> None:
    """Raise a DataError unless the image has the expected height and width. Does not decode its pixels."""
    height, width = read_header(path, content).shown
    if (height, width) != expected:
        raise DataError(
            f"{path} is {width}x{height} but its panoptic PNG is {expected[1]}x{expected[0]} (width x height); "
            "expected equal sizes"
        )


def _measured(panoptic: PanopticMap) -> list[dict[str, Any]]:
    return [
        {"category_id": segment.category_id, "area": segment.area, "iscrowd": int(segment.is_crowd)}
        for segment in panoptic.segments
    ]


def _detection_rows(panoptic: PanopticMap, encoded: Encoded, annotation: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of `segments_info`, with `image_id` and `segmentation` and without the panoptic id."""
    for segment, listed in zip(panoptic.segments, annotation["segments_info"], strict=True):
        # COCO lists the first three. For data sets that do not, they are measured on the pixels.
        yield {
            "iscrowd": int(segment.is_crowd),
            "bbox": segment.bbox,
            "area": segment.area,
            **{key: value for key, value in listed.items() if value is not None and key != "id"},
            "image_id": annotation["image_id"],
            "segmentation": encoded[segment.id],
        }


def _counted(lines: Iterable[Line], manifest: SplitManifest, summary: SplitSummary) -> Iterator[Line]:
    """Yield the lines while adding them to manifest and summary, so that the log is read only once."""
    for line in lines:
        manifest.add_stamp(line["stamp"])
        if "problem" in line:
            summary.left_out.append(line["problem"])
        else:
            height, width = line["size"]
            summary.add((height, width), line)
            manifest.add(line["picture"], line["png"])
        yield line


def _write_detection(lines: Iterable[Line], annotation: Path, folder: Path, detection: Detection) -> Path:
    """Write the panoptic JSON with detection annotations, numbered from 0, and categories without `isthing`."""
    things_only = detection == "things"
    written = folder / f"{annotation.stem}{'_things' if things_only else ''}_detection_format.json"
    with atomic_write(written) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("{")
        for key, value in read_panoptic_members(annotation):
            if key == "categories":
                value = [row for row in value if row["isthing"] or not things_only]
                value = [{name: row[name] for name in row if name != "isthing"} for row in value]
            if key == "annotations":
                continue
            file.write(f"{json.dumps(key)}: ")
            if isinstance(value, Iterator):
                write_list(file, value)
            else:
                file.write(json.dumps(value))
            file.write(", ")
        file.write('"annotations": ')
        write_texts(file, _numbered(lines))
        file.write("}")
    return written


def _numbered(lines: Iterable[Line]) -> Iterator[str]:
    rows = (row for line in lines for row in line.get("detection", ()))
    return (f'{row}, "id": {number}}}' for number, row in enumerate(rows))
