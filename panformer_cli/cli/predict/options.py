"""The options of `predict`, grouped by theme."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from panformer_cli.cli.network_options import network_options
from panformer_cli.cli.option_group import option_group
from panformer_cli.cli.options import (
    Compute,
    Speed,
    Submission,
    colors_option,
    json_option,
    speed_options,
    submission_options,
)
from panformer_cli.cli.other_names import answer_to
from panformer_cli.cli.saved_model_options import SavedModelOptions, categories_option, saved_model_options

if TYPE_CHECKING:
    from panformer_cli.engine.combined.options import InferenceOptions
    from panformer_cli.engine.inference_changes import InferenceChanges
    from panformer_cli.engine.on_ray.options import RayOptions
    from panformer_cli.engine.outputs.options import OutputOptions
    from panformer_cli.engine.video.options import VideoOptions
    from panformer_cli.visualization.colors import Palette

_SHARE = click.FloatRange(0, 1)


@dataclass(frozen=True)
class InputOptions:
    """What is segmented.

    Attributes:
        given: The inputs as the user gives them.
        ids_from: JSON whose image ids are used; None for those of the data set.
        images: Folder of the images that a COCO JSON lists; None to look for it.
    """

    given: tuple[str, ...]
    ids_from: Path | None
    images: Path | None


@dataclass(frozen=True)
class ResultOptions:
    """What is written and printed, and where.

    Attributes:
        out: Folder of the results.
        output: What is written, and of which segments.
        submission: Zip file for a test server; None for none.
        resume: Whether an interrupted prediction is resumed.
        as_json: Whether JSON is printed.
    """

    out: Path
    output: OutputOptions
    submission: Submission | None
    resume: bool
    as_json: bool


@dataclass(frozen=True)
class ModelOptions:
    """The model and how it is run.

    Attributes:
        checkpoint: File, run folder or name of published weights; None for the newest run.
        changes: Settings that differ from those of the checkpoint.
        inference: Tiles, views and mask layers.
        speed: Batch size and precision.
    """

    checkpoint: Path | None
    changes: InferenceChanges
    inference: InferenceOptions
    speed: Speed


@dataclass(frozen=True)
class PredictOptions:
    """All options of a call.

    Attributes:
        inputs: What is segmented.
        results: What is written.
        model: What segments it.
        video: How videos are read and tracked.
        ray: How images are distributed on a Ray cluster; None to predict on this machine.
        compute: Devices and processes.
    """

    inputs: InputOptions
    results: ResultOptions
    model: ModelOptions
    video: VideoOptions
    ray: RayOptions | None
    compute: Compute


def is_default(option: str) -> bool:
    """Return whether an option of the command that runs was not given."""
    return click.get_current_context().get_parameter_source(option) == click.core.ParameterSource.DEFAULT


def _check_inputs(ctx: click.Context, parameter: click.Parameter, inputs: tuple[str, ...]) -> tuple[str, ...]:
    """Raise a UsageError if an input is an option as other tools have it, such as `conf=0.5`, and not a file."""
    del parameter
    for text in inputs:
        name, equals, _ = text.partition("=")
        answer = answer_to(ctx.command_path, name) if equals else None
        if answer and not Path(text).exists():
            raise click.UsageError(answer.replace(f"no {name};", f"no {name}=;"), ctx)
    return inputs


@option_group(
    "inputs",
    click.argument("given", nargs=-1, required=True, metavar="INPUT...", callback=_check_inputs),
    click.option(
        "--ids-from",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="JSON",
        help="JSON whose image ids are used, by file name. [default: the data set of the images, if any]",
    ),
    click.option(
        "--images",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        metavar="DIR",
        help="Folder of the images that a COCO JSON lists. [default: COCO's folder of the split, or that of the JSON]",
    ),
)
def input_options(given: tuple[str, ...], ids_from: Path | None, images: Path | None) -> InputOptions:
    """Add INPUT and what belongs to it; the command receives `inputs`."""
    return InputOptions(given, ids_from, images)


@option_group(
    "output",
    click.option(
        "--save",
        default="overlay,panoptic,json",
        show_default=True,
        metavar="LIST",
        help="What to write: some of overlay, panoptic, json, segments, instances, semantic, masks, cutouts, polygons.",
    ),
    click.option(
        "--gallery",
        is_flag=True,
        help="Also write DIR/gallery/index.html, a page on which the images can be searched and looked at.",
    ),
    click.option(
        "--classes",
        multiple=True,
        metavar="LIST",
        help="Keep only segments of these categories, names or ids, such as person,dog; the rest becomes void.",
    ),
    click.option(
        "--min-area",
        type=click.IntRange(min=0),
        default=0,
        metavar="PIXELS",
        help="Keep only segments of at least this area; the rest becomes void. [default: 0]",
    ),
    colors_option,
)
def output_options(
    save: str, gallery: bool, classes: tuple[str, ...], min_area: int, palette: Palette
) -> OutputOptions:
    """Add what is written of an image, and of which segments; the command receives `output`."""
    from panformer_cli.engine.outputs.options import OutputOptions

    names = tuple(dict.fromkeys(name.strip() for name in save.split(",") if name.strip()))
    return OutputOptions(names, classes, min_area, palette, gallery)


@option_group(
    "results",
    click.option(
        "--out", "-o", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the results."
    ),
    output_options,
    submission_options,
    click.option("--resume", is_flag=True, help="Resume an interrupted prediction, and retry the images that failed."),
    json_option,
)
def result_options(
    out: Path, output: OutputOptions, submission: Submission | None, resume: bool, as_json: bool
) -> ResultOptions:
    """Add what is written and printed, and where; the command receives `results`."""
    return ResultOptions(out, output, submission, resume, as_json)


@option_group(
    "changes",
    click.option(
        "--threshold", type=_SHARE, metavar="S", help="Minimum score of a segment, 0 to 1. [default: the checkpoint's]"
    ),
    click.option(
        "--overlap",
        type=_SHARE,
        metavar="S",
        help="Maximum share of a segment, 0 to 1, that segments with higher scores may cover; above it the segment is "
        "dropped. [default: the checkpoint's]",
    ),
    click.option(
        "--max-size",
        type=click.IntRange(min=32),
        metavar="PIXELS",
        help="Shrink the images that the network sees so that no side is longer: faster, less accurate. Results have "
        "the size of the original images. [default: the checkpoint's]",
    ),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override an inference setting, such as inference.top_k=50; can be repeated.",
    ),
    saved_model_options,
    categories_option,
)
def setting_options(
    threshold: float | None,
    overlap: float | None,
    max_size: int | None,
    overrides: tuple[str, ...],
    saved_model: SavedModelOptions,
    categories: Path | None,
) -> InferenceChanges:
    """Add what changes the checkpoint's settings; the command receives `changes`."""
    from panformer_cli.engine.inference_changes import InferenceChanges

    return InferenceChanges(threshold, overlap, max_size, overrides).with_saved_model(
        saved_model.short_side,
        saved_model.long_side,
        saved_model.label_map,
        categories,
        saved_model.hf_post_processing,
    )


