"""Train a model from Python: the stage behind `panformer train`, with its defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from panformer_cli.api.model import Model, load
from panformer_cli.api.options import overrides_of
from panformer_cli.api.reporters import reporter_of
from panformer_cli.api.wording import python_errors
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.distributed.runtime import Process, explained_out_of_memory
from panformer_cli.engine.trackers.names import TRACKERS, check_installed
from panformer_cli.engine.training.start import StartRequest, plan_start
from panformer_cli.engine.training.train import train as run_training
from panformer_cli.errors import PanformerError


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        folder: Its folder, with the recipe, the log and the checkpoints.
        checkpoint: The best checkpoint, else the last one; None if the run was stopped before it saved one.
        pq: Highest PQ of an evaluation so far, in percent; None if there was none.
        step: Number of steps that are saved.
        total_steps: Number of steps of the whole run.
        finished: Whether it is complete. Ctrl-C and other signals save and stop; `train(resume=run.folder)` continues.
    """

    folder: Path
    checkpoint: Path | None
    pq: float | None
    step: int
    total_steps: int
    finished: bool

    def load(self, **options: Any) -> Model:
        """Return the model of `checkpoint`; options as for `panformer.load`.

        Raises:
            CheckpointError: There is no checkpoint yet.
        """
        return load(self.folder, **options)


@python_errors
def train(
    recipe: str | PathLike[str] | None = None,
    *,
    out: str | PathLike[str] | None = None,
    resume: bool | str | PathLike[str] = False,
    init_from: str | PathLike[str] | None = None,
    log: Sequence[str] = (),
    fit_memory: float | None = None,
    time_limit: float | None = None,
    profile: bool = False,
    device: str = "auto",
    verbose: bool = True,
    **settings: Any,
) -> Run:
    """Train a model in this process. Several GPUs need the command line: `panformer train r50 --gpus 8`.

    Args:
        recipe: A YAML file or the name of a built-in recipe such as `tiny` or `r50`; None if a run is resumed by its
            folder.
        out: Folder of the run; None for `runs/<recipe>/<time>`.
        resume: True for the run in `out`, else the newest run of the recipe; the folder of a run; or `auto` for the run
            that the same call started before, or else a new one.
        init_from: Initial weights: a file, the folder of a run or the name of published weights.
        log: Experiment trackers that also get the log: some of `tensorboard`, `wandb`, `mlflow`, `trackio`.
        fit_memory: Bytes that the run may use; it chooses images per forward pass, precision and checkpointing.
        time_limit: Seconds after which it has saved and stopped; None for no limit.
        profile: Measure some steps, and report what limits the speed.
        device: As for `load`.
        verbose: Show progress and messages on stderr; otherwise messages go to the logger `panformer`.
        settings: Settings of the recipe, as sections or by dotted key: `train={"lr": 1e-4}, data={"root": "coco"}` or
            `**{"train.lr": 1e-4}`. The page "Settings" of the documentation lists them.

    Raises:
        RecipeError: The recipe or a setting cannot be used; all problems are listed.
        PanformerError: The data, a checkpoint or the folder cannot be used, or training diverged.
    """
    if unknown := [name for name in ((log,) if isinstance(log, str) else log) if name not in TRACKERS]:
        raise PanformerError(f"log has {', '.join(unknown)}; expected a list with some of {', '.join(TRACKERS)}")
    trackers = (log,) if isinstance(log, str) else tuple(log)
    check_installed(trackers)
    reporter, process = reporter_of(verbose), Process.single(device)
    start = plan_start(
        StartRequest(
            None if recipe is None else str(recipe),
            overrides_of(settings),
            _path(out),
            resume if isinstance(resume, bool) else str(resume),
            _path(init_from),
            fit_memory is not None,
        ),
        reporter,
    )
    options = replace(start.options, trackers=trackers, profile=profile, fit_memory=fit_memory, time_limit=time_limit)
    with explained_out_of_memory():
        result = run_training(start.recipe, options, process, reporter)
    checkpoint = result.run.checkpoint
    pq = None if checkpoint is None else read_checkpoint(checkpoint).progress.best_pq
    return Run(result.run.path, checkpoint, pq, result.saved_step or 0, result.total_steps, result.ended)


def _path(given: str | PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given)
