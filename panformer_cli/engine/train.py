"""Train a model: the loop, evaluation during training, and the log."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.loading import TrainLoader, train_loader
from panformer_cli.data.structures import Batch
from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, TrainProgress, check_backbone, read_checkpoint
from panformer_cli.engine.checkpoints.run_checkpoints import RunCheckpoints, check_same_model
from panformer_cli.engine.checkpoints.transfer import start_from
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.distributed.signals import StopRequest, stop_on_signals
from panformer_cli.engine.environment import environment
from panformer_cli.engine.evaluation.evaluate import evaluate_model
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.optim import build_optimizer, learning_rate_factor, set_learning_rate, total_steps
from panformer_cli.engine.runs import RunFolder, new_run, run_to_resume
from panformer_cli.errors import DataError, PanformerError, RecipeError
from panformer_cli.metrics.quality import GroupQuality, PanopticResult, shown
from panformer_cli.models.backbones.feature_layout import check_backbone_name
from panformer_cli.models.base import LossCounts, PanopticModel, count_segments
from panformer_cli.models.build import build_model
from panformer_cli.pages.base import format_number
from panformer_cli.recipe import Recipe
from panformer_cli.reporting import Progress, Reporter
from panformer_cli.wording import counted

DIVERGED = (
    "training diverged: a gradient is no longer finite; the last checkpoint is from before it; resume from there with "
    "--resume and a smaller learning rate (--set train.lr=...)"
)


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
    if not recipe.data.root:
        raise RecipeError("data.root is not set: give the folder of the data set, --set data.root=DIR")
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


class Trainer:
    """One process of a training run.

    Args:
        process: This process.
        recipe: All settings.
        run: Folder of the run.
        reporter: For progress and messages.
        pretrained: Whether to load `model.backbone_weights`; False if other weights will be loaded anyway.
    """

    def __init__(
        self, process: Process, recipe: Recipe, run: RunFolder, reporter: Reporter, pretrained: bool = True
    ) -> None:
        self.process, self.recipe, self.run_folder, self.reporter = process, recipe, run, reporter
        root = Path(recipe.data.root)
        data, self.validation = process.first_then_others(
            lambda: (
                CocoPanoptic(root, recipe.data.train_split, recipe.data.skip_bad_images),
                CocoPanoptic(root, recipe.data.val_split),
            )
        )
        process.on_first(lambda: _check_coverage(data, self.validation, recipe.data.allow_no_segments, reporter))
        self._skipped = data.skipped
        self.categories: CategoryTable = data.categories
        _check_same_categories(self.categories, self.validation.categories, root)
        self.loader: TrainLoader = train_loader(data, recipe, process.rank, process.world_size)
        self.total_steps = total_steps(recipe.train, self.loader.steps_per_epoch)
        self.progress = TrainProgress()

        torch.manual_seed(recipe.train.seed)
        model = build_model(recipe.model, recipe.inference, self.categories, pretrained, process.sampling)
        self.model: PanopticModel = model.to(process.device)
        self.optimizer = build_optimizer(self.model, recipe.train)
        self.checkpoints = RunCheckpoints(process, run, recipe, self.model, self.optimizer)
        self.parallel: nn.Module = self.model
        if process.world_size > 1:
            # Dropout must differ between processes; initialization, up to here, must be equal.
            torch.manual_seed(recipe.train.seed + process.rank)
            self.parallel = _distributed(self.model)
        self.log = _LossLog()
        self._status = ""

    def run(self, checkpoint: Checkpoint | None, resume: bool, stop: StopRequest) -> bool:
        """Train to the end or to a stop, and return whether the end was reached.

        Args:
            checkpoint: Initial weights; None to keep those of the model.
            resume: Whether to resume the run that `checkpoint` belongs to.
            stop: Set when the run should save and return.
        """
        if checkpoint is not None and resume:
            self.progress = self.checkpoints.resume(checkpoint)
            self.reporter.message(f"Resuming after step {self.progress.step} of {self.total_steps}")
        elif checkpoint is not None:
            start_from(self.model, checkpoint, self.reporter)
        with self.reporter.progress("Training", self.total_steps, self.progress.step) as bar:
            if self._evaluation_is_due():  # the run was stopped between a step and its evaluation
                self._evaluate()
            for batches in self._steps():
                stopping, saving = self._agree(bool(stop), self.checkpoints.is_due)
                if stopping or saving:
                    self.checkpoints.save_last(self.progress)
                if stopping:
                    break
                self._step(batches, bar)
                if self._evaluation_is_due():
                    self._evaluate()
        self._report_skipped()
        return self.progress.step >= self.total_steps

    def _steps(self) -> Iterator[list[Batch]]:
        """Yield the batches of every remaining step."""
        per_epoch = self.loader.steps_per_epoch
        while self.progress.step < self.total_steps:
            epoch, first = divmod(self.progress.step, per_epoch)
            for batches in self.loader.epoch(epoch, first):
                yield batches
                if self.progress.step >= self.total_steps:
                    return

    def _step(self, batches: list[Batch], bar: Progress) -> None:
        """Take one optimizer step over the images of all processes."""
        start = time.monotonic()
        self.parallel.train()
        recipe = self.recipe.train
        factor = learning_rate_factor(recipe, self.progress.step, self.loader.steps_per_epoch)
        set_learning_rate(self.optimizer, factor)
        counts = self._count(batches)
        self.optimizer.zero_grad()
        for index, batch in enumerate(batches):
            with self._synchronized(last=index == len(batches) - 1):
                losses = self._losses(batch.to(self.process.device), counts)
                torch.stack(list(losses.values())).sum().div(len(batches)).backward()
            self.log.add(losses, 1 / len(batches))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        if not torch.isfinite(norm):  # the same on all ranks, because gradients are averaged
            raise PanformerError(DIVERGED)
        self.optimizer.step()
        self.progress.step += 1
        self.progress.seconds += time.monotonic() - start
        self._show(bar)
        if self.progress.step % recipe.log_every == 0 or self.progress.step == self.total_steps:
            self._log_losses(recipe.lr * factor)

    def _losses(self, batch: Batch, counts: LossCounts) -> dict[str, Tensor]:
        device = self.process.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.recipe.train.precision == "bf16"):
            losses: dict[str, Tensor] = self.parallel(batch, counts)
        return losses

    def _count(self, batches: list[Batch]) -> LossCounts:
        """Return the mean number of segments per image of the whole step, which normalizes the losses."""
        own = [count_segments(batch.targets, self.categories.num_things) for batch in batches]
        total = self.process.sum(torch.tensor(own, dtype=torch.int64).sum(0))
        things, stuff = (total.double() / self.recipe.train.batch_size).tolist()
        return LossCounts(things, stuff)

    def _synchronized(self, last: bool) -> Any:
        """Return a context in which gradients are synchronized only for the last batch of a step."""
        if isinstance(self.parallel, DistributedDataParallel) and not last:
            return self.parallel.no_sync()
        return nullcontext()

    def _agree(self, *wishes: bool) -> list[bool]:
        """Return for each wish whether any rank has it, so that all ranks save and stop at the same step."""
        return (self.process.sum(torch.tensor(wishes, dtype=torch.int64)) > 0).tolist()

    def _evaluation_is_due(self) -> bool:
        step, per_epoch = self.progress.step, self.loader.steps_per_epoch
        if step == self.progress.evaluated_step:
            return False
        if step == self.total_steps:
            return True
        return step % per_epoch == 0 and (step // per_epoch) % self.recipe.train.evaluate_every == 0

    def _evaluate(self) -> None:
        self.checkpoints.save_last(self.progress)  # the step is not lost if the evaluation fails
        self.model.eval()
        predictor = Predictor(self.model, self.recipe, self.process.device)
        groups = evaluate_model(predictor, self.validation, self.process, self.reporter).panoptic.result()
        self._log_evaluation(groups)
        self.progress.evaluated_step = self.progress.step
        pq = groups.all.pq
        if self.progress.best_pq is None or pq > self.progress.best_pq:
            self.progress.best_pq = pq
            self.checkpoints.save_best(self.progress)
        self.checkpoints.save_last(self.progress)

    def _show(self, bar: Progress) -> None:
        """Advance the bar. The loss is read only every 10 steps, because reading it waits for the GPU."""
        if self.progress.step % 10 == 0 or not self._status:
            self._status = f"loss {self.log.running:.2f}"
        bar.advance(status=self._status)

    def _report_skipped(self) -> None:
        found = self.process.gather(self._skipped + self.loader.skipped)
        problems = sorted({problem for part in found for problem in part})
        if problems:
            self.reporter.warn(f"skipped {counted(len(problems), 'training image')} that cannot be used:")
        for problem in problems:
            self.reporter.warn(problem)

    def _log_losses(self, lr: float) -> None:
        losses = self.log.take(self.process)
        if self.process.is_first:
            total = sum(losses.values())
            self._log_row("train", {"lr": lr, "loss": total, "losses": losses, "seconds": self.progress.seconds})

    def _log_evaluation(self, groups: PanopticResult) -> None:
        if self.process.is_first:
            quality, things, stuff = (_texts(group) for group in (groups.all, groups.things, groups.stuff))
            metrics = asdict(groups.all) | {"pq_things": groups.things.pq, "pq_stuff": groups.stuff.pq}
            self._log_row("eval", metrics)
            self.reporter.message(
                f"Step {self.progress.step}: PQ {quality['pq']} (things {things['pq']}, stuff {stuff['pq']}), "
                f"SQ {quality['sq']}, RQ {quality['rq']}"
            )

    def _log_row(self, kind: str, values: dict[str, Any]) -> None:
        step = self.progress.step
        epoch = (step - 1) // self.loader.steps_per_epoch
        self.run_folder.log({"kind": kind, "step": step, "epoch": epoch, **values})


class _LossLog:
    """Mean losses since the last `take`, and their sum for the progress bar.

    Tensors are summed on their device and copied to the CPU only when a value is read.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weight = 0.0

    @property
    def running(self) -> float:
        """Mean total loss since the last `take`."""
        return float(sum(self._sums.values())) / max(self._weight, 1e-12)

    def add(self, losses: dict[str, Tensor], weight: float) -> None:
        for name, value in losses.items():
            term = name.split("/")[0]
            self._sums[term] = self._sums.get(term, 0) + value.detach() * weight
        self._weight += weight

    def take(self, process: Process) -> dict[str, float]:
        """Return the mean of each term over all processes, summed over layers, and reset."""
        total = process.sum(torch.stack(list(self._sums.values())).cpu()) / process.world_size
        means = dict(zip(self._sums, (total / self._weight).tolist(), strict=True))
        self._sums, self._weight = {}, 0.0
        return means


def _distributed(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        # Newer versions of torch rename `broadcast_buffers`; older ones accept only this name.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, broadcast_buffers=False)


def _texts(group: GroupQuality) -> dict[str, str]:
    """Return PQ, SQ and RQ as text; a dash if the group has no class."""
    return {key: format_number(value) for key, value in shown(asdict(group)).items()}


def _check_coverage(data: CocoPanoptic, validation: CocoPanoptic, allow_no_segments: bool, reporter: Reporter) -> None:
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


def _check_same_categories(train: CategoryTable, validation: CategoryTable, root: Path) -> None:
    if not train.has_labels_of(validation):
        raise DataError(
            f"{root}: the training and validation annotations have different categories; expected one table"
        )
