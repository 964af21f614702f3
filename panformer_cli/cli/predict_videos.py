"""The part of `panformer predict` that is about videos."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.wording import counted

if TYPE_CHECKING:
    from panformer_cli.engine.outputs.options import OutputOptions
    from panformer_cli.engine.video.predict import VideoResults, VideoSummary


def video_output(output: OutputOptions) -> OutputOptions:
    """Return what is written of a video. Panoptic PNGs of all frames are written only if the user asks for them.

    Raises:
        PanformerError: `--save` has an output that does not exist for videos.
    """
    from panformer_cli.engine.video.options import USUAL, check_outputs

    if click.get_current_context().get_parameter_source("save") == click.core.ParameterSource.DEFAULT:
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
