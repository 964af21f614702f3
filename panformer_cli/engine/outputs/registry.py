"""The outputs of `predict --save`. To add one, write a function that returns its file and add an entry to `OUTPUTS`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_png import encode_panoptic_png
from panformer_cli.data.structures import ImageArray, PanopticMap, Segment
from panformer_cli.engine.inputs.ids import ImageId
from panformer_cli.engine.outputs import views
from panformer_cli.engine.outputs.encoding import json_bytes, png_bytes
from panformer_cli.engine.outputs.names import GALLERY, JSON, USUAL, gallery_key, result_path, segment_name
from panformer_cli.errors import PanformerError
from panformer_cli.pages.gallery.images import file_paths, image_files
from panformer_cli.pages.gallery.layers import ShownMap
from panformer_cli.visualization.drawing import DrawOptions, draw_panoptic, encoded_image


@dataclass(frozen=True)
class SegmentedImage:
    """An image with its segmentation, as outputs receive it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        panoptic: The segmentation, at the same size.
        categories: Categories of the segments.
        id: Id of the image in the results.
        file_name: Its name in the results.
        inference: How it was run, see `Predictor.described`.
    """

    image: ImageArray
    panoptic: PanopticMap
    categories: CategoryTable
    id: ImageId
    file_name: str
    inference: Mapping[str, Any] = field(default_factory=dict)


class ResultFile(NamedTuple):
    """A file of the results of an image.

    Attributes:
        name: Its path in `OUT`, with `/`.
        content: Its content.
        waits_for_disk: Whether it is flushed to disk before the image counts as finished, as in `files.atomic_write`.
    """

    name: str
    content: bytes
    waits_for_disk: bool = True


@dataclass(frozen=True)
class ImageOutput:
    """An output with one file for each image, `OUT/<folder>/<name><suffix>`.

    Attributes:
        name: Its name in `--save`.
        folder: Its folder in `OUT`.
        suffix: Suffix of its files; one of `names.SUFFIXES`.
        encode: Returns the content of the file. A DataError is reported, and the image has no results then.
    """

    name: str
    folder: str
    suffix: str
    encode: Callable[[SegmentedImage], bytes]

    def files(self, segmented: SegmentedImage, name: str) -> Iterator[ResultFile]:
        """Yield the files of an image.

        Args:
            segmented: The image.
            name: Name of its results, a relative path with any suffix.
        """
        yield ResultFile(self.path(name), self.encode(segmented))

    def path(self, name: str) -> str:
        """Return the path of an image's file, relative to `OUT`."""
        return f"{self.folder}/{PurePosixPath(name).with_suffix(self.suffix)}"

    def in_the_way(self, out: Path, name: str) -> Iterator[Path]:
        """Yield existing files in `out` that an image's files could replace."""
        path = result_path(out, self.path(name), "the list of images")
        if path.is_symlink() or path.exists():
            yield path


@dataclass(frozen=True)
class SegmentOutput:
    """An output with one file for each segment, `OUT/<folder>/<name>/<segment id>-<category><suffix>`.

    Attributes:
        name: Its name in `--save`.
        folder: Its folder in `OUT`.
        suffix: Suffix of its files; one of `names.SUFFIXES`.
        encode: Returns the content of a segment's file. A DataError is reported, and the image has no results then.
    """

    name: str
    folder: str
    suffix: str
    encode: Callable[[SegmentedImage, Segment], bytes]

    def files(self, segmented: SegmentedImage, name: str) -> Iterator[ResultFile]:
        """As `ImageOutput.files`. They are small and many, so flushing each one would take longer than writing it."""
        for segment in segmented.panoptic.segments:
            part = segment_name(segment, segmented.categories)
            path = f"{self.path(name)}/{part}{self.suffix}"
            yield ResultFile(path, self.encode(segmented, segment), waits_for_disk=False)

    def path(self, name: str) -> str:
        """Return the path of the folder with an image's files, relative to `OUT`."""
        return f"{self.folder}/{PurePosixPath(name).with_suffix('')}"

    def in_the_way(self, out: Path, name: str) -> Iterator[Path]:
        """As `ImageOutput.in_the_way`."""
        folder = result_path(out, self.path(name), "the list of images")
        pattern = re.compile(rf"[0-9]+(-.*)?{re.escape(self.suffix)}")
        if folder.is_dir():
            yield from (path for path in sorted(folder.iterdir()) if pattern.fullmatch(path.name))
        elif folder.is_symlink() or folder.exists():
            yield folder


