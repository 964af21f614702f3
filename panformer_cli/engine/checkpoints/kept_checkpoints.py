"""The checkpoints of earlier steps that a run keeps (`train.keep_last` and `train.keep_every`)."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress

from panformer_cli.engine.checkpoints.checkpoint import TrainProgress
from panformer_cli.engine.runs import RunFolder
from panformer_cli.settings import TrainSettings
from panformer_cli.storage.files import atomic_write


def keeps_checkpoints(settings: TrainSettings) -> bool:
    """Return whether a run keeps earlier checkpoints."""
    return settings.keep_last > 0 or settings.keep_every is not None


def is_kept(settings: TrainSettings, progress: TrainProgress, step: int) -> bool:
    """Return whether a step is the end of an epoch whose checkpoint `train.keep_every` keeps."""
    return settings.keep_every is not None and step % (settings.keep_every * progress.steps_per_epoch) == 0


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
    """Delete earlier checkpoints, except the newest `keep_last` and those of every `keep_every`-th epoch.

    Checkpoints of later steps, which a run has after it went back, are deleted, too.
    """
    steps = {run.step_of(path): path for path in run.step_checkpoints}
    earlier = [step for step in steps if step < progress.step]
    kept = set(earlier[len(earlier) - settings.keep_last :] if settings.keep_last else [])
    kept |= {step for step in earlier if is_kept(settings, progress, step)}
    for step in steps.keys() - kept:
        with suppress(OSError):
            steps[step].unlink()
