"""Compare two sets of predictions on disk against one ground truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from panformer_cli.data.coco.panoptic_pairs import PanopticPairs
from panformer_cli.engine.evaluation.compare import CompareOptions, Comparison, EvaluatedSet, compare_sets
from panformer_cli.metrics.image_overlap import ImageOverlap, compare
from panformer_cli.reporting import Reporter


def compare_predictions(
    predictions: tuple[Path, Path],
    annotations: Path,
    gt_folder: Path | None,
    options: CompareOptions,
    reporter: Reporter,
) -> Comparison:
    """Compare two panoptic JSONs of predictions; their PNGs are in folders of the same names.

    Raises:
        DataError: as `PanopticPairs`, `image_overlap.compare` and `compare_sets`.
    """
    first, second = (PanopticPairs(annotations, path, gt_folder) for path in predictions)
    for note in filter(None, (first.note, second.note)):
        reporter.message(note)
    sets = [
        EvaluatedSet(str(path), pairs.categories, _overlaps(pairs, reporter))
        for path, pairs in zip(predictions, (first, second), strict=True)
    ]
    return compare_sets(sets[0], sets[1], options)


def _overlaps(pairs: PanopticPairs, reporter: Reporter) -> Iterator[ImageOverlap]:
    with reporter.progress("Counting", len(pairs)) as progress:
        for index in range(len(pairs)):
            prediction, truth = pairs[index]
            info = pairs.image_info(index)
            yield compare(prediction, truth, info.id, info.file_name)
            progress.advance()
