"""`panformer predict`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.network_options import network_options
from panformer_cli.cli.options import (
    Compute,
    Submission,
    announcer,
    compute_options,
    speed_options,
    submission_options,
    write_submission,
)
from panformer_cli.cli.other_names import answer_to
from panformer_cli.cli.predict_on_ray import check_ray, ray_options, ray_output, run_on_ray
from panformer_cli.cli.predict_options import inference_options, output_options, video_options
from panformer_cli.cli.predict_videos import print_videos, video_output, videos_json
from panformer_cli.wording import counted

if TYPE_CHECKING:
    from panformer_cli.engine.combined.options import InferenceOptions
    from panformer_cli.engine.inference_changes import InferenceChanges
    from panformer_cli.engine.inputs.find import InputImages
    from panformer_cli.engine.on_ray.options import RayOptions
    from panformer_cli.engine.outputs.options import OutputOptions
    from panformer_cli.engine.precision import PrecisionChoice
    from panformer_cli.engine.predict import PredictResult
    from panformer_cli.engine.video.options import VideoOptions
    from panformer_cli.engine.video.predict import VideoResults


def _check_inputs(ctx: click.Context, parameter: click.Parameter, inputs: tuple[str, ...]) -> tuple[str, ...]:
    """Raise a UsageError if an input is an option as other tools have it, such as `conf=0.5`, and not a file."""
    del parameter
    for text in inputs:
        name, equals, _ = text.partition("=")
        answer = answer_to(ctx.command_path, name) if equals else None
        if answer and not Path(text).exists():
            raise click.UsageError(answer.replace(f"no {name};", f"no {name}=;"), ctx)
    return inputs


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", callback=_check_inputs)
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the results."
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="C",
    help="File, run folder or name of published weights. [default: the newest run, else r50]",
)
@click.option(
    "--ids-from",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="JSON",
    help="JSON whose image ids are used, by file name. [default: the data set of the images, if any]",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Folder of the images that a COCO JSON lists. [default: COCO's folder of the split, or that of the JSON]",
)
@click.option("--resume", is_flag=True, help="Resume an interrupted prediction, and retry the images that failed.")
@output_options
@inference_options
@network_options
@video_options
@ray_options
@submission_options
@speed_options
@compute_options
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def predict(
    inputs: tuple[str, ...],
    out: Path,
    checkpoint: Path | None,
    ids_from: Path | None,
    images: Path | None,
    resume: bool,
    output: OutputOptions,
    changes: InferenceChanges,
    inference: InferenceOptions,
    video: VideoOptions,
    ray: RayOptions | None,
    submission: Submission | None,
    batch_size: int,
    precision: PrecisionChoice,
    compute: Compute,
    as_json: bool,
) -> int:
    """Segment images and videos.

    INPUT is an image file, a folder, a glob pattern, a zip archive, an http or https address, a text file with names, a
    COCO JSON, or - for standard input: an image, or names. Writes DIR/overlays/<name>.jpg, DIR/panoptic/<name>.png (the
    segment id of every pixel, encoded as in COCO) and DIR/panoptic.json (all segments); --save chooses other outputs.
    Images that cannot be read are reported and skipped, and the exit code is 1.

    INPUT can also be a video file or the number of a camera, 0 for the first one. Writes DIR/videos/<name>.webm or with
    another suffix, without audio, and DIR/videos/<name>.json, in which segments have a track_id that stays with an
    object. Ctrl-C keeps the frames so far.

    \b
    panformer predict photos --out predictions
    panformer predict a.jpg 'more/*.png' --out predictions --checkpoint best.safetensors
    panformer predict photos --out predictions --checkpoint swinl
    panformer predict aerial.tif --out predictions --tile 1024 --tile-overlap 128
    panformer predict https://host/a.jpg photos.zip list.txt --out predictions
    cat a.jpg | panformer predict - --out predictions
    panformer predict photos --out predictions --gallery
    panformer predict photos --out people --save cutouts,segments --classes person --threshold 0.5
    panformer predict clip.mp4 --out viz --stride 2
    panformer predict s3://bucket/photos --out /shared/results --checkpoint swinl --engine ray
    panformer predict images/test-dev2017 --out predictions --submission panoptic_test-dev2017_mine_results.zip
    """
    if ray is None and submission and not {"panoptic", "json"} <= set(output.save):
        raise click.UsageError("--submission packs the outputs panoptic and json: add them to --save.")
    from panformer_cli.engine.inputs.find import find_images
    from panformer_cli.engine.predict import PredictRequest
    from panformer_cli.engine.predict import predict as run_prediction
    from panformer_cli.engine.runs import find_checkpoint
    from panformer_cli.engine.video.inputs import split_inputs
    from panformer_cli.engine.video.options import VideoOptions

    videos, others = split_inputs(inputs)
    of_video = video_output(output) if videos else output
    if videos and (resume or submission or output.gallery):
        raise click.UsageError(
            "--resume, --submission and --gallery are for images: predict videos with a call of their own."
        )

    if not videos and video != VideoOptions():
        raise click.UsageError("--stride and --track-memory are for videos and cameras: no input is one.")
    if ray is not None:
        check_ray(compute, bool(videos or submission or output.gallery))
        output = ray_output(output)

    def find() -> tuple[InputImages | None, Path]:
        output.saving  # noqa: B018 (reports unknown outputs)
        # Invalid inputs are reported before weights are downloaded.
        found = find_images(others, out, ids_from, images) if others else None
        return found, find_checkpoint(checkpoint, reporter, "r50", announcer(as_json, reporter))

    with compute.joined() as (process, reporter):
        found, weights = process.on_first(find)
        common = (weights, out, batch_size, precision)
        result, video_results = None, None
        if found is not None:
            request = PredictRequest(found, *common, output=output, changes=changes, resume=resume, inference=inference)
            if ray is not None:
                return run_on_ray(request, ray, compute, as_json)
            result = run_prediction(request, process, reporter)
        if videos:
            from panformer_cli.engine.video.predict import VideoRequest, predict_videos

            video_request = VideoRequest(videos, *common, of_video, changes, video, inference)
            video_results = predict_videos(video_request, process, reporter)
        if process.is_first and submission:
            write_submission(submission, out, reporter)
        if process.is_first and as_json:
            click.echo(json.dumps(_content(result, video_results), indent=2))
        elif process.is_first:
            _print_all(result, video_results, "overlays" if "overlay" in output.save else "results", out)
        return 1 if any(part is not None and part.failures for part in (result, video_results)) else 0


def _content(result: PredictResult | None, videos: VideoResults | None) -> dict[str, Any]:
    """Return what `--json` prints."""
    content: dict[str, Any] = {"panoptic": result.content} if result else {}
    if videos is not None:
        content["videos"] = videos_json(videos)
    return {**content, "failures": [failure for part in (result, videos) if part for failure in part.failures]}


def _print_all(result: PredictResult | None, videos: VideoResults | None, what: str, out: Path) -> None:
    """Print the results of images and of videos."""
    if result is not None:
        _print(result, what, out)
        if result.gallery:
            click.echo(f"Gallery: {result.gallery}")
    if videos is not None:
        print_videos(videos, out / "videos")


def _print(result: PredictResult, what: str, out: Path) -> None:
    """Print one line per image, and a summary with the folder of `what`, overlays or results."""
    for image, annotation in result.rows():
        names = Counter(segment["category_name"] for segment in annotation["segments_info"])
        listed = ", ".join(name if count == 1 else f"{count} {name}" for name, count in names.most_common())
        click.echo(f"{image['file_name']}: {listed or 'no segments'}")
    where = out / "overlays" if what == "overlays" else out
    click.echo(f"{counted(result.images, 'image')} segmented, {len(result.failures)} failed; {what}: {where}")
