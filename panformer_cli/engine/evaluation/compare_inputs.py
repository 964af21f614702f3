"""Compare what the user names: result folders, runs, checkpoints, or predictions on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from panformer_cli.data.coco.panoptic_pairs import PanopticPairs
from panformer_cli.engine.checkpoints.hub_models import find_hub_model, is_hub_reference
from panformer_cli.engine.checkpoints.model_folders import find_model_folder, is_model_folder, is_reference
from panformer_cli.engine.checkpoints.published import PUBLISHED
from panformer_cli.engine.evaluation.compare import (
    CompareOptions,
    Comparison,
    EvaluatedSet,
    compare_sets,
    read_evaluation,
)
from panformer_cli.engine.results import METRICS
from panformer_cli.engine.runs import RunFolder, results_folder
from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import ImageOverlap, compare
from panformer_cli.reporting import Reporter, SilentReporter
from panformer_cli.storage.files import file_stamp
from panformer_cli.storage.plain_json import parse as parse_json


def compare_inputs(
    given: tuple[Path, Path],
    annotations: Path | None,
    gt_folder: Path | None,
    options: CompareOptions,
    reporter: Reporter,
) -> Comparison:
    """Compare two evaluations, each a result folder, a run folder, a checkpoint or a panoptic JSON of predictions.

    Args:
        given: The two inputs.
        annotations: Ground truth of the predictions; None if there are none.
        gt_folder: Its PNGs; None for the folder beside it.
        options: How to compare.
        reporter: Receives messages and progress.

    Raises:
        DataError: An input has no evaluation or an outdated one; and as `PanopticPairs` and `compare_sets`.
    """
    first, second = (_evaluated(path, annotations, gt_folder, reporter) for path in given)
    return compare_sets(first, second, options)


def evaluation_of(given: Path) -> Path:
    """Return the result folder that the user means by a result folder, a run folder or a checkpoint.

    Raises:
        DataError: The run or checkpoint is not evaluated, or its evaluation is that of other weights.
    """
    checkpoint = checkpoint_of(given)
    if checkpoint is None:
        return given
    folder = results_folder(checkpoint)
    if not (folder / METRICS).is_file():
        raise DataError(f"{given} has no evaluation in {folder}; evaluate it first: panformer evaluate {given}")
    if not is_evaluation_of(checkpoint, folder):
        raise DataError(
            f"{folder} has the evaluation of other weights than {checkpoint}; evaluate it first: panformer evaluate "
            f"{given}; to keep both evaluations, add --out DIR and compare DIR"
        )
    return folder


def _evaluated(given: Path, annotations: Path | None, gt_folder: Path | None, reporter: Reporter) -> EvaluatedSet:
    if annotations is None or given.suffix != ".json":
        found = read_evaluation(evaluation_of(given))
        return EvaluatedSet(str(given), found.categories, found.overlaps)
    pairs = PanopticPairs(annotations, given, gt_folder)
    for note in pairs.notes:
        reporter.message(note)
    return EvaluatedSet(str(given), pairs.categories, _overlaps(pairs, reporter))


def checkpoint_of(given: Path) -> Path | None:
    """Return the checkpoint that the user means; None if it is not one, but may be a result folder."""
    if is_reference(given):
        return find_model_folder(given, SilentReporter())
    if is_hub_reference(given):
        return find_hub_model(given, SilentReporter())
    if given.is_dir():
        if (given / METRICS).is_file():
            return None
        return given if is_model_folder(given) else RunFolder(given).checkpoint
    if not given.exists():
        return PUBLISHED[str(given)].path if str(given) in PUBLISHED else None
    return given if given.suffix in (".safetensors", ".pth") else None


def is_evaluation_of(checkpoint: Path, folder: Path) -> bool:
    """Return whether size and time of the checkpoint are those that the evaluation recorded; a run may be moved."""
    try:
        _, *stamp = parse_json((folder / METRICS).read_bytes())["settings"]["checkpoint"]
        _, *actual = file_stamp(checkpoint)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(stamp == actual)


def _overlaps(pairs: PanopticPairs, reporter: Reporter) -> Iterator[ImageOverlap]:
    with reporter.progress("Counting", len(pairs)) as progress:
        for index in range(len(pairs)):
            prediction, truth = pairs[index]
            info = pairs.image_info(index)
            yield compare(prediction, truth, info.id, info.file_name)
            progress.advance()
