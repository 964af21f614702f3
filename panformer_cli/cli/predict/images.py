"""The part of `panformer predict` that is about images on this machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from panformer_cli.wording import counted, shown

if TYPE_CHECKING:
    from panformer_cli.cli.predict.options import PredictOptions
    from panformer_cli.engine.inputs.find import InputImages
    from panformer_cli.engine.outputs.options import OutputOptions
    from panformer_cli.engine.predict import PredictRequest, PredictResult


def check_images(options: PredictOptions) -> None:
    """Check what can be checked before the images are listed.

    Raises:
        UsageError: `--submission` packs an output that is not written.
        PanformerError: An output is unknown.
    """
    output = options.results.output
    if options.results.submission and not {"panoptic", "json"} <= set(output.save):
        raise click.UsageError("--submission packs the outputs panoptic and json: add them to --save.")
    output.saving  # noqa: B018 (reports unknown outputs)


def image_request(
    options: PredictOptions, images: InputImages, checkpoint: Path, output: OutputOptions | None = None
) -> PredictRequest:
    """Return the prediction of images; `output` is what is written if it is not as in the options."""
    from panformer_cli.engine.predict import PredictRequest

    return PredictRequest(
        images,
        checkpoint,
        options.results.out,
        options.model.speed.batch_size,
        options.model.speed.precision,
        output=output or options.results.output,
        changes=options.model.changes,
        resume=options.results.resume,
        inference=options.model.inference,
    )


def print_images(result: PredictResult, output: OutputOptions, out: Path) -> None:
    """Print one line per image, and a summary with the folder of the overlays or of all results."""
    for image, annotation in result.rows():
        names = Counter(segment["category_name"] for segment in annotation["segments_info"])
        listed = ", ".join(name if count == 1 else f"{count} {name}" for name, count in names.most_common())
        click.echo(f"{shown(image['file_name'])}: {listed or 'no segments'}")
    where = f"overlays: {out / 'overlays'}" if "overlay" in output.save else f"results: {out}"
    click.echo(f"{counted(result.images, 'image')} segmented, {len(result.failures)} failed; {where}")
    if result.gallery:
        click.echo(f"Gallery: {result.gallery}")
