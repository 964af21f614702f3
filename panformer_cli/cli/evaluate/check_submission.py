"""`panformer evaluate check-submission`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.evaluate.options import PATH
from panformer_cli.cli.evaluate.routing import Subcommand
from panformer_cli.cli.options import FORMS
from panformer_cli.wording import counted

if TYPE_CHECKING:
    from panformer_cli.submission.findings import SubmissionReport
    from panformer_cli.submission.forms import FormName


@click.command(cls=Subcommand)
@click.argument("archive", metavar="FILE.zip", type=PATH)
@click.option(
    "--images",
    required=True,
    type=PATH,
    metavar="INFO.json",
    help="Images of the test split: the image info file of the benchmark, or a panoptic JSON.",
)
@click.option("--form", type=click.Choice(FORMS), default="coco", show_default=True, help="Format of the test server.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def check_submission(ctx: click.Context, archive: Path, images: Path, form: FormName, as_json: bool) -> None:
    """Check a zip file before uploading it to a test server.

    Reports everything in FILE.zip that the server would reject: names, ids, missing images, color types and sizes of
    PNGs. The exit code is 1 if there are any.

    \b
    panformer evaluate check-submission panoptic_test-dev2017_mine_results.zip --images image_info_test-dev2017.json
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.submission.checks import check_submission as check
    from panformer_cli.submission.forms import FORMS as KNOWN

    report = check(archive, images, KNOWN[form], RichReporter())
    if as_json:
        click.echo(json.dumps(_as_json(report), indent=2))
    elif report.is_good:
        click.echo(f"{archive} is a valid submission: {counted(report.images, 'image')}")
    else:
        _print(archive, report)
    ctx.exit(0 if report.is_good else 1)


def _as_json(report: SubmissionReport) -> dict[str, Any]:
    findings = [
        {"problem": finding.problem.name.lower(), "image": finding.image, "sentence": finding.sentence}
        for finding in report.findings
    ]
    counts = {problem.name.lower(): count for problem, count in report.counts.items()}
    return {"good": report.is_good, "images": report.images, "counts": counts, "findings": findings}


def _print(archive: Path, report: SubmissionReport) -> None:
    from panformer_cli.console import print_table

    rows = [(problem.value, count) for problem, count in report.counts.items()]
    print_table(f"Problems in {archive}", ("problem", "count"), rows)
    for finding in report.findings:
        click.echo(finding.sentence)
