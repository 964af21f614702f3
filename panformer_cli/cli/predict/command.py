"""The command `panformer predict`: its options and its help."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from panformer_cli.cli.options import Compute, compute_options
from panformer_cli.cli.predict.options import (
    InputOptions,
    ModelOptions,
    PredictOptions,
    ResultOptions,
    input_options,
    model_options,
    ray_options,
    result_options,
    video_options,
)
from panformer_cli.cli.predict.run import run

if TYPE_CHECKING:
    from panformer_cli.engine.on_ray.options import RayOptions
    from panformer_cli.engine.video.options import VideoOptions


@click.command()
@result_options
@model_options
@input_options
@video_options
@ray_options
@compute_options
def predict(
    inputs: InputOptions,
    results: ResultOptions,
    model: ModelOptions,
    video: VideoOptions,
    ray: RayOptions | None,
    compute: Compute,
) -> int:
    """Segment images and videos.

    INPUT is an image file, a folder, a glob pattern, a zip archive, an http or https address, a text file with names, a
    COCO JSON, or - for standard input: an image, or names. Writes DIR/overlays/<name>.jpg, DIR/panoptic/<name>.png (the
    segment id of every pixel, encoded as in COCO) and DIR/panoptic.json (all segments); --save chooses other outputs.
    Images that cannot be read are reported and skipped, and the exit code is 1.

    INPUT can also be a video file or the number of a camera, 0 for the first one; videos in folders, archives and lists
    are segmented, too. Writes DIR/videos/<name>.webm or with
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
    return run(PredictOptions(inputs, results, model, video, ray, compute))
