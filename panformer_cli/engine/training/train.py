"""Train a model: the options of a run, its folder, and where its weights come from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from panformer_cli.engine.checkpoints.checkpoint import check_backbone, read_checkpoint
from panformer_cli.engine.checkpoints.run_checkpoints import check_same_model
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.distributed.signals import stop_on_signals
from panformer_cli.engine.environment import environment
from panformer_cli.engine.runs import RunFolder, new_run, run_to_resume
from panformer_cli.engine.training.data_checks import check_length
from panformer_cli.engine.training.trainer import Trainer
from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.feature_layout import check_backbone_name
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_checks import check_batch_norm, check_run
from panformer_cli.reporting import Reporter


@dataclass(frozen=True)
class TrainOptions:
    """Options of a run that are not part of the recipe.

    Attributes:
        out: Folder of the run; None for runs/<recipe>/<time>.
        resume: Resume the run in `out`, or the newest run of the recipe.
        init_from: Checkpoint with the initial weights; its categories may differ.
    """

    out: Path | None = None
    resume: bool = False
    init_from: Path | None = None

    def __post_init__(self) -> None:
        if self.resume and self.init_from is not None:
            raise PanformerError(
                "--resume and --init-from are both given: a run resumes with its own weights; choose one of them"
            )


@dataclass(frozen=True)
class RunResult:
    """The outcome of a training run.

    Attributes:
        run: Folder of the run.
        ended: Whether the run completed its last step and evaluation; otherwise it was stopped.
        saved_step: Step of the last checkpoint; None if there is none.
        total_steps: Number of steps of the whole run.
    """

    run: RunFolder
    ended: bool
    saved_step: int | None
    total_steps: int


def train(recipe: Recipe, options: TrainOptions, process: Process, reporter: Reporter) -> RunResult:
    """Train a recipe to its end or until SIGINT or SIGTERM; return the same result on all ranks.

    Raises:
        PanformerError: Recipe, data, checkpoint or folder cannot be used, or training diverged.
        KeyboardInterrupt: Ctrl-C was pressed twice, and there are several processes.
    """
    for warning in check_run(recipe, is_new=not options.resume):
        reporter.warn(warning)
    check_backbone_name(recipe.model.backbone)
    find_run = run_to_resume if options.resume else new_run
    run = process.on_first(lambda: find_run(recipe, options.out))
    # An absolute path, so that the run can be resumed and evaluated from any working directory.
    recipe = replace(recipe, data=replace(recipe.data, root=str(Path(recipe.data.root).absolute())))
    origin = run.last if options.resume else options.init_from
    checkpoint = read_checkpoint(origin) if origin is not None else None
    if checkpoint is not None and not options.resume:
        check_backbone(recipe.model.backbone, checkpoint)
    trainer = Trainer(process, recipe, run, reporter, pretrained=checkpoint is None)
    if checkpoint is not None and options.resume:
        check_same_model(recipe, trainer.categories, run, checkpoint)
    if not options.resume:
        check_batch_norm(recipe.model, bool(trainer.model.backbone.batch_norms))
        check_length(recipe.train, trainer.training_images, trainer.loader.steps_per_epoch, reporter)
    process.on_first(lambda: run.start(recipe, environment()))
    reporter.message(f"Run folder: {run.path}")
    ended = False
    with stop_on_signals() as stop:
        try:
            ended = trainer.run(checkpoint, options.resume, stop)
        except KeyboardInterrupt:
            if process.world_size > 1:  # the other ranks wait for this one
                raise
    return RunResult(run, ended, trainer.checkpoints.saved_step, trainer.total_steps)
