"""`panformer prepare-data verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from panformer_cli.cli.prepare_data.options import splits_option, workers_option
from panformer_cli.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panformer_cli.verify.check import SplitReport


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@splits_option
@click.option("--fix", is_flag=True, help="Repair what has only one correct fix. Keeps the old JSON.")
@click.option("--decode-images", is_flag=True, help="Decode images instead of reading only their headers.")
@workers_option
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def verify(
    root: Path, splits: tuple[str, ...], fix: bool, decode_images: bool, workers: int | None, as_json: bool
) -> int:
    """Find and repair problems in a data set.

    Checks every image, PNG and annotation in the folder ROOT. docs/data.md lists the checks and what --fix repairs. The
    exit code is 1 if errors remain. Warnings do not count.

    \b
    panformer prepare-data verify /data/coco
    panformer prepare-data verify data/mine --split val --fix
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.data.parallel import available_cores
    from panformer_cli.verify.check import VerifyOptions
    from panformer_cli.verify.check import verify as check

    options = VerifyOptions(workers or available_cores(), decode_images, fix)
    reports = check(root, splits, options, RichReporter())
    if as_json:
        click.echo(json.dumps({"root": str(root), "splits": [report.to_json() for report in reports]}, indent=2))
    else:
        _print_findings(root, reports)
    return 0 if all(report.is_good for report in reports) else 1


def _print_findings(root: Path, reports: Sequence[SplitReport]) -> None:
    """Print a table of problems, the first examples of each, and the status of each split."""
    from panformer_cli.console import print_table

    found = [(report, problem) for report in reports for problem in report.problems]
    if found:
        columns = ("split", "severity", "count", "can be fixed", "problem")
        rows = [(r.split, p.problem.severity, p.count, p.fixable, p.problem.value) for r, p in found]
        print_table(f"Findings in {root}", columns, rows)
        for _, problem in found:
            click.echo(f"{problem.problem.value}:")
            for sentence in problem.examples[:3]:
                click.echo(f"  {sentence}")
        click.echo()
    for report in reports:
        errors = "no errors" if report.is_good else "errors"
        state = "left" if report.fixed else "found"
        click.echo(
            f"{report.split}: {counted(report.images, 'image')}, {counted(report.segments, 'segment')}, "
            f"{errors} {state}"
        )
        for sentence in report.unlisted:
            click.echo(f"  {sentence}")
        if report.fixed:
            changes = counted(report.fixed.changes, "change")
            click.echo(f"  {changes}, listed in {report.fixed.listed_in}; the old JSON is {report.fixed.backup}")