@dataclass(frozen=True)
class GalleryOutput:
    """What the gallery needs of each image, in `OUT/gallery/images`; `gallery.write_page` adds the page at the end."""

    name: str = "gallery"
    folder: str = GALLERY

    def files(self, segmented: SegmentedImage, name: str) -> Iterator[ResultFile]:
        """As `ImageOutput.files`."""
        shown = ShownMap.of("Prediction", segmented.panoptic, segmented.categories)
        for path, content in image_files(gallery_key(name), segmented.image, [shown]):
            yield ResultFile(f"{self.folder}/{path}", content, waits_for_disk=False)

    def in_the_way(self, out: Path, name: str) -> Iterator[Path]:
        """As `ImageOutput.in_the_way`."""
        for path in file_paths(gallery_key(name)):
            found = result_path(out, f"{self.folder}/{path}", "the list of images")
            if found.is_symlink() or found.exists():
                yield found


Output = ImageOutput | SegmentOutput | GalleryOutput


def _overlay(segmented: SegmentedImage) -> bytes:
    overlay = draw_panoptic(segmented.image, segmented.panoptic, segmented.categories, DrawOptions(scores=True))
    return encoded_image(overlay, ".jpg", f"the overlay of {segmented.file_name}")


def _panoptic(segmented: SegmentedImage) -> bytes:
    return encode_panoptic_png(segmented.panoptic.ids)


def _segments(segmented: SegmentedImage) -> bytes:
    return json_bytes(views.image_record(segmented.id, segmented.file_name, segmented.panoptic, segmented.categories))


def _instances(segmented: SegmentedImage) -> bytes:
    return png_bytes(views.instance_map(segmented.panoptic, segmented.categories))


def _semantic(segmented: SegmentedImage) -> bytes:
    return png_bytes(views.semantic_map(segmented.panoptic, segmented.categories))


def _polygons(segmented: SegmentedImage) -> bytes:
    return json_bytes(views.feature_collection(segmented.panoptic, segmented.categories))


def _mask(segmented: SegmentedImage, segment: Segment) -> bytes:
    return png_bytes(views.segment_mask(segmented.panoptic, segment).astype(np.uint8) * np.uint8(255))


def _cutout(segmented: SegmentedImage, segment: Segment) -> bytes:
    return png_bytes(views.cut_out(segmented.image, segmented.panoptic, segment))


OUTPUTS: tuple[ImageOutput | SegmentOutput, ...] = (
    ImageOutput("overlay", "overlays", ".jpg", _overlay),
    ImageOutput("panoptic", "panoptic", ".png", _panoptic),
    ImageOutput("segments", "segments", ".json", _segments),
    ImageOutput("instances", "instances", ".png", _instances),
    ImageOutput("semantic", "semantic", ".png", _semantic),
    SegmentOutput("masks", "masks", ".png", _mask),
    SegmentOutput("cutouts", "cutouts", ".png", _cutout),
    ImageOutput("polygons", "polygons", ".geojson", _polygons),
)
"""All outputs of `--save` with files for each image."""

NAMES = (*USUAL, *(output.name for output in OUTPUTS if output.name not in USUAL))
"""The names that `--save` accepts."""


@dataclass(frozen=True)
class Saving:
    """Which outputs are written.

    Attributes:
        outputs: Those with files for each image.
        json: Whether `panoptic.json` is written.
    """

    outputs: tuple[Output, ...]
    json: bool

    @classmethod
    def of(cls, names: Iterable[str], has_gallery: bool = False) -> Saving:
        """Return the outputs with these names and, if `has_gallery`, the gallery.

        Raises:
            PanformerError: A name is unknown, or there is none.
        """
        chosen = list(names)
        for name in chosen:
            if name not in NAMES:
                close = get_close_matches(name, NAMES, n=1)
                guess = f"did you mean {close[0]}? " if close else ""
                guess = "the gallery is --gallery; " if name == GalleryOutput.name else guess
                raise PanformerError(f"--save has no output {name!r}; {guess}expected some of {', '.join(NAMES)}")
        if not chosen:
            raise PanformerError(f"--save names no output; expected some of {', '.join(NAMES)}")
        files = tuple(output for output in OUTPUTS if output.name in chosen)
        return cls((*files, GalleryOutput()) if has_gallery else files, JSON in chosen)

    @property
    def is_usual(self) -> bool:
        """Whether these are the outputs by default, whose files the panoptic JSON names."""
        return self.json and {output.name for output in self.outputs} == set(USUAL) - {JSON}

    @property
    def folders(self) -> list[str]:
        """Names of the folders in `OUT`."""
        return [output.folder for output in self.outputs]

    def in_the_way(self, out: Path, names: Iterable[str]) -> Iterator[Path]:
        """Yield existing files in `out` that the results of images with these names could replace."""
        for name in names:
            for output in self.outputs:
                yield from output.in_the_way(out, name)
