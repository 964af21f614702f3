"""The part of `panformer predict` that is about videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.predict.options import is_default
from panformer_cli.errors import PanformerError
from panformer_cli.wording import counted, shown

if TYPE_CHECKING:
    from panformer_cli.cli.predict.options import PredictOptions
    from panformer_cli.engine.inputs.video_sources import InputVideo
    from panformer_cli.engine.video.predict import VideoRequest, VideoResults, VideoSummary


def only_images(options: PredictOptions) -> str | None:
    """Return why a call cannot predict videos; None if it can."""
    from panformer_cli.engine.video.options import OUTPUTS

    results = options.results
    given = {
        "--engine ray": options.ray is not None,
        "--resume": results.resume,
        "--submission": results.submission is not None,
        "--gallery": results.output.gallery,
    }
    if name := next((name for name, is_given in given.items() if is_given), None):
        return f"{name} is for images"
    if others := [name for name in results.output.save if name not in OUTPUTS]:
        return f"--save {','.join(others)} is for images: of a video, only {', '.join(OUTPUTS)} can be written"
    return None


def check_videos(options: PredictOptions, videos: Sequence[InputVideo]) -> None:
    """Raise a PanformerError if an option of videos is given, and there is no video."""
    from panformer_cli.engine.video.options import VideoOptions

    if not videos and options.video != VideoOptions():
        raise PanformerError("--stride and --track-memory are for videos and cameras: no input is one")


def video_request(options: PredictOptions, videos: Sequence[InputVideo], checkpoint: Path) -> VideoRequest:
    """Return the prediction of videos. Panoptic PNGs of all frames are written only if the user asks for them."""
    from panformer_cli.engine.video.options import USUAL
    from panformer_cli.engine.video.predict import VideoRequest

    output = options.results.output

    return VideoRequest(
        videos,
        checkpoint,
        options.results.out,
        options.model.speed.batch_size,
        options.model.speed.precision,
        replace(output, save=USUAL) if is_default("save") else output,
        options.model.changes,
        options.video,
        options.model.inference,
    )


def videos_json(results: VideoResults) -> list[dict[str, Any]]:
    """Return what `--json` prints of videos."""
    return [asdict(video) for video in results.videos]


def print_videos(results: VideoResults, folder: Path) -> None:
    """Print the result of each video, and a summary."""
    for video in results.videos:
        counts = f"{counted(video.frames, 'frame')}, {counted(video.tracks, 'track')}"
        click.echo(f"{shown(video.source)}: {counts}{f'; {_overlay(video)}' if video.overlay else ''}")
    problems = counted(len(results.failures), "problem")
    click.echo(f"{counted(len(results.videos), 'video')} segmented, {problems}; results: {folder}")


def _overlay(video: VideoSummary) -> str:
    """Return a phrase on the video with colors: its codec, what plays it, and how its frames differ."""
    players = "for browsers and players" if video.in_browsers else "for players such as VLC, not for browsers"
    phrase = f"{video.overlay} is {video.codec} without audio, {players}"
    if video.overlay_frames != video.frames:
        phrase += f"; it has {counted(video.overlay_frames, 'frame')} at {video.rate:.4g} per second to keep the time"
    return phrase
