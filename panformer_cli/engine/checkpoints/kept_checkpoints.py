"""The checkpoints of earlier steps that a run keeps (`train.keep_last`, `train.keep_every`, `train.keep_best`)."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from panformer_cli.engine.checkpoints.checkpoint import TrainProgress, read_checkpoint
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.settings import TrainSettings
from panformer_cli.storage.files import atomic_write
from panformer_cli.wording import counted


def keeps_checkpoints(settings: TrainSettings) -> bool:
    """Return whether a run keeps earlier checkpoints."""
    return settings.keep_last > 0 or settings.keep_best > 0 or settings.keep_every is not None


def epochs_to_keep(settings: TrainSettings, progress: TrainProgress, step: int) -> int:
    """Return how many epochs whose checkpoint `train.keep_every` keeps have ended after this step."""
    return step // (settings.keep_every * progress.steps_per_epoch) if settings.keep_every is not None else 0


def keep_last(run: RunFolder, step: int) -> None:
    """Keep the last checkpoint, of step `step`, before a new one replaces it; nothing if it was deleted.

    Raises:
        WriteError: The file system has no links, and the file cannot be copied.
    """
    if not run.last.is_file():
        return
    kept = run.step_checkpoint(step)
    with suppress(OSError):
        kept.unlink(missing_ok=True)
        os.link(run.last, kept)  # the new one is another file, so this one takes no more space
        return
    with atomic_write(kept) as temporary:
        shutil.copyfile(run.last, temporary)


def remove_others(run: RunFolder, settings: TrainSettings, progress: TrainProgress) -> None:
    """Delete earlier checkpoints, except the newest, the best, and those of some epochs, as the settings say.

    Checkpoints of later steps, which a run has after it went back, are deleted, too.
    """
    steps = {run.step_of(path): path for path in run.step_checkpoints}
    earlier = [step for step in steps if step < progress.step]
    kept = set(earlier[-settings.keep_last :] if settings.keep_last else [])
    ends = {epochs_to_keep(settings, progress, step): step for step in sorted(earlier, reverse=True)}
    kept |= {step for epochs, step in ends.items() if epochs}  # the first one saved after the end of each epoch
    if settings.keep_best:
        scores = {step: pq for step in earlier if (pq := recorded_pq(steps[step])) is not None}
        kept |= set(sorted(scores, key=lambda step: (scores[step], step))[-settings.keep_best :])
    for step in steps.keys() - kept:
        with suppress(OSError):
            steps[step].unlink()


def recorded_pq(path: Path) -> float | None:
    """Return the PQ of a checkpoint, in percent; None if it was not evaluated or cannot be read."""
    try:
        return read_checkpoint(path).progress.pq
    except PanformerError:
        return None


def best_checkpoints(run: RunFolder, count: int) -> list[tuple[Path, float]]:
    """Return the checkpoints of a run with the highest PQ, and their PQ in percent, from the best on.

    Raises:
        CheckpointError: The run has fewer evaluated checkpoints.
    """
    evaluated: dict[int, tuple[Path, float]] = {}
    for path in (run.best, run.last, *run.step_checkpoints):
        if path.is_file():
            progress = read_checkpoint(path).progress
            if progress.pq is not None:
                evaluated.setdefault(progress.step, (path, progress.pq))  # files of one step have the same weights
    if len(evaluated) < count:
        raise CheckpointError(
            f"{run.path} has {counted(len(evaluated), 'evaluated checkpoint')} of different steps, expected {count}; "
            f"use a smaller --best, or train with --set train.keep_best={count}"
        )
    best = sorted(evaluated, key=lambda step: (evaluated[step][1], step), reverse=True)
    return [evaluated[step] for step in best[:count]]
