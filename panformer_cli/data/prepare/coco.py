"""`prepare-data coco`: unpack what was downloaded, check it, and write the annotation in detection form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from panformer_cli.data.coco_panoptic import CocoPanoptic
from panformer_cli.data.image_header import read_header
from panformer_cli.data.layout import (
    check_root,
    check_split_name,
    find_annotation,
    find_image_zip,
    find_images,
    find_outer_zips,
    find_splits,
)
from panformer_cli.data.prepare.rle import encode_segments
from panformer_cli.data.prepare.unpack import names_in, unpack_files, unpack_folder
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.files import atomic_write
from panformer_cli.reporting import Reporter

PROBLEMS_NAMED = 5
"""How many unusable images an error describes; the others are counted."""


@dataclass(frozen=True)
class SplitSummary:
    """What `prepare_coco` found in a split and wrote.

    images: annotated images.
    segments: all of them; `things` and `stuff` add up to it, `crowd` counts those things that are a crowd.
    void_share: pixels without a segment, 0..1 of all pixels.
    written: the detection JSON.
    """

    split: str
    images: int
    segments: int
    things: int
    stuff: int
    crowd: int
    void_share: float
    written: Path


def prepare_coco(
    root: Path, splits: Sequence[str] | None, reporter: Reporter, out: Path | None = None
) -> list[SplitSummary]:
    """Make the COCO folder `root` ready: unpack zips, check all images, write `panoptic_<split>_detection_format.json`.

    splits: names such as `val2017`; None takes every split that has both annotations and images.
    out: folder for the JSON; None writes it beside the panoptic JSON.

    Raises:
        DataError: a split, an image or a PNG is missing or damaged, or image, PNG and JSON disagree; a zip is unsafe
            or damaged. The detection JSON of such a split is not written.
        PanformerError: no disk space, or a folder that cannot be written.
    """
    check_root(root)
    for split in splits or ():
        check_split_name(split)
    summaries = []
    for split in splits or _splits_with_images(root, reporter):
        unpack_split(root, split, reporter)
        data = CocoPanoptic(root, split, skip_unannotated=True)
        if data.skipped:
            reporter.warn(
                f"{len(data.skipped)} images of {split} are listed but not annotated; first: {data.skipped[0]}"
            )
        summaries.append(_convert(data, split, reporter, out))
    return summaries


def unpack_split(root: Path, split: str, reporter: Reporter) -> None:
    """Unpack annotations, PNGs and images of `split` as far as they are still in COCO's zips."""
    _unpack_annotations(root, split, reporter)
    annotation = find_annotation(root, split)
    if annotation is not None:
        pngs = annotation.with_suffix("")
        packed = pngs.with_name(f"{pngs.name}.zip")
        if packed.is_file() and not pngs.exists():
            unpack_folder(packed, pngs, reporter)
    packed_images = find_image_zip(root, split)
    if packed_images is not None and find_images(root, split) is None:
        unpack_folder(packed_images, packed_images.with_suffix(""), reporter)


def _unpack_annotations(root: Path, split: str, reporter: Reporter) -> None:
    """From a download that holds JSON files and zips of PNGs: what is missing of `split`."""
    for outer in find_outer_zips(root):
        folder = outer.parent if outer.parent.name == "annotations" else outer.parent / "annotations"
        wanted = [f"panoptic_{split}.json", f"panoptic_{split}.zip"]
        if (folder / f"panoptic_{split}").exists():
            wanted.pop()
        missing = [name for name in wanted if not (folder / name).exists() and name in names_in(outer)]
        for path in unpack_files(outer, missing, folder, reporter) if missing else ():
            if path.suffix == ".zip":
                unpack_folder(path, path.with_suffix(""), reporter)
                path.unlink()  # it is still in the download


def _splits_with_images(root: Path, reporter: Reporter) -> list[str]:
    packed = {name for outer in find_outer_zips(root) for name in names_in(outer) if name.startswith("panoptic_")}
    packed_splits = {name[len("panoptic_") : -len(".json")] for name in packed if name.endswith(".json")}
    known = sorted(packed_splits.union(find_splits(root)))
    wanted = [split for split in known if find_images(root, split) or find_image_zip(root, split)]
    if not wanted:
        annotated = f"annotations of {', '.join(known)} but no images" if known else "neither annotations nor images"
        raise DataError(
            f"{root} holds {annotated} of a COCO panoptic data set; expected images in images/<split>/, <split>/ or "
            "<split>.zip, and annotations/panoptic_<split>.json or COCO's panoptic_annotations_trainval2017.zip"
        )
    for split in known:
        if split not in wanted:
            reporter.warn(f"{split} is left out: {root} has its annotations but not its images")
    return wanted


