"""Pick the way of a prediction: images and videos on this machine, or images on a Ray cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.options import announcer, write_submission
from panformer_cli.cli.predict.images import check_images, image_request, print_images
from panformer_cli.cli.predict.on_ray import check_ray, run_on_ray
from panformer_cli.cli.predict.videos import check_videos, print_videos, video_request, videos_json

if TYPE_CHECKING:
    from panformer_cli.cli.predict.options import PredictOptions
    from panformer_cli.engine.distributed.runtime import Process
    from panformer_cli.engine.inputs.find import InputImages
    from panformer_cli.engine.predict import PredictResult
    from panformer_cli.engine.video.inputs import InputVideo
    from panformer_cli.engine.video.predict import VideoResults
    from panformer_cli.reporting import Reporter


def run(options: PredictOptions) -> int:
    """Predict all inputs, print the results, and return the exit code: 1 if some inputs failed."""
    from panformer_cli.engine.video.inputs import split_inputs

    videos, others = split_inputs(options.inputs.given)
    _check(options, videos)
    with options.compute.joined() as (process, reporter):
        images, checkpoint = process.on_first(lambda: _find(options, others, reporter))
        if options.ray is not None and images is not None:
            return run_on_ray(options, options.ray, images, checkpoint)
        results = _predict(options, images, videos, checkpoint, process, reporter)
        if process.is_first:
            _show(options, *results, reporter)
    return 1 if any(part is not None and part.failures for part in results) else 0


def _check(options: PredictOptions, videos: Sequence[InputVideo]) -> None:
    """Check the options before a checkpoint is looked for, which may be downloaded."""
    if options.ray is not None:
        check_ray(options, videos)
        return
    check_videos(options, videos)
    check_images(options)


def _find(options: PredictOptions, inputs: Sequence[str], reporter: Reporter) -> tuple[InputImages | None, Path]:
    """Return the images of the inputs, if there are any, and the checkpoint."""
    from panformer_cli.engine.inputs.find import find_images
    from panformer_cli.engine.runs import find_checkpoint

    # Invalid inputs are reported before weights are downloaded.
    given, out = options.inputs, options.results.out
    images = find_images(inputs, out, given.ids_from, given.images) if inputs else None
    announce = announcer(options.results.as_json, reporter)
    return images, find_checkpoint(options.model.checkpoint, reporter, "r50", announce)


def _predict(
    options: PredictOptions,
    images: InputImages | None,
    videos: Sequence[InputVideo],
    checkpoint: Path,
    process: Process,
    reporter: Reporter,
) -> tuple[PredictResult | None, VideoResults | None]:
    """Return the results of the images and of the videos; None for those that there are none of."""
    of_images, of_videos = None, None
    if images is not None:
        from panformer_cli.engine.predict import predict

        of_images = predict(image_request(options, images, checkpoint), process, reporter)
    if videos:
        from panformer_cli.engine.video.predict import predict_videos

        of_videos = predict_videos(video_request(options, videos, checkpoint), process, reporter)
    return of_images, of_videos


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
