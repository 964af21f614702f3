"""Pick the way of a prediction: images and videos on this machine, or images on a Ray cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.options import announcer, write_submission
from panformer_cli.cli.predict.images import check_images, image_request, print_images
from panformer_cli.cli.predict.on_ray import check_ray, run_on_ray
from panformer_cli.cli.predict.videos import check_videos, only_images, print_videos, video_request, videos_json

if TYPE_CHECKING:
    from panformer_cli.cli.predict.options import PredictOptions
    from panformer_cli.engine.distributed.runtime import Process
    from panformer_cli.engine.inputs.find import FoundInputs
    from panformer_cli.engine.predict import PredictResult
    from panformer_cli.engine.video.predict import VideoResults
    from panformer_cli.reporting import Reporter


def run(options: PredictOptions) -> int:
    """Predict all inputs, print the results, and return the exit code: 1 if some inputs failed."""
    # Before a checkpoint is looked for, which may be downloaded.
    if options.ray is not None:
        check_ray(options)
    else:
        check_images(options)
    with options.compute.joined() as (process, reporter):
        found, checkpoint = process.on_first(lambda: _find(options, reporter))
        if options.ray is not None:
            return run_on_ray(options, options.ray, found.images, checkpoint)
        results = _predict(options, found, checkpoint, process, reporter)
        if process.is_first:
            _show(options, *results, reporter)
    return 1 if any(part is not None and part.failures for part in results) else 0


def _find(options: PredictOptions, reporter: Reporter) -> tuple[FoundInputs, Path]:
    """Return the images and videos of the inputs, and the checkpoint."""
    from panformer_cli.engine.inputs.find import find_inputs
    from panformer_cli.engine.runs import find_checkpoint

    # Invalid inputs are reported before weights are downloaded.
    inputs = options.inputs
    found = find_inputs(inputs.given, options.results.out, inputs.ids_from, inputs.images, only_images(options))
    check_videos(options, found.videos)
    announce = announcer(options.results.as_json, reporter)
    return found, find_checkpoint(options.model.checkpoint, reporter, "r50", announce)


def _predict(
    options: PredictOptions,
    found: FoundInputs,
    checkpoint: Path,
    process: Process,
    reporter: Reporter,
) -> tuple[PredictResult | None, VideoResults | None]:
    """Return the results of the images and of the videos; None for those that there are none of."""
    images, videos = None, None
    if found.images.images:
        from panformer_cli.engine.predict import predict

        images = predict(image_request(options, found.images, checkpoint), process, reporter)
    else:
        for note in found.images.notes:
            reporter.message(note)
    if found.videos:
        from panformer_cli.engine.video.predict import predict_videos

        videos = predict_videos(video_request(options, found.videos, checkpoint), process, reporter)
    return images, videos


def _show(
    options: PredictOptions, images: PredictResult | None, videos: VideoResults | None, reporter: Reporter
) -> None:
    """Pack the submission, and print the results."""
    results = options.results
    if results.submission:
        write_submission(results.submission, results.out, reporter)
    if results.as_json:
        click.echo(json.dumps(_content(images, videos), indent=2))
        return
    if images is not None:
        print_images(images, results.output, results.out)
    if videos is not None:
        print_videos(videos, results.out / "videos")


def _content(images: PredictResult | None, videos: VideoResults | None) -> dict[str, Any]:
    """Return what `--json` prints."""
    content: dict[str, Any] = {"panoptic": images.content} if images else {}
    if videos is not None:
        content["videos"] = videos_json(videos)
    return {**content, "failures": [failure for part in (images, videos) if part for failure in part.failures]}