def _convert(dataset: CocoPanoptic, split: str, reporter: Reporter, out: Path | None) -> SplitSummary:
    """Check all images of a split while the detection JSON is written; it is kept when all are good."""
    annotation = dataset.layout.annotation
    written = (out or annotation.parent) / f"{annotation.stem}_detection_format.json"
    content = json.loads(annotation.read_bytes())  # CocoPanoptic has checked it
    tally = _Tally()
    with atomic_write(written) as temporary, temporary.open("w", encoding="utf-8") as file:
        _write_json(file, content, _detection_rows(dataset, content["annotations"], tally, reporter))
        tally.raise_problems(annotation, len(dataset))
    return SplitSummary(
        split, len(dataset), tally.segments, tally.things, tally.stuff, tally.crowd, tally.void_share, written
    )


@dataclass
class _Tally:
    """Running counts over the images of a split."""

    things: int = 0
    stuff: int = 0
    crowd: int = 0
    pixels: int = 0
    void: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def segments(self) -> int:
        return self.things + self.stuff

    @property
    def void_share(self) -> float:
        return self.void / max(self.pixels, 1)

    def add(self, panoptic: PanopticMap, things: int) -> None:
        self.things += things
        self.stuff += len(panoptic.segments) - things
        self.crowd += sum(segment.is_crowd for segment in panoptic.segments)
        self.pixels += panoptic.ids.size
        self.void += panoptic.ids.size - int(np.count_nonzero(panoptic.ids))

    def raise_problems(self, annotation: Path, images: int) -> None:
        if not self.problems:
            return
        named = [f"  {problem}" for problem in self.problems[:PROBLEMS_NAMED]]
        if len(self.problems) > len(named):
            named.append(f"  and {len(self.problems) - len(named)} more")
        bad = f"{len(self.problems)} of {images} images"
        raise DataError("\n".join([f"{annotation}: {bad} cannot be used, so no detection JSON was written:", *named]))


def _detection_rows(
    dataset: CocoPanoptic, annotations: Sequence[Mapping[str, Any]], tally: _Tally, reporter: Reporter
) -> Iterator[dict[str, Any]]:
    """One row for each segment, numbered from 0 in the order of the panoptic JSON; bad images go to the tally."""
    index_of = {dataset.image_info(index).id: index for index in range(len(dataset))}
    number = 0
    with reporter.progress(f"checking {dataset.layout.annotation.stem}", len(dataset)) as progress:
        for annotation in annotations:
            index = index_of[annotation["image_id"]]
            try:
                panoptic = dataset.annotation(index)
                _check_image(dataset.image_path(index), panoptic.ids.shape)
            except PanformerError as error:
                tally.problems.append(str(error))
            else:
                things = sum(dataset.categories.by_id(segment.category_id).is_thing for segment in panoptic.segments)
                tally.add(panoptic, things)
                for row in _rows_of_image(panoptic, annotation):
                    yield {**row, "id": number}
                    number += 1
            progress.advance()


def _rows_of_image(panoptic: PanopticMap, annotation: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The `segments_info` as they are, each with `image_id` and `segmentation` and without its panoptic id."""
    encoded = encode_segments(panoptic.ids)
    for segment, given in zip(panoptic.segments, annotation["segments_info"], strict=True):
        measured = {"iscrowd": int(segment.is_crowd), "bbox": list(segment.bbox), "area": segment.area}
        # COCO gives all three. Where other data sets do not, they are taken from the pixels.
        row = measured | {key: value for key, value in given.items() if value is not None}
        yield row | {"image_id": annotation["image_id"], "segmentation": encoded[segment.id]}


def _check_image(path: Path, expected: tuple[int, ...]) -> None:
    """DataError unless the image is there and of the expected height and width. Its pixels are not decoded."""
    height, width = read_header(path).shown
    if (height, width) != expected:
        raise DataError(
            f"{path} is {width}x{height} but its panoptic PNG is {expected[1]}x{expected[0]} (width x height); "
            "expected equal sizes"
        )


def _write_json(file: TextIO, content: Mapping[str, Any], rows: Iterator[dict[str, Any]]) -> None:
    """The panoptic JSON with other annotations, and its categories without `isthing`; rows are written as they come."""
    head = {key: value for key, value in content.items() if key not in ("annotations", "categories")}
    head["categories"] = [
        {key: value for key, value in category.items() if key != "isthing"} for category in content["categories"]
    ]
    file.write(json.dumps(head).removesuffix("}") + ', "annotations": [')
    for index, row in enumerate(rows):
        file.write((", " if index else "") + json.dumps(row))
    file.write("]}")
