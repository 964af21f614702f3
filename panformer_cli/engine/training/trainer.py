"""The training loop: steps, checkpoints and evaluations until the end or a stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NoReturn

import torch

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.loading import TrainLoader, WorkerDiedError, train_loader
from panformer_cli.data.structures import Batch
from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, TrainProgress
from panformer_cli.engine.checkpoints.run_checkpoints import RunCheckpoints, check_space
from panformer_cli.engine.checkpoints.transfer import start_from
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.distributed.signals import StopRequest
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.trackers.tracking import Tracking
from panformer_cli.engine.training.averaging import AveragedWeights
from panformer_cli.engine.training.data_checks import check_coverage, check_same_categories
from panformer_cli.engine.training.divergence import ROLLBACK_FACTOR, DivergenceWatch
from panformer_cli.engine.training.memory.fallback import (
    MemoryFallback,
    RankOutOfMemoryError,
    StepOutOfMemoryError,
)
from panformer_cli.engine.training.memory.parts import use_parts
from panformer_cli.engine.training.memory.plan import MemoryPlan
from panformer_cli.engine.training.numerics import synchronize_batch_norms
from panformer_cli.engine.training.replay.recorder import BadStepRecorder
from panformer_cli.engine.training.schedule import learning_rate_factor, total_steps
from panformer_cli.engine.training.step import OptimizerStep, StepResult
from panformer_cli.engine.training.validation import Validation
from panformer_cli.engine.training.watching.meter import SpeedMeter
from panformer_cli.engine.training.watching.profile import StepProfile
from panformer_cli.engine.training.watching.train_log import TrainLog
from panformer_cli.errors import NonFiniteError, PanformerError, WriteError
from panformer_cli.models.base import PanopticModel
from panformer_cli.models.build import build_model, fetch_backbone_weights
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import recipe_differences
from panformer_cli.reporting import Progress, Reporter
from panformer_cli.wording import counted

SLOW_DATA = 0.1
"""Share of the time spent waiting for images from which on the progress bar shows it."""


class Trainer:
    """One process of a training run.

    Args:
        process: This process.
        recipe: All settings.
        run: Folder of the run.
        reporter: For progress and messages.
        pretrained: Whether to load `model.backbone_weights`; False if other weights will be loaded anyway.
        tracking: Experiment trackers; None for none. Only rank 0 uses it.
    """

    def __init__(
        self,
        process: Process,
        recipe: Recipe,
        run: RunFolder,
        reporter: Reporter,
        pretrained: bool = True,
        tracking: Tracking | None = None,
    ) -> None:
        self.process, self.recipe, self.reporter, self.tracking = process, recipe, reporter, tracking
        self._run = run
        data, validation = self._opened_splits()
        self._data = data
        self.annotations = {"train": data.layout.annotation, "val": validation.layout.annotation}
        self.categories: CategoryTable = data.categories
        self.training_images = len(data)
        self.loader: TrainLoader = train_loader(data, recipe, process.rank, process.world_size)
        self.total_steps = total_steps(recipe.train, self.loader.steps_per_epoch)
        self.progress = TrainProgress(steps_per_epoch=self.loader.steps_per_epoch)

        self.model = self._built_model(pretrained)
        self.step = OptimizerStep(process, self.model, recipe.train)
        decay = recipe.train.ema_decay
        self.average = AveragedWeights(self.model, decay) if decay is not None else None
        averaged = self.average.model if self.average is not None else None
        self.log = TrainLog(process, run, reporter, self.loader.steps_per_epoch, tracking)
        self.checkpoints = RunCheckpoints(
            process, run, recipe, self.model, self.step.optimizer, reporter, averaged, self.step.scaler, self.log
        )
        self.validation = Validation(
            process, recipe, validation, self.total_steps, self.log, self.checkpoints, reporter, tracking
        )
        self.memory = MemoryFallback(process, self.step, recipe, self._change_memory)
        self.meter = SpeedMeter()
        self.profile: StepProfile | None = None
        self.divergence = DivergenceWatch(recipe.train, reporter)
        self.recorder = BadStepRecorder(process, run, self.model, reporter)
        self._status = ""
        self._in_step = False
        self._failure: Exception | None = None  # of this rank, after a step

    def _opened_splits(self) -> tuple[CocoPanoptic, CocoPanoptic]:
        """Return the training and the validation split, checked."""
        data, reporter = self.recipe.data, self.reporter
        root = Path(data.root)
        training, validation = self.process.first_then_others(
            lambda: (
                CocoPanoptic(root, data.train_split, data.skip_bad_images),
                CocoPanoptic(root, data.val_split, data.skip_bad_images),
            )
        )
        self.process.on_first(lambda: check_coverage(training, validation, data.allow_no_segments, reporter))
        check_same_categories(training.categories, validation.categories, root)
        return training, validation

    def _built_model(self, pretrained: bool) -> PanopticModel:
        """Return the model on its device, the same on all ranks, with the parts as the settings want them."""
        recipe, process = self.recipe, self.process
        if pretrained:
            process.first_then_others(lambda: fetch_backbone_weights(recipe.model, self.reporter))
        torch.manual_seed(recipe.train.seed)
        model: PanopticModel = build_model(
            recipe.model, recipe.inference, self.categories, pretrained, process.sampling
        ).to(process.device)
        model.freeze(recipe.train.freeze)
        use_parts(model, recipe.train, process.device, self.reporter)
        if process.world_size > 1:
            # Dropout must differ between processes; initialization, up to here, must be equal.
            torch.manual_seed(recipe.train.seed + process.rank)
        if recipe.train.sync_batch_norm:
            synchronize_batch_norms(model)
        return model

    def profile_to(self, folder: Path) -> None:
        """Profile some steps of the run on rank 0."""
        if self.process.is_first:
            self.profile = StepProfile(folder, self.step, self.process.device, self.reporter)

    def run(self, checkpoint: Checkpoint | None, resume: bool, stop: StopRequest) -> bool:
        """Train to the end or to a stop, and return whether the end was reached.

        Args:
            checkpoint: Initial weights; None to keep those of the model.
            resume: Whether to resume the run that `checkpoint` belongs to.
            stop: Set when the run should save and return.
        """
        if checkpoint is not None and resume:
            self.progress = self.checkpoints.resume(checkpoint)
            self.progress.steps_per_epoch = self.loader.steps_per_epoch
            if changed := recipe_differences(checkpoint.recipe, self.recipe):
                self.log.write_changes(self.progress, changed)
            if self.average is not None and checkpoint.recipe.train.ema_decay is None:
                self.reporter.message("train.ema_decay: the average starts with the weights of the checkpoint")
            self.reporter.message(f"Resuming after step {self.progress.step} of {self.total_steps}")
        elif checkpoint is not None:
            start_from(self.model, checkpoint, self.reporter)
            if self.average is not None:
                self.average.restart(self.model)
        if remaining := -(-(self.total_steps - self.progress.step) // self.loader.steps_per_epoch):
            size = self.process.world_size
            self.process.on_first(
                lambda: check_space(self._run, self.model, self.recipe, remaining, size, self.reporter)
            )
        with (
            self._saved_on_error(stop),
            self.reporter.progress("Training", self.total_steps, self.progress.step) as bar,
        ):
            self._loop(stop, bar)
            self._finish(stop)
        if self.profile is not None:
            self.profile.report()
        self._report_skipped()
        if self.validation.stops_early(self.progress):
            best = "none of them had a PQ" if self.progress.best_pq is None else f"best PQ {self.progress.best_pq:.1f}"
            self.reporter.message(
                f"Stopped early after step {self.progress.step}: no higher PQ in "
                f"{counted(self.progress.evaluations_since_best, 'evaluation')} ({best})"
            )
        return self._is_over() and self.validation.is_settled(self.progress)

    def _loop(self, stop: StopRequest, bar: Progress) -> None:
        """Train to the end or to a stop.

        Raises:
            PanformerError: The images of a step cannot be loaded, its results cannot be recorded, or memory ran out;
                everything before it is saved. Other errors of a single rank are raised there as they are.
        """
        if self.validation.is_due(self.progress):  # the run was stopped between a step and its evaluation
            self._evaluate(stop)
        for batches in self._steps(stop):
            failure = batches if isinstance(batches, Exception) else self._failure
            stopping, saving, failed = self._agree(bool(stop), self.checkpoints.is_due, failure is not None)
            if failed:
                self._fail(failure, stop)
            try:
                if stopping:
                    self.checkpoints.save_last(self.progress, is_ending=True)
                    break
                if saving:
                    self._save()
                assert not isinstance(batches, Exception), "raised by all ranks"
                self._step(batches, bar, stop)
                if self.validation.is_due(self.progress):
                    self._evaluate(stop)
                elif self.checkpoints.is_kept(self.progress):
                    self._save()
            except NonFiniteError as error:
                self._roll_back(error, bar)

    def _fail(self, failure: Exception | None, stop: StopRequest) -> NoReturn:
        """Save, and raise the error of the first rank that failed, on every rank; all ranks call this."""
        self._save_after_error(stop)
        is_expected = failure is None or isinstance(failure, PanformerError)
        shared = failure if is_expected else PanformerError(f"{type(failure).__name__}: {failure}")
        error = next(error for error in self.process.gather(shared) if error is not None)
        if failure is not None and not is_expected:
            raise failure
        kind = type(error) if isinstance(error, PanformerError) else PanformerError
        raise kind(f"{error}; {self._what_is_saved()}") from failure

    def _fail_alone(self, failure: Exception) -> NoReturn:
        """Save on this rank, for which the others wait, and raise the error."""
        self.checkpoints.save_alone(self.progress)
        raise PanformerError(f"{failure}; {self._what_is_saved()}") from failure

    def _what_is_saved(self) -> str:
        step = self.checkpoints.saved_step
        return f"step {step} of {self.total_steps} is saved" if step is not None else "nothing is saved"

    @contextmanager
    def _failing_together(self) -> Iterator[None]:
        """Keep an error of this rank until all ranks have agreed that one of them failed; see `_end_if_failed`.

        Nothing in this context may wait for other ranks, except for what all ranks reach whatever fails on one of them.
        """
        try:
            yield
        except Exception as error:
            self._failure = error

    def _end_if_failed(self, stop: StopRequest) -> None:
        """Save, and raise an error on every rank, if a rank failed after the last step."""
        if self._agree(self._failure is not None)[0]:
            self._fail(self._failure, stop)

    def _finish(self, stop: StopRequest) -> None:
        """Write what could not be written before."""
        self.checkpoints.finish(self.progress, lambda: bool(stop))
        self.log.flush(is_ending=True)

    @contextmanager
    def _saved_on_error(self, stop: StopRequest) -> Iterator[None]:
        """Save a single process that fails between two steps, for a reason that nothing else handles."""
        try:
            yield
        except PanformerError:
            self.log.flush(is_ending=True)
            raise
        except Exception:
            if self.process.world_size == 1 and not self._in_step:
                self._save_after_error(stop)
            else:
                self.log.flush(is_ending=True)
            raise

    def _save_after_error(self, stop: StopRequest) -> None:
        """Save what is not saved yet; that this fails is reported, since the error is the reason that the run ends."""
        try:
            if self.checkpoints.saved_step != self.progress.step:
                self.checkpoints.save_last(self.progress, is_ending=True)
            self.checkpoints.finish(self.progress, lambda: bool(stop))
        except NonFiniteError:  # the weights are of no use
            pass
        except WriteError as problem:
            self.reporter.warn(str(problem))
        self.log.flush(is_ending=True)

    def _is_over(self) -> bool:
        """Return whether no step is left."""
        return self.progress.step >= self.total_steps or self.validation.stops_early(self.progress)

    def _evaluate(self, stop: StopRequest) -> None:
        """Evaluate the model, or the average of its weights."""
        self._save()  # the step is not lost if the evaluation fails
        model = self.model if self.average is None else self.average.model
        self.process.spread(model.buffers())  # each rank has running statistics of its own until now
        if self.validation.run(model, self.progress, stop):
            if self.validation.stops_early(self.progress):
                self._log_losses()
            self._save()

    def _steps(self, stop: StopRequest) -> Iterator[list[Batch] | Exception]:
        """Yield the batches of every remaining step; an error of the loader is yielded, so that all ranks save first.

        A worker that dies after the run was asked to stop was probably killed for the same reason; an empty list lets
        the run stop.
        """
        per_epoch = self.loader.steps_per_epoch
        while not self._is_over():
            epoch, first = divmod(self.progress.step, per_epoch)
            batches_of_epoch = self.meter.waiting(self.loader.epoch(epoch, first))
            try:
                for step, batches in enumerate(batches_of_epoch, self.progress.step + 1):
                    yield batches
                    if self.progress.step != step or self._is_over():
                        break  # training returned to an earlier step, or the run is complete
            except Exception as error:
                yield [] if stop and isinstance(error, WorkerDiedError) else error

    def _step(self, batches: list[Batch], bar: Progress, stop: StopRequest) -> None:
        """Take one optimizer step over the images of all processes, and log it."""
        start = time.monotonic()
        settings = self.recipe.train
        factor = self._rate_factor(self.progress.step)
        result = self._taken(batches, factor, stop)
        self.progress.seconds += time.monotonic() - start
        with self._failing_together():
            self._record(result, bar)
        writes = self.progress.step % settings.log_every == 0 or self.progress.step == self.total_steps
        saves = self.validation.is_due(self.progress) or self.checkpoints.is_kept(self.progress)
        if writes or saves:  # these need all ranks
            self._end_if_failed(stop)
        if writes:
            self._log_losses()
        self.divergence.check(self.progress)

    def _taken(self, batches: list[Batch], factor: float, stop: StopRequest) -> StepResult:
        """Take an optimizer step and return what it reports; if memory runs out, save and raise an error."""
        profiled = self.profile.around_step(self.meter.waited) if self.profile else nullcontext()
        self._in_step = True
        try:
            with self.meter.computing(), profiled:
                result = self.memory.take(batches, factor, self.progress.step < self.loader.steps_per_epoch)
        except (StepOutOfMemoryError, RankOutOfMemoryError) as error:
            if isinstance(error, RankOutOfMemoryError):
                self._fail_alone(error)
            self._fail(error, stop)
        self.progress.step += 1
        self._in_step = False
        return result

    def _record(self, result: StepResult, bar: Progress) -> None:
        """Do what follows a step on this rank."""
        if result.skipped is None:
            self.divergence.step_taken(self.progress, result.loss)
            self.log.add(result)
            if self.average is not None:
                self.average.update(self.model, self.progress.step - self.progress.skipped_steps)
        else:
            self._record_skipped(result)
        self._show(bar)
        if self.tracking is not None:
            self.tracking.start()

    def _rate_factor(self, step: int) -> float:
        """Return the factor on all learning rates of the step after `step`."""
        settings = self.recipe.train
        return learning_rate_factor(settings, step, self.loader.steps_per_epoch) * self.progress.lr_factor

    def _log_losses(self) -> None:
        """Write a row with the losses since the last one."""
        rate = self.recipe.train.lr * self._rate_factor(self.progress.step - 1)
        self.log.write_losses(self.progress, rate, self._speed())

    def _change_memory(self, recipe: Recipe, plan: MemoryPlan) -> None:
        """Use and store the settings of a run whose memory ran out."""
        self.recipe = recipe
        self.checkpoints.use_recipe(recipe)
        try:
            self.process.on_first(lambda: self._run.write_recipe(recipe))
        except WriteError as error:
            self.reporter.warn(f"{error}; training continues, but a resumed run begins with the settings before")
        self.reporter.warn(f"memory ran out in step {self.progress.step + 1}; training continues with {plan}")

    def _record_skipped(self, result: StepResult) -> None:
        """Log a step that changed nothing, and record the first one."""
        skipped, inputs = result.skipped, result.inputs
        assert skipped is not None and inputs is not None, "the step was skipped"
        infos = map(self._data.image_info, range(len(self._data)))
        names = {info.id: info.file_name for info in infos if info.id in skipped.image_ids}
        images = [names[image_id] for image_id in skipped.image_ids]
        # First, because it needs all ranks: an error of this rank before it would leave the others waiting.
        recorded = self.recorder.record(skipped, inputs, images, self.recipe, self.progress)
        self.log.write_skipped(self.progress, skipped.reason, images)
        self.divergence.step_skipped(self.progress, skipped.reason, images, self.recorder.command if recorded else "")

    def _roll_back(self, error: NonFiniteError, bar: Progress) -> None:
        """Return to the last checkpoint with a lower learning rate.

        Raises:
            PanformerError: The settings do not allow it, there is no checkpoint, or it was tried too often.
        """
        diverged, saved_step = self.progress, self.checkpoints.saved_step
        if not self.divergence.can_roll_back(diverged, saved_step):
            advice = self.divergence.advice(diverged, saved_step, self.recorder.command)
            raise PanformerError(f"training diverged: {error}; {advice}") from error
        self.progress = self.checkpoints.roll_back()
        self.progress.steps_per_epoch = self.loader.steps_per_epoch
        self.progress.rollbacks = diverged.rollbacks + 1
        self.progress.lr_factor = diverged.lr_factor * ROLLBACK_FACTOR
        self.progress.bad_steps = 0
        self.progress.best_pq = diverged.best_pq  # that of best.safetensors, which stays
        self.checkpoints.save_last(self.progress)  # so that a resume keeps the lower rate
        self.log.reset()
        if self.tracking is not None:
            self.tracking.roll_back(self.progress.step)
        self.log.write_rollback(self.progress, diverged.step)
        bar.advance(self.progress.step - diverged.step)
        self.reporter.warn(
            f"training diverged: {error}; it continues from the checkpoint of step {self.progress.step} with "
            f"{self.progress.lr_factor:g} times the learning rate"
        )

    def _save(self) -> None:
        """Save, unless the last steps were skipped: training may have to return to the checkpoint that exists."""
        if self.progress.bad_steps == 0 or self._is_over():
            self.checkpoints.save_last(self.progress, is_ending=self._is_over())
            self.log.flush()

    def _speed(self) -> dict[str, float]:
        """Return the values of a row of the log that describe the speed since the last one, of the slowest process.

        They are left out if this process has taken no step since then, after a resume.
        """
        taken = self.meter.take()
        if taken is None:  # on all ranks
            return {}
        skipped = sum(self.process.gather(len(self.loader.skipped)))
        speed = max(self.process.gather(taken), key=lambda speed: speed.waiting)
        return {
            "images_per_second": self.recipe.train.batch_size / speed.step,
            "waiting_for_data": speed.waiting_share,
            "seconds_left": (self.total_steps - self.progress.step) * speed.step,
            "skipped_images": skipped,
        }

    def _agree(self, *wishes: bool) -> list[bool]:
        """Return for each wish whether any rank has it, so that all ranks save and stop at the same step."""
        return (self.process.sum(torch.tensor(wishes, dtype=torch.int64)) > 0).tolist()

    def _show(self, bar: Progress) -> None:
        """Advance the bar. In long runs the loss is read only every 10 steps, because reading it waits for the GPU."""
        if self.progress.step % 10 == 0 or min(self.progress.step, self.total_steps - self.progress.step) < 10:
            loss = self.log.running
            self._status = "step skipped" if loss is None else f"loss {loss:.2f}"
            speed = self.meter.recent
            if speed is not None and speed.waiting_share >= SLOW_DATA:
                self._status += f", {100 * speed.waiting_share:.0f} % waiting for data"
        bar.advance(status=self._status)

    def _report_skipped(self) -> None:
        steps = self.progress.skipped_steps - self.progress.overflows
        if steps:
            self.reporter.warn(
                f"{steps} of {counted(self.progress.step, 'step')} changed nothing, because the loss or the gradient "
                'was not finite; metrics.jsonl lists them as "skipped"'
            )
        found = self.process.gather(self._data.skipped + self.loader.skipped)
        problems = sorted({problem for part in found for problem in part})
        if problems:
            self.reporter.warn(f"skipped {counted(len(problems), 'training image')} that cannot be used:")
        for problem in problems:
            self.reporter.warn(problem)
