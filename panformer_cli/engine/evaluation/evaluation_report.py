"""The page of an evaluation, made of what it left in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from panformer_cli.data.coco.annotation_index import open_annotation
from panformer_cli.data.coco.panoptic_annotation import PanopticAnnotation
from panformer_cli.data.coco.panoptic_json import read_predictions
from panformer_cli.engine.evaluation.compare import read_records
from panformer_cli.engine.evaluation.evaluate import read_metrics
from panformer_cli.engine.evaluation.report import ImageFiles, ReportRequest, write_report
from panformer_cli.files import name_inside
from panformer_cli.metrics.cross_check import cross_check
from panformer_cli.metrics.quality import PanopticQuality
from panformer_cli.reporting import Reporter


def report_on(evaluation: Path, out: Path, reporter: Reporter) -> Path:
    """Write the report of an evaluation folder to `OUT/index.html` and `OUT/images/`; gives the page.

    Raises:
        PanformerError: a file of the evaluation, or a picture, is missing or damaged.
    """
    figures = read_metrics(evaluation)
    truth = open_annotation(Path(figures["annotation"]))
    predictions = read_predictions(evaluation / figures["predictions"], truth.categories)
    request = ReportRequest(
        out,
        figures,
        truth.categories,
        _Files(evaluation, figures, truth, predictions),
        json.loads((evaluation / "analysis.json").read_text(encoding="utf-8")),
    )
    return write_report(request, read_records(evaluation / "records.jsonl"), figures["images"], reporter)


class _Files:
    """The files of an image by its id."""

    def __init__(
        self, evaluation: Path, figures: dict[str, Any], truth: PanopticAnnotation, predictions: PanopticAnnotation
    ) -> None:
        self._truth = {info.id: info for info in truth.images}
        self._predicted = {info.id: info.png_name for info in predictions.images}
        self._folders = {name: evaluation / figures[name] for name in ("photos", "truth_pngs", "predicted_pngs")}
        self._where = figures["annotation"]

    def __call__(self, image_id: int | str) -> ImageFiles:
        info = self._truth[image_id]
        names = {"photos": info.file_name, "truth_pngs": info.png_name, "predicted_pngs": self._predicted[image_id]}
        paths = {kind: name_inside(self._folders[kind], name, self._where) for kind, name in names.items()}
        photo = paths["photos"] if paths["photos"].is_file() else None
        return ImageFiles(photo, paths["truth_pngs"], paths["predicted_pngs"])


def check_against_panopticapi(evaluation: Path) -> None:
    """Run panopticapi on what an evaluation folder is about; errors as `metrics.cross_check`."""
    figures = read_metrics(evaluation)
    truth = open_annotation(Path(figures["annotation"]))
    quality = PanopticQuality(truth.categories)
    for record in read_records(evaluation / "records.jsonl"):
        quality.update(record)
    names = ("annotation", "truth_pngs", "predictions", "predicted_pngs")
    annotation, truth_pngs, predictions, predicted_pngs = (evaluation / figures[name] for name in names)
    cross_check(annotation, truth_pngs, predictions, predicted_pngs, quality.result())
