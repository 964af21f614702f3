"""Train a model: the options of a run, its folder, and where its weights come from."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, check_backbone, check_family, read_checkpoint
from panformer_cli.engine.checkpoints.run_checkpoints import check_same_model, checkpoint_to_resume
from panformer_cli.engine.claimed_run import new_run, resumed_run
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.distributed.signals import stop_on_signals
from panformer_cli.engine.distributed.worker import seconds_since_launch
from panformer_cli.engine.environment import environment, fingerprints
from panformer_cli.engine.precision import check_device_supports
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.trackers.tracking import Tracking, finishing, open_tracking, trackers_of
from panformer_cli.engine.training.data_checks import check_length, check_validation_images
from panformer_cli.engine.training.memory.lower_bound import check_fits
from panformer_cli.engine.training.memory.probe import fit_memory
from panformer_cli.engine.training.numerics import check_sync_batch_norm, numerics
from panformer_cli.engine.training.resume import report_changes
from panformer_cli.engine.training.time_limit import TimeLimit
from panformer_cli.engine.training.trainer import Trainer
from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.feature_layout import check_backbone_name
from panformer_cli.models.backbones.normalization import differs_from_ours, pretrained_statistics
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_checks import check_batch_norm, check_run
from panformer_cli.recipe_io import recipe_differences
from panformer_cli.reporting import Reporter
from panformer_cli.settings import ModelSettings


@dataclass(frozen=True)
class TrainOptions:
    """Options of a run that are not part of the recipe.

    Attributes:
        out: Folder of the run; None for runs/<recipe>/<time>.
        resume: Resume the run in `out`, or the newest run of the recipe.
        init_from: Checkpoint with the initial weights; its categories may differ.
        trackers: Experiment trackers that get the log, by their modules in `engine.trackers`. A resumed run also keeps
            those that it had.
        profile: Measure the parts of some steps, and report what limits the speed.
        fit_memory: Bytes of memory that each process may use; a new run chooses micro-batch, precision and activation
            checkpointing accordingly. None: as in the recipe. A resumed run keeps what was chosen.
        time_limit: Time of this job, in seconds, before which the run saves and stops; None for no limit.
    """

    out: Path | None = None
    resume: bool = False
    init_from: Path | None = None
    trackers: tuple[str, ...] = ()
    profile: bool = False
    fit_memory: float | None = None
    time_limit: float | None = None

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
    check_device_supports(recipe.train.precision, process.device, "train.precision=fp16")
    check_sync_batch_norm(recipe, process)
    recipe = with_absolute_root(recipe)
    if not options.resume:
        process.on_first(lambda: check_fits(recipe, process, options.fit_memory))
    with numerics(recipe.train, process, reporter), ExitStack() as claim:
        # The claim is that of rank 0; the other ranks use the folder under its lock.
        run, origin = process.on_first(lambda: _begin(recipe, options, claim, reporter))
        return _train(recipe, options, run, origin, process, reporter)


def _train(
    recipe: Recipe,
    options: TrainOptions,
    run: RunFolder,
    origin: Path | None,
    process: Process,
    reporter: Reporter,
) -> RunResult:
    """Train in the folder of a run, from the checkpoint `origin` if it is not None; as `train`."""
    limit = None
    if options.time_limit is not None and process.is_first:
        limit = TimeLimit(options.time_limit, spent=seconds_since_launch())
    checkpoint = read_checkpoint(origin) if origin is not None else None
    if checkpoint is not None and not options.resume:
        check_family(recipe, checkpoint.recipe, f"--init-from: {checkpoint.path}")
        check_backbone(recipe.model.backbone, checkpoint)
    if options.fit_memory is not None and not options.resume:
        recipe = fit_memory(recipe, options.fit_memory, process, reporter)
    tracking = _tracking(options, run, recipe, checkpoint, process, reporter)
    trainer = Trainer(process, recipe, run, reporter, checkpoint is None, tracking)
    if checkpoint is not None and options.resume:
        check_same_model(recipe, trainer.categories, run, checkpoint)
        report_changes(checkpoint, recipe, trainer.loader.steps_per_epoch, reporter)
    if limit is not None:
        limit.save_seconds = lambda: trainer.checkpoints.longest_save
    if not options.resume:
        check_batch_norm(recipe.model, bool(trainer.model.backbone.batch_norms))
        _check_normalization(recipe.model, checkpoint is None, reporter)
        _check_frozen_backbone(recipe, checkpoint is None, reporter)
        check_length(recipe.train, trainer.training_images, trainer.loader.steps_per_epoch, reporter)
        process.on_first(lambda: check_validation_images(trainer.validation.dataset, recipe.data, reporter))
    if options.profile:
        trainer.profile_to(run.path / "profile")
    process.on_first(lambda: run.start(recipe, _record(recipe, options, checkpoint, trainer)))
    reporter.message(f"Run folder: {run.path}")
    ended = False
    with stop_on_signals(limit) as stop, finishing(tracking, lambda: "finished" if ended else "stopped"):
        try:
            ended = trainer.run(checkpoint, options.resume, stop)
        except KeyboardInterrupt:
            if process.world_size > 1:  # the other ranks wait for this one
                raise
    return RunResult(run, ended, trainer.checkpoints.saved_step, trainer.total_steps)


def _check_normalization(model: ModelSettings, pretrained: bool, reporter: Reporter) -> None:
    """Warn if timm's weights of the backbone were trained with other statistics of the images."""
    if not pretrained or model.backbone_weights != "imagenet" or model.backbone_normalization == "pretrained":
        return
    if differs_from_ours(pretrained_statistics(model.backbone)):
        reporter.warn(
            f"the weights of {model.backbone} were trained with another mean and standard deviation of the images; "
            "they are worth more with --set model.backbone_normalization=pretrained"
        )


