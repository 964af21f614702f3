"""Write what the gallery shows of an image: a thumbnail, the image, and its layers.

The layers are in a script of their own, which the viewer loads when it shows the image: scripts of a page that is
opened from disk can neither fetch files nor read the pixels of images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.pages.gallery.layers import ShownMap, shown_size, shrunk_ids
from panformer_cli.storage.files import atomic_write
from panformer_cli.visualization.drawing import DrawOptions, category_colors, draw_panoptic, encoded_image
from panformer_cli.wording import counted

THUMBNAIL_SIDE = 400
"""Maximum length of the longer side of one map in a thumbnail, pixels: enough for a card on most screens."""

_GAP = 6
"""Pixels between the two maps of a thumbnail."""


@dataclass(frozen=True)
class FoundSegment:
    """A segment in the search: its category, the color of that category (RGB, 0..255), and its score if it has one."""

    name: str
    color: tuple[int, int, int]
    score: float | None = None


@dataclass(frozen=True)
class GalleryImage:
    """An image on the page.

    Attributes:
        name: File name of the image.
        detail: Second line of its card.
        small: Path of the thumbnail relative to the page, with `/`; "" for none.
        small_size: Height and width of the thumbnail, pixels.
        large: Path of the image in the viewer; "" for none.
        layers: Path of the script with its layers; "" if it cannot be shown in the viewer.
        size: Height and width of the image and its maps in the viewer, pixels.
        segments: The segments that are searched.
        drawing: Path of a drawing of the segments that the viewer links to; "" for none.
    """

    name: str
    detail: str
    small: str = ""
    small_size: tuple[int, int] = (1, 1)
    large: str = ""
    layers: str = ""
    size: tuple[int, int] = (1, 1)
    segments: Sequence[FoundSegment] = ()
    drawing: str = ""

    def below(self, folder: str) -> GalleryImage:
        """Return the image for a page in the folder that contains `folder`, in which its files are."""
        small, large, layers = (f"{folder}/{path}" if path else "" for path in (self.small, self.large, self.layers))
        return replace(self, small=small, large=large, layers=layers)

    def to_json(self) -> dict[str, Any]:
        """Return JSON that `from_json` reads."""
        segments = [{"name": row.name, "color": list(row.color), "score": row.score} for row in self.segments]
        sizes = {"small_size": list(self.small_size), "size": list(self.size)}
        return {**vars(self), **sizes, "segments": segments}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> GalleryImage:
        """Return the image that `to_json` wrote."""
        segments = [FoundSegment(row["name"], tuple(row["color"]), row["score"]) for row in content["segments"]]
        sizes = {key: tuple(content[key]) for key in ("small_size", "size")}
        return cls(**{**content, **sizes, "segments": segments})


def write_image(
    page: Path, key: str, name: str, image: ImageArray | None, maps: Sequence[ShownMap], detail: str = ""
) -> GalleryImage:
    """Write the files of one image, and return what the page shows of it.

    Args:
        page: Folder of the page.
        key: Name of its files, unique on the page.
        name: File name of the image.
        image: As in `image_files`.
        maps: As in `image_files`. The last one is searched.
        detail: Second line of its card; the number of segments if it is "".

    Raises:
        PanformerError: A file cannot be written.
    """
    for path, content in image_files(key, image, maps):
        with atomic_write(page / path, waits_for_disk=False) as temporary:
            temporary.write_bytes(content)
    size = maps[0].panoptic.ids.shape
    shown = listed_image(key, name, (size[0], size[1]), found_segments(maps[-1]), image is not None, len(maps))
    return replace(shown, detail=detail or _segment_counts(maps))


def image_files(key: str, image: ImageArray | None, maps: Sequence[ShownMap]) -> Iterator[tuple[str, bytes]]:
    """Yield paths relative to the page, and contents, of the image in the viewer, its layers and its thumbnail.

    Args:
        key: Name of the files, unique on the page; may have folders.
        image: (H, W, 3) uint8 RGB of any size; None if it is missing, and only its maps are shown.
        maps: One map or, side by side, the ground truth and the prediction; all of one size.
    """
    size = shown_size(maps[0].panoptic.ids.shape)
    if image is not None:
        yield _large(key), encoded_image(resized(image, size), ".jpg", f"the image {key} of the gallery", 85)
    yield _layers(key), _script([shown.to_json(size) for shown in maps])
    yield _small(key), encoded_image(_thumbnail(image, maps), ".jpg", f"the thumbnail {key} of the gallery", 80)


def listed_image(
    key: str,
    name: str,
    size: tuple[int, int],
    segments: Sequence[FoundSegment],
    has_image: bool = True,
    maps: int = 1,
) -> GalleryImage:
    """Return what the page shows of an image whose files `image_files` wrote.

    Args:
        key: Name of its files.
        name: File name of the image.
        size: Height and width of the image, pixels.
        segments: The segments that are searched.
        has_image: Whether the image exists, besides its maps.
        maps: Number of maps.
    """
    height, width = shown_size(size, THUMBNAIL_SIDE)
    small_size = height, maps * width + (maps - 1) * _GAP
    large = _large(key) if has_image else ""
    detail = counted(len(segments), "segment")
    return GalleryImage(name, detail, _small(key), small_size, large, _layers(key), shown_size(size), segments)


def file_paths(key: str) -> tuple[str, str, str]:
    """Return the paths of all files that an image can have, relative to the page."""
    return _large(key), _layers(key), _small(key)


def _large(key: str) -> str:
    return f"images/large/{key}.jpg"


def _layers(key: str) -> str:
    return f"images/layers/{key}.js"


def _small(key: str) -> str:
    return f"images/small/{key}.jpg"


def found_segments(shown: ShownMap) -> list[FoundSegment]:
    """Return the segments of a map for the search."""
    colors = category_colors(shown.categories)
    found = []
    for segment, row in zip(shown.panoptic.segments, shown.rows, strict=True):
        red, green, blue = colors[shown.categories.label(segment.category_id)].tolist()
        found.append(FoundSegment(str(row["name"]), (red, green, blue), row.get("score")))
    return found


def resized(pixels: ImageArray, size: tuple[int, int]) -> ImageArray:
    """Return the image resized to `size` (height, width)."""
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _thumbnail(image: ImageArray | None, maps: Sequence[ShownMap]) -> ImageArray:
    """Return the maps side by side on the image, in their colors and without text: (h, w, 3) uint8 RGB."""
    size = shown_size(maps[0].panoptic.ids.shape, THUMBNAIL_SIDE)
    ground = np.full((*size, 3), 128, np.uint8) if image is None else resized(image, size)
    drawn: list[ImageArray] = []
    for shown in maps:
        small = PanopticMap(shrunk_ids(shown.panoptic.ids, size), shown.panoptic.segments)
        drawn += [np.full((size[0], _GAP, 3), 128, np.uint8)] if drawn else []
        drawn.append(draw_panoptic(ground, small, shown.categories, DrawOptions(labels=False)))
    return np.concatenate(drawn, axis=1)


def _segment_counts(maps: Sequence[ShownMap]) -> str:
    counts = [counted(len(shown.rows), "segment") for shown in maps]
    if len(maps) == 1:
        return counts[0]
    return ", ".join(f"{shown.title.lower()}: {count}" for shown, count in zip(maps, counts, strict=True))


def _script(sides: list[dict[str, Any]]) -> bytes:
    """Return a script that gives the layers of an image to `maps.js`."""
    return f"layersArrived({json.dumps(sides, separators=(',', ':'))});\n".encode("ascii")
