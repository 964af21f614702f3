"""The maps of an image as the gallery shows them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from panformer_cli.engine.annotated_images import AnnotatedImage
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.matching import match_segments
from panformer_cli.pages.gallery.layers import ShownMap
from panformer_cli.pages.report.images import describe_segments


def shown_maps(annotated: AnnotatedImage) -> list[ShownMap]:
    """Return the maps of an image; the segments of a pair say what they match, if both have the same categories."""
    maps = [ShownMap.of(title.capitalize(), panoptic, table) for title, panoptic, table in annotated.maps]
    if len(maps) < 2 or not maps[0].categories.has_labels_of(maps[1].categories):
        return maps
    truth, prediction = maps
    with suppress(DataError):  # a map that cannot be evaluated is still shown
        overlap = compare(prediction.panoptic, truth.panoptic, file_name=annotated.name)
        matching = match_segments(overlap, truth.categories)
        rows = describe_segments(overlap, matching, truth.categories)
        return [replace(shown, rows=own) for shown, own in zip(maps, rows, strict=True)]
    return maps
