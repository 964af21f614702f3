"""Overlays of panoptic maps on their images.

Drawing uses an *index map*, (H, W) uint16 (0 is void, i is `segments[i - 1]`), and color tables. No full-size array is
created per segment, so the drawing time does not depend on the number of segments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import ImageArray, PanopticMap, Segment
from panformer_cli.errors import DataError
from panformer_cli.storage.files import atomic_write
from panformer_cli.visualization.colors import VOID, category_colors, shade
from panformer_cli.visualization.contours import draw_contours, draw_curves, line_width, outlines
from panformer_cli.visualization.labels import IndexMap, draw_labels, font_size
from panformer_cli.visualization.oklab import Colors
from panformer_cli.visualization.text_rendering import text_coverage

__all__ = [
    "DrawOptions",
    "category_colors",
    "colorize",
    "draw_panoptic",
    "encoded_image",
    "highlight",
    "save_image",
    "segment_colors",
    "side_by_side",
]

_BACKGROUND = (24, 26, 30)
"""Background color of `side_by_side`."""


@dataclass(frozen=True)
class DrawOptions:
    """Style of an overlay.

    Attributes:
        opacity: Opacity of the colors, 0..1.
        contours: Whether to outline segments.
        labels: Whether to write class names.
        scores: Whether to write scores after the names.
        ids: Whether to write segment ids after the names of things, such as the tracks of a video.
    """

    opacity: float = 0.5
    contours: bool = True
    labels: bool = True
    scores: bool = False
    ids: bool = False


def draw_panoptic(
    image: ImageArray,
    panoptic: PanopticMap,
    categories: CategoryTable,
    options: DrawOptions | None = None,
    numbers: Sequence[int] | None = None,
) -> ImageArray:
    """Return `image` with colored, outlined and labeled segments: (H, W, 3) uint8 RGB, the size of the image.

    Void is dimmed. Labels that do not fit are left out.

    Args:
        image: (H, W, 3) uint8 RGB.
        panoptic: A map of the same size.
        categories: Categories of the segments; see `colors.with_colors` for other colors.
        options: Style; None for the defaults.
        numbers: Number of each segment, such as its track, for its shade; see `segment_colors`.

    Raises:
        ValueError: The map and the image differ in size, or `numbers` has not one number per segment.
        KeyError: The category of a segment is not in the table.
    """
    if image.shape[:2] != panoptic.ids.shape:
        raise ValueError(
            f"the image is {image.shape[:2]} and its panoptic map is {panoptic.ids.shape}; expected equal sizes"
        )
    options = options or DrawOptions()
    index = _index_map(panoptic)
    colors = segment_colors(panoptic.segments, categories, numbers)
    overlay = np.asarray(
        cv2.addWeighted(image, 1 - options.opacity, _painted(index, colors), options.opacity, 0), np.uint8
    )
    if options.contours:
        draw_contours(overlay, index, colors)
    if options.labels:
        texts = [_texts(segment, categories, options) for segment in panoptic.segments]
        draw_labels(overlay, index, texts, colors[1:])
    return overlay


def highlight(image: ImageArray, panoptic: PanopticMap, categories: CategoryTable) -> ImageArray:
    """Return `image` with the listed segments colored and outlined, and thin borders between all ids of the map.

    Args:
        image: (H, W, 3) uint8 RGB.
        panoptic: A map of the same size; ids that are not listed are only bordered.
        categories: Categories of the listed segments.
    """
    index, ids = _index_map(panoptic), panoptic.ids
    colors = segment_colors(panoptic.segments, categories)
    tinted = np.asarray(cv2.addWeighted(image, 0.6, _painted(index, colors), 0.4, 0), np.uint8)
    result = np.where(index[..., None] > 0, tinted, image)
    border = np.zeros(ids.shape, np.bool_)
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    border[1:] |= ids[1:] != ids[:-1]
    result[border] = result[border] // 2 + 100
    width = max(2.0, 2 * line_width(*index.shape))
    for _, curves in outlines(index, len(panoptic.segments), 2 * width):
        draw_curves(result, curves, _BACKGROUND, 2 * width)
        draw_curves(result, curves, (255, 255, 255), width)
    return result


def colorize(panoptic: PanopticMap, categories: CategoryTable) -> ImageArray:
    """Return the map without its image: (H, W, 3) uint8 RGB, segments in their `segment_colors`, void black."""
    return _painted(_index_map(panoptic), segment_colors(panoptic.segments, categories))


def segment_colors(
    segments: Sequence[Segment], categories: CategoryTable, numbers: Sequence[int] | None = None
) -> Colors:
    """Return the colors of void and of every segment: (1 + N, 3) uint8.

    Stuff has the color of its category. Things have different shades of that color.

    Args:
        segments: The segments.
        categories: Their categories.
        numbers: The number of each segment, 0 or more, which selects the shade of a thing; 0 is the color of the
            category itself. Equal numbers of a category have equal shades, so an object that keeps its number in a
            video keeps its color. None numbers the things of each category from 0, in the order of `segments`.

    Raises:
        KeyError: The category of a segment is not in the table.
        ValueError: `numbers` has not one number per segment.
    """
    if numbers is not None and len(numbers) != len(segments):
        raise ValueError(f"got {len(numbers)} numbers and {len(segments)} segments; expected one number per segment")
    base_colors = category_colors(categories)
    colors = np.zeros((1 + len(segments), 3), np.uint8)
    colors[0] = VOID
    instances: Counter[int] = Counter()
    for position, segment in enumerate(segments, start=1):
        label = categories.label(segment.category_id)
        number = instances[label] if numbers is None else numbers[position - 1]
        colors[position] = shade(base_colors[label], number if categories.by_label(label).is_thing else 0)
        instances[label] += 1
    return colors


def side_by_side(images: Sequence[ImageArray], captions: Sequence[str]) -> ImageArray:
    """Return the images in a row, each below its caption, on a dark background: (H, W, 3) uint8 RGB."""
    if len(images) != len(captions) or not images:
        raise ValueError(f"got {len(images)} images and {len(captions)} captions; expected one caption per image")
    size = max(font_size(*image.shape[:2]) for image in images)
    height = max(image.shape[0] for image in images)
    columns = [_column(image, caption, height, size) for image, caption in zip(images, captions, strict=True)]
    gap = np.full((columns[0].shape[0], max(2, size // 3), 3), _BACKGROUND, np.uint8)
    row = [piece for column in columns for piece in (gap, column)][1:]
    return np.concatenate(row, axis=1)


def save_image(path: Path, image: ImageArray, jpeg_quality: int = 92) -> None:
    """Write a (H, W, 3) uint8 RGB image to a JPEG or PNG file, chosen by the suffix of `path`, atomically.

    Raises:
        PanformerError: The file cannot be written, or the image is too large for the format.
    """
    data = encoded_image(image, path.suffix, str(path), jpeg_quality)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def encoded_image(image: ImageArray, suffix: str, what: str, jpeg_quality: int = 92) -> bytes:
    """Return the content of a JPEG or PNG file.

    Args:
        image: (H, W, 3) uint8 RGB.
        suffix: `.jpg`, `.jpeg` or `.png`.
        what: Name of the file in errors.
        jpeg_quality: 0 to 100.

    Raises:
        DataError: The image is too large for the format.
    """
    quality = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if suffix.lower() in (".jpg", ".jpeg") else []
    try:
        done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    except cv2.error:
        done = False
    if not done:
        height, width = image.shape[:2]
        raise DataError(
            f"cannot write {what}: {width}x{height} pixels exceed the limit of {suffix}; use a smaller image"
        )
    return data.tobytes()


def _column(image: ImageArray, caption: str, height: int, size: int) -> ImageArray:
    margin = size // 3
    text = text_coverage(caption, size)[:, : max(0, image.shape[1] - margin)]
    top = text.shape[0] + 2 * margin
    canvas = np.full((top + height, image.shape[1], 3), _BACKGROUND, np.uint8)
    line = canvas[margin : margin + text.shape[0], margin : margin + text.shape[1]]
    np.maximum(line, text[:, :, None], out=line)
    canvas[top : top + image.shape[0]] = image
    return canvas


def _texts(segment: Segment, categories: CategoryTable, options: DrawOptions) -> Sequence[str]:
    """Return the texts of a label, the longest first."""
    category = categories.by_id(segment.category_id)
    text = category.name + (" (crowd)" if segment.is_crowd else "")
    if options.ids and category.is_thing:
        text += f" {segment.id}"
    return (f"{text} {100 * segment.score:.0f}%", text) if options.scores and segment.score is not None else (text,)


def _painted(index: IndexMap, colors: Colors) -> ImageArray:
    """Return the color of every pixel: (H, W, 3) uint8. Copying four bytes at once is faster than three single ones."""
    packed = np.pad(colors, ((0, 0), (0, 1))).view(np.uint32)[:, 0]
    painted = np.empty((*index.shape, 3), np.uint8)
    for rows in _strips(index.shape):
        strip = index[rows]
        painted[rows] = cv2.cvtColor(packed[strip].view(np.uint8).reshape(*strip.shape, 4), cv2.COLOR_RGBA2RGB)
    return painted


def _index_map(panoptic: PanopticMap) -> IndexMap:
    """Return the index map, (H, W) uint16; ids without a segment become void."""
    ids = np.array([0] + [segment.id for segment in panoptic.segments])
    index = np.empty(panoptic.ids.shape, np.uint16)
    largest = max(int(panoptic.ids.max(initial=0)), int(ids.max()))
    smallest = min(int(panoptic.ids.min(initial=0)), int(ids.min()))
    if smallest >= 0 and largest < 1 << 24:  # as in COCO's PNGs
        table = np.zeros(largest + 1, np.uint16)
        table[ids] = np.arange(len(ids))
        for rows in _strips(index.shape):
            index[rows] = table[panoptic.ids[rows]]
        return index
    order = ids.argsort(kind="stable")
    for rows in _strips(index.shape):
        found = order[np.minimum(np.searchsorted(ids, panoptic.ids[rows], sorter=order), len(ids) - 1)]
        index[rows] = np.where(ids[found] == panoptic.ids[rows], found, 0)
    return index


def _strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of rows, together about a million pixels: for whole large maps, NumPy needs huge 64-bit arrays."""
    rows = max(1, (1 << 20) // max(1, shape[1]))
    yield from (slice(start, start + rows) for start in range(0, shape[0], rows))
