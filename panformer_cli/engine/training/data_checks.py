"""Checks of a run's data before training starts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_png import expect_reads
from panformer_cli.data.parallel import available_cores, map_in_order
from panformer_cli.errors import DataError, RecipeError
from panformer_cli.reporting import Reporter, SilentReporter
from panformer_cli.settings import DataSettings, TrainSettings
from panformer_cli.wording import counted, with_first

MANY_IMAGES = 200
"""Number of validation images from which on worker processes and a progress bar pay off."""


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


def check_validation_images(data: CocoPanoptic, settings: DataSettings, reporter: Reporter) -> None:
    """Read every validation image as an evaluation does, before hours are spent on training.

    Raises:
        DataError: Some of them cannot be used; with `data.skip_bad_images` only if none can, and else a warning.
    """
    if not settings.check_validation:
        return
    expect_reads(len(data))
    is_slow = len(data) >= MANY_IMAGES
    workers = min(settings.workers, available_cores()) if is_slow else 1
    shown, problems = reporter if is_slow else SilentReporter(), []
    with shown.progress("Checking the validation images", len(data)) as progress:
        for problem in map_in_order(partial(_problem, data), range(len(data)), max(workers, 1)):
            problems += [] if problem is None else [problem]
            progress.advance()
    if not problems:
        return
    bad = f"{len(problems)} of {counted(len(data), 'validation image')} cannot be used"
    if not settings.skip_bad_images:
        advice = "repair them, leave them out with --set data.skip_bad_images=true, or set data.check_validation=false"
        raise DataError(with_first(f"{bad}; {advice}:", problems))
    if len(problems) == len(data):
        raise DataError(with_first(f"{bad}, so nothing could be evaluated; repair them:", problems))
    reporter.warn(with_first(f"{bad}, so PQ is without them:", problems))


def _problem(data: CocoPanoptic, index: int) -> str | None:
    """Return why an image cannot be used; None if it can."""
    try:
        data[index]
    except DataError as error:
        return str(error)
    return None


def check_length(train: TrainSettings, images: int, steps_per_epoch: int, reporter: Reporter) -> None:
    """Check the settings of a new run that depend on the number of training images.

    Warn if an optimizer step needs more images than there are, or if `train.max_steps` stops the run in its warm-up.

    Raises:
        RecipeError: The warm-up takes the whole run.
    """
    if train.batch_size > images:
        reporter.warn(
            f"train.batch_size is {train.batch_size}, but the training split has {counted(images, 'image')}: each "
            f"optimizer step repeats some of them; use --set train.batch_size={images} or less"
        )
    steps = train.epochs * steps_per_epoch
    if train.warmup_steps >= steps:
        raise RecipeError(
            f"train.warmup_steps is {train.warmup_steps}, but the run has only {counted(steps, 'step')} "
            f"({counted(train.epochs, 'epoch')} of {counted(steps_per_epoch, 'step')}), so the learning rate would "
            "never reach train.lr; set train.warmup_steps lower or train.epochs higher"
        )
    if train.max_steps is not None and train.warmup_steps >= train.max_steps:
        reporter.warn(
            f"train.max_steps is {train.max_steps}, which stops the run during its warm-up of "
            f"{counted(train.warmup_steps, 'step')}"
        )
