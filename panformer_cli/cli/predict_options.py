"""Options of `predict`, grouped by theme."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.options import colors_option

if TYPE_CHECKING:
    from panformer_cli.visualization.colors import Palette

_SHARE = click.FloatRange(0, 1)


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--save`, `--gallery`, `--classes`, `--min-area` and `--colors`; the function receives `output`.

    It is an `OutputOptions`.
    """

    @click.option(
        "--save",
        default="overlay,panoptic,json",
        show_default=True,
        metavar="LIST",
        help="What to write: some of overlay, panoptic, json, segments, instances, semantic, masks, cutouts, polygons.",
    )
    @click.option(
        "--gallery",
        is_flag=True,
        help="Also write DIR/gallery/index.html, a page on which the images can be searched and looked at.",
    )
    @click.option(
        "--classes",
        multiple=True,
        metavar="LIST",
        help="Keep only segments of these categories, names or ids, such as person,dog; the rest becomes void.",
    )
    @click.option(
        "--min-area",
        type=click.IntRange(min=0),
        default=0,
        metavar="PIXELS",
        help="Keep only segments of at least this area; the rest becomes void. [default: 0]",
    )
    @colors_option
    @functools.wraps(function)
    def with_outputs(
        save: str, gallery: bool, classes: tuple[str, ...], min_area: int, palette: Palette, **others: Any
    ) -> Any:
        from panformer_cli.engine.outputs.options import OutputOptions

        names = tuple(dict.fromkeys(name.strip() for name in save.split(",") if name.strip()))
        return function(output=OutputOptions(names, classes, min_area, palette, gallery), **others)

    return with_outputs


def inference_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--threshold`, `--overlap`, `--max-size` and `--set`; the function receives `changes`, `InferenceChanges`."""

    @click.option(
        "--threshold", type=_SHARE, metavar="S", help="Minimum score of a segment, 0 to 1. [default: the checkpoint's]"
    )
    @click.option(
        "--overlap",
        type=_SHARE,
        metavar="S",
        help="Maximum share of a segment, 0 to 1, that segments with higher scores may cover; above it the segment is "
        "dropped. [default: the checkpoint's]",
    )
    @click.option(
        "--max-size",
        type=click.IntRange(min=32),
        metavar="PIXELS",
        help="Shrink the images that the network sees so that no side is longer: faster, less accurate. Results have "
        "the size of the original images. [default: the checkpoint's]",
    )
    @click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override an inference setting, such as inference.top_k=50; can be repeated.",
    )
    @functools.wraps(function)
    def with_changes(
        threshold: float | None, overlap: float | None, max_size: int | None, overrides: tuple[str, ...], **others: Any
    ) -> Any:
        from panformer_cli.engine.inference_changes import InferenceChanges

        return function(changes=InferenceChanges(threshold, overlap, max_size, overrides), **others)

    return with_changes


def video_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--stride` and `--track-memory`; the function receives `video`, a `VideoOptions`."""

    @click.option(
        "--stride",
        type=click.IntRange(min=1),
        default=1,
        metavar="N",
        help="Of a video, predict only every Nth frame. [default: 1]",
    )
    @click.option(
        "--track-memory",
        type=click.IntRange(min=0),
        metavar="N",
        help="Of a video, number of frames for which an object can be hidden and keep its track id. [default: 30]",
    )
    @functools.wraps(function)
    def with_video(stride: int, track_memory: int | None, **others: Any) -> Any:
        from panformer_cli.engine.video.options import MEMORY, VideoOptions

        memory = MEMORY if track_memory is None else track_memory
        return function(video=VideoOptions(stride, memory), **others)

    return with_video
