"""Find the probable label errors of an evaluation from the files in its folder, and write a list and a page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.annotation_index import open_annotation
from panformer_cli.data.coco.panoptic_json import read_predictions
from panformer_cli.engine.evaluation.compare import read_overlaps
from panformer_cli.engine.evaluation.evaluate import read_metrics
from panformer_cli.engine.evaluation.label_error_images import draw_suspect
from panformer_cli.engine.evaluation.report_images import EvaluatedFiles
from panformer_cli.engine.results import LABEL_ERRORS, LABEL_ERRORS_PAGE, RECORDS, check_are_results
from panformer_cli.metrics.analysis.label_errors import Kind, Suspect, find_label_errors, ranked
from panformer_cli.metrics.analysis.usual_behavior import UsualBehavior
from panformer_cli.metrics.matching import match_segments
from panformer_cli.pages.base import end_of_path
from panformer_cli.pages.label_errors import LabelErrorPage, SuspectFigure, write_label_error_page
from panformer_cli.pages.replacing import PAGE, replaced_page
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import write_json

_PATHS = ("annotation", "truth_pngs", "photos", "predictions", "predicted_pngs")
"""Paths that label_errors.json repeats from metrics.json, so that it can be read without it."""


def report_label_errors(evaluation: Path, limit: int, reporter: Reporter) -> dict[str, Any]:
    """Write `label_errors.json` and `label_errors/index.html` to an evaluation folder.

    If this fails, an earlier list and page are unchanged.

    Args:
        evaluation: The folder of a complete evaluation.
        limit: Number of suspects on the page; the JSON has all of them.
        reporter: Shows the progress.

    Returns:
        The content of label_errors.json.

    Raises:
        PanformerError: A file of the evaluation or an image is missing or corrupt, or a file cannot be written or is
            of another program.
    """
    check_are_results(evaluation, LABEL_ERRORS)
    metrics = read_metrics(evaluation)
    truth = open_annotation(evaluation / metrics["annotation"])
    suspects = rank_label_errors(evaluation / RECORDS, truth.categories)
    kinds = Counter(suspect.kind for suspect in suspects)
    content = {
        **{name: metrics[name] for name in _PATHS},
        "images": metrics["images"],
        "kinds": {kind.value: kinds[kind] for kind in Kind},
        "suspects": [suspect.to_json() for suspect in suspects],
    }
    predictions = read_predictions(evaluation / metrics["predictions"], truth.categories)
    files = EvaluatedFiles(evaluation, metrics, truth, predictions)
    with replaced_page(evaluation / LABEL_ERRORS_PAGE) as folder:
        _write_page(folder, content, suspects[:limit], files, truth.categories, reporter)
    write_json(evaluation / LABEL_ERRORS, content)
    return content


def rank_label_errors(records: Path, categories: CategoryTable) -> list[Suspect]:
    """Return the probable label errors in the image overlaps of a file, the most certain first.

    The file is read twice: what is usual for the model is known only after all images.

    Raises:
        DataError: As `read_overlaps` and `match_segments`.
    """
    usual = UsualBehavior(categories)
    for overlap in read_overlaps(records):
        usual.add(overlap, match_segments(overlap, categories))
    suspects = (
        suspect
        for overlap in read_overlaps(records)
        for suspect in find_label_errors(overlap, match_segments(overlap, categories), usual, categories)
    )
    return ranked(suspects, usual, categories)


def _write_page(
    folder: Path,
    content: dict[str, Any],
    suspects: list[Suspect],
    files: EvaluatedFiles,
    categories: CategoryTable,
    reporter: Reporter,
) -> None:
    figures = []
    with reporter.progress("Label errors", len(suspects)) as progress:
        for number, suspect in enumerate(suspects, start=1):
            name = f"images/{number:05}.jpg"
            size = draw_suspect(folder / name, suspect, files(suspect.image_id), categories)
            figures.append(SuspectFigure(name, size, number, suspect))
            progress.advance()
    facts = [(key.capitalize(), end_of_path(content[key])) for key in ("annotation", "predictions")]
    write_label_error_page(folder / PAGE, LabelErrorPage(facts, content["kinds"], figures))
