"""Other forms of the segmentation of one image: semantic and instance maps, masks, cut-outs, polygons, JSON records.

All functions are pure: they change no argument, and their results share no memory with it. `predict --save` writes what
they return, and the Python API returns it.

Letters in shapes: H x W image, h x w box of a segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_png import id_runs
from panformer_cli.data.coco.panoptic_writer import segment_row
from panformer_cli.data.structures import IdMap, ImageArray, PanopticMap, Segment
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.shapes import Mask
from panformer_cli.prepare.export.outlines import Part, trace

Map16 = npt.NDArray[np.uint16]
"""(H, W) uint16: one value per pixel, as a 16-bit PNG stores it."""

MAX_VALUE = 65535
"""The largest value of a 16-bit map."""

SEMANTIC_VOID = MAX_VALUE
"""Value of void in a semantic map. It is not 0, which may be the id of a category."""


def semantic_map(panoptic: PanopticMap, categories: CategoryTable) -> Map16:
    """Return the category of every pixel, (H, W) uint16: the data set's category id, `SEMANTIC_VOID` for void.

    Values are ids, as in all files, and not the labels of the model.

    Raises:
        DataError: A segment has a category id above 65534.
        KeyError: The category of a segment is not in the table.
    """
    values = {segment.id: categories.by_id(segment.category_id).id for segment in panoptic.segments}
    _check_fits(values.values(), "category id", SEMANTIC_VOID - 1, "a 16-bit semantic map, in which 65535 is void,")
    return _mapped(panoptic.ids, values, SEMANTIC_VOID)


def instance_map(panoptic: PanopticMap, categories: CategoryTable) -> Map16:
    """Return the thing of every pixel, (H, W) uint16: the segment id of a thing, 0 for stuff and void.

    Raises:
        DataError: A thing has a segment id above 65535.
        KeyError: The category of a segment is not in the table.
    """
    things = [segment.id for segment in panoptic.segments if categories.by_id(segment.category_id).is_thing]
    _check_fits(things, "segment id", MAX_VALUE, "a 16-bit instance map")
    return _mapped(panoptic.ids, {number: number for number in things}, 0)


def segment_mask(panoptic: PanopticMap, segment: Segment) -> Mask:
    """Return the pixels of a segment, (H, W) bool."""
    return np.asarray(panoptic.ids == segment.id)


def cut_out(image: ImageArray, panoptic: PanopticMap, segment: Segment) -> npt.NDArray[np.uint8]:
    """Return a segment on a transparent background, cropped to its box: (h, w, 4) uint8 RGBA, alpha not premultiplied.

    Alpha is 255 on exactly the pixels of the segment and 0 elsewhere. It is not anti-aliased: the colors at a smooth
    edge would be mixed with those of the background. Transparent pixels are black, so that nothing else of the image is
    in the result.

    Args:
        image: (H, W, 3) uint8 RGB.
        panoptic: Its segmentation.
        segment: One of its segments.
    """
    mask = panoptic.boxed_mask(segment)
    result = np.zeros((*mask.shape, 4), np.uint8)
    result[mask, :3] = image[segment.box_slices][mask]
    result[mask, 3] = 255
    return result


def polygons(panoptic: PanopticMap, segment: Segment) -> list[Part]:
    """Return the outlines of a segment's parts, from top to bottom, each with its holes.

    Points are (N, 2) float64, x and y in pixels of the image: (0, 0) is the outer corner of the first pixel and (W, H)
    that of the last one. The outlines follow the edges of the pixels, so by the even-odd rule they contain the centers
    of exactly the pixels of the segment (`prepare.export.outlines`).
    """
    rows, columns = segment.box_slices
    offset = np.array([columns.start, rows.start], np.float64)
    parts = trace(panoptic.boxed_mask(segment))
    return [Part(part.outer + offset, tuple(hole + offset for hole in part.holes)) for part in parts]


def run_lengths(panoptic: PanopticMap, segment: Segment) -> dict[str, Any]:
    """Return COCO's compressed run lengths of a segment's mask, `{"size": [H, W], "counts": text}`.

    They are those of `pycocotools.mask.encode`, but the time depends on the segment's box and not on the image.
    """
    height, width = map(int, panoptic.ids.shape)
    rows, columns = segment.box_slices
    by_column = np.pad(panoptic.boxed_mask(segment).T.astype(np.int8), ((0, 0), (1, 1)))
    changes = np.diff(by_column, axis=1)  # (w, h + 1): 1 where a run starts, -1 after its end
    starts, ends = (
        (x + columns.start) * height + y + rows.start for x, y in (np.nonzero(changes == 1), np.nonzero(changes == -1))
    )
    continues = np.flatnonzero(ends[:-1] == starts[1:])  # from the bottom of a column to the top of the next one
    bounds = np.stack([np.delete(starts, continues + 1), np.delete(ends, continues)], axis=1)
    counts = np.diff(bounds.ravel(), prepend=0, append=height * width)
    if counts[-1] == 0:  # the last pixel is inside
        counts = counts[:-1]
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


def image_record(
    image_id: int | str, file_name: str, panoptic: PanopticMap, categories: CategoryTable
) -> dict[str, Any]:
    """Return the segmentation of an image, ready for JSON, with all masks.

    The keys are `image` (id, file_name, height, width) and `segments`. A segment has the keys of `segments_info` in
    panoptic.json (id, category_id, category_name, isthing, score, area, bbox, iscrowd) and `segmentation`, COCO's
    compressed run lengths of its mask, which `pycocotools.mask.decode` decodes.

    Args:
        image_id: Id of the image.
        file_name: Its name in the results.
        panoptic: Its segmentation.
        categories: The category table.
    """
    height, width = panoptic.ids.shape
    return {
        "image": {"id": image_id, "file_name": file_name, "height": height, "width": width},
        "segments": [
            {**segment_row(segment, categories), "segmentation": run_lengths(panoptic, segment)}
            for segment in panoptic.segments
        ],
    }


def feature_collection(panoptic: PanopticMap, categories: CategoryTable) -> dict[str, Any]:
    """Return all segments as a GeoJSON FeatureCollection in pixels, ready for JSON.

    Each feature is a MultiPolygon of the outlines in `polygons`, with closed rings of [x, y], outer ring first. Its
    `properties` are the row of `segments_info` in panoptic.json.
    """
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "id": segment.id,
                "properties": segment_row(segment, categories),
                "geometry": {
                    "type": "MultiPolygon",
                    "coordinates": [
                        [_closed_ring(ring) for ring in (part.outer, *part.holes)]
                        for part in polygons(panoptic, segment)
                    ],
                },
            }
            for segment in panoptic.segments
        ],
    }


def _closed_ring(points: npt.NDArray[np.float64]) -> list[list[int]]:
    ring: list[list[int]] = points.astype(int).tolist()
    return [*ring, ring[0]]


def _check_fits(values: Iterable[int], what: str, most: int, where: str) -> None:
    """Raise a DataError if a value is above `most`."""
    largest = max(values, default=0)
    if largest > most:
        raise DataError(
            f"the {what} {largest} does not fit into {where} whose largest value is {most}; leave out this output and "
            "use the panoptic PNG, which stores ids up to 16777215"
        )


def _mapped(ids: IdMap, values: Mapping[int, int], other: int) -> Map16:
    """Return the value of each pixel's id, (H, W) uint16; `other` for ids without a value, such as void."""
    runs, lengths = id_runs(ids)
    present, index = np.unique(runs, return_inverse=True)
    table = np.array([values.get(number, other) for number in present.tolist()], np.uint16)
    return np.repeat(table[index.reshape(-1)], lengths).reshape(ids.shape)
