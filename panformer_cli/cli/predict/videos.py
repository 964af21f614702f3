"""The part of `panformer predict` that is about videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.predict.options import is_default
from panformer_cli.wording import counted

if TYPE_CHECKING:
    from panformer_cli.cli.predict.options import PredictOptions
    from panformer_cli.engine.outputs.options import OutputOptions
    from panformer_cli.engine.video.inputs import InputVideo
    from panformer_cli.engine.video.predict import VideoRequest, VideoResults, VideoSummary


def check_videos(options: PredictOptions, videos: Sequence[InputVideo]) -> None:
    """Check the options of videos before a checkpoint is looked for.

    Raises:
        UsageError: An option needs an image, or a video.
        PanformerError: `--save` has an output that does not exist for videos.
    """
    from panformer_cli.engine.video.options import VideoOptions

    if videos and options.results.only_of_images:
        raise click.UsageError(
            "--resume, --submission and --gallery are for images: predict videos with a call of their own."
        )
    if videos:
        _video_output(options.results.output)
    elif options.video != VideoOptions():
        raise click.UsageError("--stride and --track-memory are for videos and cameras: no input is one.")


def video_request(options: PredictOptions, videos: Sequence[InputVideo], checkpoint: Path) -> VideoRequest:
    """Return the prediction of videos; errors as `check_videos`."""
    from panformer_cli.engine.video.predict import VideoRequest

    return VideoRequest(
        videos,
        checkpoint,
        options.results.out,
        options.model.speed.batch_size,
        options.model.speed.precision,
        _video_output(options.results.output),
        options.model.changes,
        options.video,
        options.model.inference,
    )


def _video_output(output: OutputOptions) -> OutputOptions:
    """Return what is written of a video. Panoptic PNGs of all frames are written only if the user asks for them."""
    from panformer_cli.engine.video.options import USUAL, check_outputs

    if is_default("save"):
        return replace(output, save=USUAL)
    check_outputs(output.save)
    return output


def videos_json(results: VideoResults) -> list[dict[str, Any]]:
    """Return what `--json` prints of videos."""
    return [asdict(video) for video in results.videos]


def print_videos(results: VideoResults, folder: Path) -> None:
    """Print the result of each video, and a summary."""
    for video in results.videos:
        counts = f"{counted(video.frames, 'frame')}, {counted(video.tracks, 'track')}"
        click.echo(f"{video.source}: {counts}{f'; {_overlay(video)}' if video.overlay else ''}")
    problems = counted(len(results.failures), "problem")
    click.echo(f"{counted(len(results.videos), 'video')} segmented, {problems}; results: {folder}")


def _overlay(video: VideoSummary) -> str:
    """Return a phrase on the video with colors: its codec, what plays it, and how its frames differ."""
    players = "for browsers and players" if video.in_browsers else "for players such as VLC, not for browsers"
    phrase = f"{video.overlay} is {video.codec} without audio, {players}"
    if video.overlay_frames != video.frames:
        phrase += f"; it has {counted(video.overlay_frames, 'frame')} at {video.rate:.4g} per second to keep the time"
    return phrase
