"""Checks of a run's data before training starts."""

from __future__ import annotations

from pathlib import Path

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.errors import DataError
from panformer_cli.reporting import Reporter


def check_coverage(data: CocoPanoptic, validation: CocoPanoptic, allow_no_segments: bool, reporter: Reporter) -> None:
    """Warn of a split without segments or with more void than segments.

    Raises:
        DataError: The training split has no segment, unless `allow_no_segments`.
    """
    coverages = {split.layout.annotation: split.coverage() for split in (validation, data)}
    problems = {path: coverage.problem(str(path)) for path, coverage in coverages.items()}
    training = data.layout.annotation
    if coverages[training].is_empty and not allow_no_segments:
        raise DataError(f"{problems[training]}; to train without segments, pass --set data.allow_no_segments=true")
    for problem in filter(None, problems.values()):
        reporter.warn(problem)


def check_same_categories(train: CategoryTable, validation: CategoryTable, root: Path) -> None:
    """Raise DataError if the two splits in `root` have different categories."""
    if not train.has_labels_of(validation):
        raise DataError(
            f"{root}: the training and validation annotations have different categories; expected one table"
        )