def _check_frozen_backbone(recipe: Recipe, newly_initialized: bool, reporter: Reporter) -> None:
    """Warn if the backbone stays at random weights."""
    if newly_initialized and recipe.model.backbone_weights == "none" and "backbone" in recipe.train.freeze:
        reporter.warn(
            "train.freeze has backbone, whose weights are random and stay so; start from trained weights with "
            "--init-from or --set model.backbone_weights=imagenet"
        )


def _tracking(
    options: TrainOptions,
    run: RunFolder,
    recipe: Recipe,
    checkpoint: Checkpoint | None,
    process: Process,
    reporter: Reporter,
) -> Tracking | None:
    """Return the experiment trackers of the run on rank 0; None without any and on the other ranks."""
    before = trackers_of(run.path) if options.resume else []
    names = list(dict.fromkeys([*options.trackers, *before]))
    if not names or not process.is_first:
        return None
    step = checkpoint.progress.step if checkpoint is not None and options.resume else 0
    return open_tracking(names, run.path, recipe, step, reporter)


def with_absolute_root(recipe: Recipe) -> Recipe:
    """Return the recipe with an absolute `data.root`, so that the run can be resumed from any working directory."""
    if not recipe.data.root:
        return recipe
    return replace(recipe, data=replace(recipe.data, root=str(Path(recipe.data.root).absolute())))


def _begin(
    recipe: Recipe, options: TrainOptions, claim: ExitStack, reporter: Reporter
) -> tuple[RunFolder, Path | None]:
    """Return the folder of the run, locked until `claim` ends, and the checkpoint that it starts from, if any."""
    claimed = resumed_run if options.resume else new_run
    run = claim.enter_context(claimed(recipe.name, options.out, reporter))
    return run, checkpoint_to_resume(run, reporter).path if options.resume else options.init_from


def _record(recipe: Recipe, options: TrainOptions, checkpoint: Checkpoint | None, trainer: Trainer) -> dict[str, Any]:
    """Return the record of this start for environment.json; only on rank 0."""
    process, files = trainer.process, trainer.annotations
    record = environment() | {"processes": process.world_size, "device": str(process.device), "step": 0}
    if checkpoint is not None and options.resume:
        changed = recipe_differences(checkpoint.recipe, recipe)
        record["step"] = checkpoint.progress.step
        record["changed"] = {key: list(pair) for key, pair in changed.items()}
    else:
        record["init_from"] = None if options.init_from is None else str(options.init_from.absolute())
        if options.init_from is not None:
            files = files | {"init_from": options.init_from}
    return record | {"files": fingerprints(files)}
