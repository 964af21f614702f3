"""What `panformer evaluate checkpoint` and `predictions` do with their results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli.evaluate.options import PATH
from panformer_cli.cli.option_group import option_group
from panformer_cli.cli.options import json_option
from panformer_cli.cli.tables import print_both_mergings, print_causes, print_label_errors, print_metrics

if TYPE_CHECKING:
    from panformer_cli.reporting import Reporter


ON_PAGE = 200
"""Default number of probable label errors on their page."""


@dataclass(frozen=True)
class Outputs:
    """What to do with the results.

    Attributes:
        report: Folder for an HTML page; None for no page.
        cross_check: Whether to compare PQ with that of panopticapi.
        as_json: Whether to print JSON instead of tables.
        label_errors: Number of probable label errors on their page; None to search for none.
    """

    report: Path | None
    cross_check: bool
    as_json: bool
    label_errors: int | None

    def check(self, folder: Path) -> None:
        """Raise a PanformerError if a page or a list cannot be written, before a long evaluation into `folder`."""
        from panformer_cli.engine.results import LABEL_ERRORS, LABEL_ERRORS_PAGE, check_are_results
        from panformer_cli.pages.replacing import check_page

        if self.report is not None:
            check_page(self.report)
        if self.label_errors:
            check_are_results(folder, LABEL_ERRORS)
            check_page(folder / LABEL_ERRORS_PAGE)


@option_group(
    "outputs",
    click.option(
        "--report", type=PATH, metavar="DIR", help="Write an HTML page with all results and the worst and best images."
    ),
    click.option("--cross-check", is_flag=True, help="Also run panopticapi, and fail if its PQ differs."),
    click.option(
        "--label-errors", is_flag=True, help="List annotations that are probably wrong, as JSON and on an HTML page."
    ),
    click.option(
        "--label-errors-limit",
        type=click.IntRange(min=1),
        metavar="N",
        help=f"Number of probable label errors on the page. [default: {ON_PAGE}]",
    ),
    json_option,
)
def output_options(
    report: Path | None, cross_check: bool, label_errors: bool, label_errors_limit: int | None, as_json: bool
) -> Outputs:
    """Add the options of `Outputs`; the command receives `outputs`."""
    if report is not None and report.exists() and not report.is_dir():
        raise click.BadParameter(f"{report} is a file; expected a folder, new or existing.", param_hint="'--report'")
    if cross_check:
        from panformer_cli.metrics.cross_check import panopticapi

        panopticapi()  # report a missing package before a long evaluation
    if label_errors_limit and not label_errors:
        raise click.UsageError("--label-errors-limit limits the page of --label-errors: add --label-errors.")
    limit = (label_errors_limit or ON_PAGE) if label_errors else None
    return Outputs(report, cross_check, as_json, limit)


def show_results(
    metrics: dict[str, Any],
    folder: Path,
    outputs: Outputs,
    reporter: Reporter,
    of_transformers: dict[str, Any] | None = None,
) -> None:
    """Cross-check, report and print the results of an evaluation, as chosen in `outputs`.

    Args:
        metrics: Content of the evaluation's metrics.json.
        folder: Folder of the evaluation.
        outputs: What to do.
        reporter: Receives messages and progress.
        of_transformers: The metrics with the merging of transformers; None if they were not requested.

    Raises:
        PanformerError: panopticapi computes a different PQ, or a page cannot be written.
    """
    from panformer_cli.engine.evaluation.cross_check import check_against_panopticapi
    from panformer_cli.engine.evaluation.label_errors import report_label_errors
    from panformer_cli.engine.evaluation.report import report_evaluation
    from panformer_cli.engine.results import ANALYSIS, LABEL_ERRORS_PAGE

    if outputs.cross_check:
        check_against_panopticapi(folder)
        reporter.message("Cross-check passed: panopticapi computes the same metrics")
    page = report_evaluation(folder, outputs.report, reporter) if outputs.report else None
    suspects = report_label_errors(folder, outputs.label_errors, reporter) if outputs.label_errors else None
    if outputs.as_json:
        others = {} if of_transformers is None else {"hf_post_processing": of_transformers}
        click.echo(json.dumps({**metrics, **others}, indent=2))
        return
    if of_transformers is not None:
        print_both_mergings(metrics, of_transformers)
    print_metrics(metrics)
    print_causes(json.loads((folder / ANALYSIS).read_text(encoding="utf-8")))
    if suspects:
        print_label_errors(suspects)
    if page:
        click.echo(f"Report: {page}")
    if suspects:
        click.echo(f"Probable label errors: {folder / LABEL_ERRORS_PAGE / 'index.html'}")