@option_group(
    "model",
    click.option(
        "--checkpoint",
        type=click.Path(path_type=Path),
        metavar="C",
        help="File, run folder, name of published weights, or hf:OWNER/NAME[@REVISION] or hf:FOLDER for a model that "
        "transformers saved. [default: the newest run, else r50]",
    ),
    setting_options,
    network_options,
    speed_options,
)
def model_options(
    checkpoint: Path | None, changes: InferenceChanges, inference: InferenceOptions, speed: Speed
) -> ModelOptions:
    """Add the model and how it is run; the command receives `model`."""
    return ModelOptions(checkpoint, changes, inference, speed)


@option_group(
    "video",
    click.option(
        "--stride",
        type=click.IntRange(min=1),
        default=1,
        metavar="N",
        help="Of a video, predict only every Nth frame. [default: 1]",
    ),
    click.option(
        "--track-memory",
        type=click.IntRange(min=0),
        metavar="N",
        help="Of a video, number of frames for which an object can be hidden and keep its track id. [default: 30]",
    ),
)
def video_options(stride: int, track_memory: int | None) -> VideoOptions:
    """Add how videos are read and tracked; the command receives `video`."""
    from panformer_cli.engine.video.options import MEMORY, VideoOptions

    return VideoOptions(stride, MEMORY if track_memory is None else track_memory)


@option_group(
    "ray",
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        help="ray predicts on a Ray cluster and writes Parquet files, DIR/predictions/*.parquet. [default: local]",
    ),
    click.option("--actors", type=click.IntRange(min=1), metavar="N", help="With Ray, number of actors."),
    click.option("--actor-cpus", type=click.IntRange(min=1), metavar="N", help="With Ray, CPU threads of an actor."),
    click.option(
        "--actor-gpus",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="SHARE",
        help="With Ray, share of a GPU for an actor, such as 0.5. [default: 1 if the cluster has GPUs]",
    ),
    click.option(
        "--block-size",
        type=click.IntRange(min=1),
        metavar="N",
        help="With Ray, number of images per Parquet file. [default: 64]",
    ),
)
def ray_options(
    engine: str, actors: int | None, actor_cpus: int | None, actor_gpus: float | None, block_size: int | None
) -> RayOptions | None:
    """Add `--engine` and the options of actors; the command receives `ray`."""
    if engine == "local":
        given = {"actors": actors, "actor-cpus": actor_cpus, "actor-gpus": actor_gpus, "block-size": block_size}
        if names := [f"--{name}" for name, value in given.items() if value is not None]:
            raise click.UsageError(f"{' and '.join(names)} only apply with --engine ray: add it.")
        return None
    from panformer_cli.engine.on_ray.options import BLOCK_SIZE, RayOptions

    return RayOptions(actors, actor_cpus, actor_gpus, block_size or BLOCK_SIZE)
