"""What changes when a run is resumed: settings, the data set, and the learning rate."""

from __future__ import annotations

from panformer_cli.engine.checkpoints.checkpoint import Checkpoint
from panformer_cli.engine.training.schedule import learning_rate_factor, total_steps
from panformer_cli.errors import PanformerError
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import recipe_differences
from panformer_cli.reporting import Reporter
from panformer_cli.settings import TrainSettings
from panformer_cli.wording import counted


def report_changes(checkpoint: Checkpoint, recipe: Recipe, steps_per_epoch: int, reporter: Reporter) -> None:
    """Report each setting that a resumed run changes, and a learning rate that jumps.

    Args:
        checkpoint: The checkpoint to resume from, with the recipe until now.
        recipe: The recipe from now on.
        steps_per_epoch: Optimizer steps of an epoch from now on.
        reporter: For the messages.

    Raises:
        PanformerError: The whole run has fewer steps than the checkpoint.
    """
    progress, before = checkpoint.progress, checkpoint.recipe
    for key, (old, new) in recipe_differences(before, recipe).items():
        reporter.message(f"Changed setting: {key} was {old!r} and is now {new!r}")
    steps_before = progress.steps_per_epoch or steps_per_epoch
    total = total_steps(recipe.train, steps_per_epoch)
    if progress.step > total:
        raise PanformerError(_too_late(progress.step, total, steps_before, steps_per_epoch, recipe.train))
    if steps_before != steps_per_epoch:
        reporter.warn(
            f"an epoch had {counted(steps_before, 'step')} and now has {steps_per_epoch}, because the number of "
            f"training images or train.batch_size changed; the run resumes after step {progress.step}, in epoch "
            f"{progress.step // steps_per_epoch}"
        )
    old_rate = progress.lr_factor * _rate(before.train, progress.step, steps_before)
    new_rate = progress.lr_factor * _rate(recipe.train, progress.step, steps_per_epoch)
    if progress.step < total and old_rate != new_rate:
        reporter.warn(
            f"the learning rate of step {progress.step + 1} changes from {old_rate:.4g} to {new_rate:.4g}: it follows "
            "the settings from now on"
        )


def _rate(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    return settings.lr * learning_rate_factor(settings, step, steps_per_epoch)


def _too_late(step: int, total: int, steps_before: int, steps_per_epoch: int, settings: TrainSettings) -> str:
    key = "max_steps" if settings.max_steps == total else "epochs"
    epochs = f" of {counted(steps_per_epoch, 'step')}" if key == "epochs" else ""
    changed = f" (an epoch had {counted(steps_before, 'step')} before)" if steps_before != steps_per_epoch else ""
    return (
        f"--resume: the run has already completed {counted(step, 'step')}, but with train.{key}="
        f"{getattr(settings, key)}{epochs}{changed} it would have only {total}; resume with the data set and settings "
        f"of the run, or raise train.{key}"
    )
