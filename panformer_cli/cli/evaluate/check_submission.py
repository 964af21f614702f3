"""`panformer evaluate check-submission`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from panformer_cli.cli.options import FORMS

if TYPE_CHECKING:
    from panformer_cli.submission.forms import FormName


@click.command()
@click.argument("archive", metavar="FILE.zip", type=click.Path(path_type=Path))
@click.option(
    "--images",
    required=True,
    type=click.Path(path_type=Path),
    metavar="INFO.json",
    help="The images to segment, as the server lists them: an image info, or a panoptic JSON.",
)
@click.option("--form", type=click.Choice(FORMS), default="coco", show_default=True, help="The server's.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def action(ctx: click.Context, archive: Path, images: Path, form: FormName, as_json: bool) -> None:
    """Find what a test server would refuse in FILE.zip: names, ids, missing images, colours, sizes.

    Exit code 1 where something was found.

    \b
    panformer evaluate check-submission panoptic_test-dev2017_mine_results.zip --images image_info_test-dev2017.json
    """
    from panformer_cli.console import RichReporter, print_table
    from panformer_cli.submission.checks import check_submission
    from panformer_cli.submission.forms import FORMS as KNOWN

    report = check_submission(archive, images, KNOWN[form], RichReporter())
    rows = [(problem.value, count) for problem, count in report.counts.items()]
    if as_json:
        findings = [
            {"problem": finding.problem.value, "image": finding.image, "sentence": finding.sentence}
            for finding in report.findings
        ]
        content = {"good": report.is_good, "images": report.images, "counts": dict(rows), "findings": findings}
        click.echo(json.dumps(content, indent=2))
    elif report.is_good:
        click.echo(f"{archive} is as the server wants it: {report.images} images")
    else:
        print_table(f"What the server would refuse in {archive}", ("problem", "times"), rows)
        for finding in report.findings:
            click.echo(finding.sentence)
    ctx.exit(0 if report.is_good else 1)
