"""A COCO panoptic data set, read from the panoptic JSON, its PNGs and the images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.annotation_index import open_annotation
from panformer_cli.data.coco.panoptic_annotation import ImageInfo
from panformer_cli.data.coco.panoptic_png import read_panoptic_png, segment_ids
from panformer_cli.data.coverage import Coverage, spread
from panformer_cli.data.images import read_image
from panformer_cli.data.layout import find_split
from panformer_cli.data.structures import IdMap, PanopticMap, Sample, Segment
from panformer_cli.errors import DataError
from panformer_cli.storage.files import name_inside
from panformer_cli.wording import counted, listing

_SAMPLED = 32
"""Number of PNGs that `coverage` reads at most."""


class CocoPanoptic:
    """A split of a data set in COCO's panoptic format: a sequence of `Sample`.

    Args:
        root: folder of the data set, in a layout of `layout.find_split`.
        split: such as val2017.
        skip_unannotated: leave out images that the JSON lists but does not annotate, and report them in `skipped`.

    Attributes:
        listed: the content of the panoptic JSON.
        skipped: one message per image that was left out.

    Raises:
        DataError: the folder or the JSON cannot be used, contains no annotated image, or lists an image without
            annotation. Reading an item raises it if the files of the image are missing or corrupt, or disagree with
            each other or with the JSON.
    """

    def __init__(self, root: Path, split: str, skip_unannotated: bool = False) -> None:
        self.layout = find_split(root, split)
        self.listed = open_annotation(self.layout.annotation)
        without = self.listed.unannotated
        self.skipped = [f"{self.layout.annotation} lists {name} but does not annotate it" for name in without]
        if not self.listed.images:
            raise DataError(f"{self.layout.annotation} contains no annotated image; expected at least one")
        if without and not skip_unannotated:
            raise DataError(
                f"{self.layout.annotation} lists {counted(len(without), 'image')} without annotation, first "
                f"{without[0]}; annotate them or remove them from `images` (training skips them with "
                "data.skip_bad_images=true)"
            )

    @property
    def categories(self) -> CategoryTable:
        return self.listed.categories

    def __len__(self) -> int:
        return len(self.listed.images)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        info = self.image_info(index)
        annotation = self.annotation(index)
        path = self.image_path(index)
        image = read_image(path)
        if image.shape[:2] != annotation.ids.shape:
            raise DataError(
                f"{path} is {_size(image.shape)} but its panoptic PNG {self.png_path(index)} is "
                f"{_size(annotation.ids.shape)} (width x height); expected equal sizes"
            )
        return Sample(image, annotation, info.id, info.file_name, info.png_name)

    def image_info(self, index: int) -> ImageInfo:
        """Return id, file names and size of an image from the JSON; no file is opened."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.listed.images[index]

    def image_path(self, index: int) -> Path:
        return name_inside(self.layout.images, self.image_info(index).file_name, str(self.layout.annotation))

    def png_path(self, index: int) -> Path:
        return name_inside(self.layout.pngs, self.image_info(index).png_name, str(self.layout.annotation))

    def category_ids(self, index: int) -> set[int]:
        """Return the category ids in an image from the JSON; no file is opened."""
        return {segment.category_id for segment in self.listed.segments(index)}

    def coverage(self) -> Coverage:
        """Return how much of the split is annotated.

        Areas and sizes are those of the JSON. If some are missing, or areas are 0 or exceed their image, void is
        measured on the PNGs of a few images.
        """
        annotation = self.listed
        images, segments = len(self), len(annotation.rows)
        areas = annotation.rows["area"].astype(np.int64)
        if segments and (areas > 0).all():
            sizes = np.array(
                [(height or 0) * (width or 0) for *_, height, width in annotation.images.lists()], np.int64
            )
            covered = np.diff(np.concatenate(([0], areas.cumsum()))[annotation.starts])
            if sizes.all() and (covered <= sizes).all():
                return Coverage(images, segments, int(sizes.sum()), int(sizes.sum() - areas.sum()))
        maps = [ids for ids in map(self._map_or_none, spread(images, _SAMPLED)) if ids is not None] if segments else []
        pixels, void = sum(ids.size for ids in maps), sum(int((ids == 0).sum()) for ids in maps)
        return Coverage(images, segments, pixels, void, len(maps))

    def _map_or_none(self, index: int) -> IdMap | None:
        """Return the map of an image; None if it cannot be read, which is reported where it is used."""
        try:
            return read_panoptic_png(self.png_path(index))
        except DataError:
            return None

    def annotation(
        self, index: int, ids_in: Callable[[IdMap], Collection[int]] = segment_ids, png: bytes | None = None
    ) -> PanopticMap:
        """Return the ground truth of an image, checked against the JSON; the image itself is not opened.

        Args:
            index: position of the image.
            ids_in: returns the ids in a map without void; for callers that compute them anyway.
            png: the content of the PNG, if already read.

        Raises:
            DataError: the PNG is missing or corrupt, or disagrees with the JSON.
        """
        info, path = self.image_info(index), self.png_path(index)
        ids = read_panoptic_png(path, png)
        for found, expected in zip(ids.shape, (info.height, info.width), strict=True):
            if expected is not None and found != expected:
                raise DataError(
                    f"{path} is {_size(ids.shape)} but {self.layout.annotation} gives "
                    f"{_size((info.height, info.width))} (width x height); expected equal sizes"
                )
        segments = self.listed.segments(index)
        self._check_ids(path, set(ids_in(ids)), segments)
        return PanopticMap(ids, tuple(measured(segment, ids) for segment in segments))

    def _check_ids(self, path: Path, drawn: set[int], segments: Iterable[Segment]) -> None:
        listed = {segment.id for segment in segments}
        if drawn != listed:
            differences = []
            if drawn - listed:
                differences.append(f"{listing(sorted(drawn - listed))} only in the PNG")
            if listed - drawn:
                differences.append(f"{listing(sorted(listed - drawn))} only in the segments_info")
            raise DataError(
                f"{path} and {self.layout.annotation} disagree: segment ids {' and '.join(differences)}; "
                "expected the same ids in both (0 in the PNG is void)"
            )


def measured(segment: Segment, ids: IdMap) -> Segment:
    """Return the segment with the annotation's area and bbox, or those of its pixels if the annotation has none."""
    if segment.area >= 0 and segment.bbox[0] == segment.bbox[0]:  # NaN differs from itself
        return segment
    mask = ids == segment.id
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    bbox = segment.bbox
    if bbox[0] != bbox[0]:
        drawn = len(rows) > 0
        bbox = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1) if drawn else (0, 0, 0, 0)
        bbox = (float(bbox[0]), float(bbox[1]), float(bbox[2]), float(bbox[3]))
    return replace(segment, area=segment.area if segment.area >= 0 else int(mask.sum()), bbox=bbox)


def _size(shape: tuple[int | None, ...]) -> str:
    height, width = ("?" if side is None else str(side) for side in shape[:2])
    return f"{width}x{height}"
