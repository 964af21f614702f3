"""`panformer evaluate compare`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from panformer_cli.cli.evaluate.options import PATH, seed_option
from panformer_cli.cli.evaluate.routing import Subcommand
from panformer_cli.cli.options import announcer, json_option
from panformer_cli.cli.tables import print_comparison


@click.command(cls=Subcommand)
@click.argument("first", metavar="A", type=PATH)
@click.argument("second", metavar="B", type=PATH)
@click.option("--annotations", type=PATH, metavar="GT.json", help="Ground truth, if A and B are prediction JSONs.")
@click.option("--gt-folder", type=PATH, metavar="D", help="Folder of the ground truth PNGs. [default: GT/]")
@click.option(
    "--bootstrap",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Resamples for the 95 % intervals.",
)
@seed_option
@click.option("--report", type=PATH, metavar="DIR", help="Write an HTML page.")
@json_option
def compare(
    first: Path,
    second: Path,
    annotations: Path | None,
    gt_folder: Path | None,
    bootstrap: int,
    seed: int,
    report: Path | None,
    as_json: bool,
) -> None:
    """Compare two evaluations of the same images.

    A and B are result folders of `panformer evaluate`, or evaluated run folders or checkpoints. With --annotations they
    can be panoptic JSONs of predictions. Prints the PQ of both, the difference with a paired confidence interval, the
    gain of each class, and the images that changed most.

    \b
    panformer evaluate compare runs/a runs/b --report report/
    panformer evaluate compare a.json b.json --annotations GT.json
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.engine.evaluation.compare import CompareOptions, few_images_note
    from panformer_cli.engine.evaluation.compare_inputs import checkpoint_of, compare_inputs
    from panformer_cli.pages.comparison import write_comparison

    if gt_folder is not None and annotations is None:
        raise click.UsageError("--gt-folder needs --annotations: use both.")
    announce = announcer(as_json, RichReporter())
    for side, given in (("A", first), ("B", second)):
        if (checkpoint := checkpoint_of(given)) is not None:
            announce(f"Checkpoint {side}: {checkpoint}")
    options = CompareOptions(resamples=bootstrap, seed=seed)
    content = compare_inputs((first, second), annotations, gt_folder, options, RichReporter()).to_json()
    page = write_comparison(report, content, few_images_note(content)) if report else None
    if as_json:
        click.echo(json.dumps(content, indent=2))
        return
    print_comparison(content)
    if page:
        click.echo(f"Report: {page}")
