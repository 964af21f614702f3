"""Compare the PQ of an evaluation with that of panopticapi."""

from __future__ import annotations

from pathlib import Path

from panformer_cli.data.coco.annotation_index import open_annotation
from panformer_cli.data.coco.image_pairing import pair_images
from panformer_cli.data.coco.panoptic_json import read_predictions
from panformer_cli.engine.evaluation.compare import read_overlaps
from panformer_cli.engine.evaluation.evaluate import read_metrics
from panformer_cli.engine.results import RECORDS
from panformer_cli.metrics.cross_check import cross_check
from panformer_cli.metrics.quality import PanopticQuality


def check_against_panopticapi(evaluation: Path) -> None:
    """Run panopticapi on the files of an evaluation folder and compare the results.

    Raises:
        PanformerError: as `metrics.cross_check`.
    """
    metrics = read_metrics(evaluation)
    truth = open_annotation(evaluation / metrics["annotation"])
    predicted = read_predictions(evaluation / metrics["predictions"], truth.categories)
    pairs = pair_images(truth, predicted).partners(truth, predicted)
    partners = {image_id: info.id for image_id, info in pairs.items()}
    quality = PanopticQuality(truth.categories)
    for overlap in read_overlaps(evaluation / RECORDS):
        quality.update(overlap)
    names = ("annotation", "truth_pngs", "predictions", "predicted_pngs")
    annotation, truth_pngs, predictions, predicted_pngs = (evaluation / metrics[name] for name in names)
    cross_check(annotation, truth_pngs, predictions, predicted_pngs, quality.result(), partners, predicted.ids_by_name)
