"""The training loop: steps, checkpoints and evaluations until the end or a stop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NoReturn

import torch

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.loading import TrainLoader, train_loader
from panformer_cli.data.structures import Batch
from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, TrainProgress
from panformer_cli.engine.checkpoints.run_checkpoints import RunCheckpoints, check_space
from panformer_cli.engine.checkpoints.transfer import start_from
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.distributed.signals import SharedStop, StopRequest
from panformer_cli.engine.evaluation.evaluate import evaluate_share, merge_evaluators
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.trackers.tracking import Tracking
from panformer_cli.engine.training.data_checks import check_coverage, check_same_categories
from panformer_cli.engine.training.meter import SpeedMeter
from panformer_cli.engine.training.profile import StepProfile
from panformer_cli.engine.training.sample_predictions import sample_predictions
from panformer_cli.engine.training.schedule import learning_rate_factor, total_steps
from panformer_cli.engine.training.step import OptimizerStep
from panformer_cli.engine.training.train_log import TrainLog
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.metrics.evaluator import Evaluator
from panformer_cli.models.base import PanopticModel
from panformer_cli.models.build import build_model
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import recipe_differences
from panformer_cli.reporting import Progress, Reporter
from panformer_cli.wording import counted, listing

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
        root = Path(recipe.data.root)
        data, self.validation = process.first_then_others(
            lambda: (
                CocoPanoptic(root, recipe.data.train_split, recipe.data.skip_bad_images),
                CocoPanoptic(root, recipe.data.val_split, recipe.data.skip_bad_images),
            )
        )
        process.on_first(lambda: check_coverage(data, self.validation, recipe.data.allow_no_segments, reporter))
        self.annotations = {"train": data.layout.annotation, "val": self.validation.layout.annotation}
        self._skipped = data.skipped
        self.categories: CategoryTable = data.categories
        check_same_categories(self.categories, self.validation.categories, root)
        self.loader: TrainLoader = train_loader(data, recipe, process.rank, process.world_size)
        self.total_steps = total_steps(recipe.train, self.loader.steps_per_epoch)
        self.progress = TrainProgress(steps_per_epoch=self.loader.steps_per_epoch)

        torch.manual_seed(recipe.train.seed)
        model = build_model(recipe.model, recipe.inference, self.categories, pretrained, process.sampling)
        self.model: PanopticModel = model.to(process.device)
        if process.world_size > 1:
            # Dropout must differ between processes; initialization, up to here, must be equal.
            torch.manual_seed(recipe.train.seed + process.rank)
        self.step = OptimizerStep(process, self.model, recipe.train)
        self.checkpoints = RunCheckpoints(process, run, recipe, self.model, self.step.optimizer, reporter)
        self.log = TrainLog(process, run, reporter, self.loader.steps_per_epoch, tracking)
        self.meter = SpeedMeter()
        self.profile: StepProfile | None = None
        self._status = ""
        self._in_step = False
        self._failed_evaluation: int | None = None

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
            self.reporter.message(f"Resuming after step {self.progress.step} of {self.total_steps}")
        elif checkpoint is not None:
            start_from(self.model, checkpoint, self.reporter)
        if remaining := -(-(self.total_steps - self.progress.step) // self.loader.steps_per_epoch):
            self.process.on_first(lambda: check_space(self._run, self.model, self.recipe, remaining, self.reporter))
        with self._saved_on_error(), self.reporter.progress("Training", self.total_steps, self.progress.step) as bar:
            self._loop(stop, bar)
            self.checkpoints.finish(self.progress, lambda: bool(stop))
        self.log.flush()
        if self.profile is not None:
            self.profile.report()
        self._report_skipped()
        complete = self._failed_evaluation == self.progress.step or not self._evaluation_is_due()
        return self.progress.step >= self.total_steps and complete

    def _loop(self, stop: StopRequest, bar: Progress) -> None:
        """Train to the end or to a stop.

        Raises:
            PanformerError: The images of a step cannot be loaded; everything before it is saved.
        """
        if self._evaluation_is_due():  # the run was stopped between a step and its evaluation
            self._evaluate(stop)
        for batches in self._steps():
            failure = batches if isinstance(batches, Exception) else None
            stopping, saving, failed = self._agree(bool(stop), self.checkpoints.is_due, failure is not None)
            if stopping or saving or failed:
                self._save()
            if failed:
                self._raise_together(failure, stop)
            if stopping:
                break
            assert not isinstance(batches, Exception), "raised before"
            self._step(batches, bar)
            if self._evaluation_is_due():
                self._evaluate(stop)

    def _steps(self) -> Iterator[list[Batch] | Exception]:
        """Yield the batches of every remaining step; an error of the loader is yielded and ends this."""
        per_epoch = self.loader.steps_per_epoch
        while self.progress.step < self.total_steps:
            epoch, first = divmod(self.progress.step, per_epoch)
            try:
                for batches in self.meter.waiting(self.loader.epoch(epoch, first)):
                    yield batches
                    if self.progress.step >= self.total_steps:
                        return
            except Exception as error:  # all ranks save before one of them raises it
                yield error
                return

    def _raise_together(self, failure: Exception | None, stop: StopRequest) -> NoReturn:
        """Raise the error of the first rank whose images could not be loaded, on every rank, after a save."""
        self.checkpoints.finish(self.progress, lambda: bool(stop))
        self.log.flush()
        if failure is not None and not isinstance(failure, PanformerError):
            raise failure
        errors = self.process.gather(failure)
        error = next(error for error in errors if error is not None)
        kind = type(error) if isinstance(error, PanformerError) else PanformerError
        raise kind(f"{error}; step {self.checkpoints.saved_step} of {self.total_steps} is saved") from failure

    def _save(self) -> None:
        self.checkpoints.save_last(self.progress)
        self.log.flush()

    @contextmanager
    def _saved_on_error(self) -> Iterator[None]:
        """Save a single process that fails between two steps, for a reason that nothing else handles."""
        try:
            yield
        except PanformerError:
            raise
        except Exception:
            if self.process.world_size == 1 and not self._in_step and self.checkpoints.saved_step != self.progress.step:
                self.checkpoints.save_last(self.progress)
            raise

    def _step(self, batches: list[Batch], bar: Progress) -> None:
        """Take one optimizer step over the images of all processes, and log it."""
        start = time.monotonic()
        settings = self.recipe.train
        factor = learning_rate_factor(settings, self.progress.step, self.loader.steps_per_epoch)
        profiled = self.profile.around_step(self.meter.waited) if self.profile else nullcontext()
        self._in_step = True
        with self.meter.computing(), profiled:
            result = self.step.take(batches, factor)
        self.log.add(result)
        self.progress.step += 1
        self._in_step = False
        self.progress.seconds += time.monotonic() - start
        self._show(bar)
        if self.tracking is not None:
            self.tracking.start()
        if self.progress.step % settings.log_every == 0 or self.progress.step == self.total_steps:
            self.log.write_losses(self.progress, settings.lr * factor, self._speed())

    def _speed(self) -> dict[str, float]:
        """Return the values of a row of the log that describe the speed since the last one, of the slowest process."""
        taken = self.meter.take()
        assert taken is not None, "a row follows a step"
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

    def _evaluation_is_due(self) -> bool:
        step, per_epoch = self.progress.step, self.loader.steps_per_epoch
        if step == self.progress.evaluated_step:
            return False
        if step == self.total_steps:
            return True
        return step % per_epoch == 0 and (step // per_epoch) % self.recipe.train.evaluate_every == 0

    def _evaluate(self, stop: StopRequest) -> None:
        """Evaluate the model, and save it if it is the best one.

        A stop of any rank ends this at the next image. A failure is reported, and training continues.
        """
        self._save()  # the step is not lost if the evaluation fails
        self.model.eval()
        predictor = Predictor(self.model, self.recipe, self.process.device)
        evaluator = self._evaluated(predictor, stop)
        if evaluator is None:
            return  # due again when the run is resumed
        groups = evaluator.panoptic.result()
        self.log.write_evaluation(self.progress, groups)
        if self.tracking is not None:
            with suppress(DataError):  # reported by the evaluation
                self.tracking.images(sample_predictions(predictor, self.validation), self.progress.step)
        self.progress.evaluated_step = self.progress.step
        pq, best = groups.all.pq, self.progress.best_pq
        if math.isfinite(pq) and (best is None or not pq <= best):  # also if the best one is not a number
            self.progress.best_pq = pq
            self.checkpoints.save_best(self.progress)
        self._save()

    def _evaluated(self, predictor: Predictor, stop: StopRequest) -> Evaluator | None:
        """Return the merged evaluator of all images on every rank; None if the ranks stopped or one failed."""
        stopping = SharedStop(stop, self.process, f"evaluation after step {self.progress.step}")
        skipped: list[str] = []
        own, problem = Evaluator(predictor.categories), ""
        try:
            evaluate_share(
                predictor,
                self.validation,
                self.process,
                self.reporter,
                own,
                stop=stopping,
                skipped=skipped if self.recipe.data.skip_bad_images else None,
            )
        except Exception as error:  # whatever it is, training must not end
            stopping.announce()
            problem = str(error) if isinstance(error, PanformerError) else f"{type(error).__name__}: {error}"
        left_out = [line for lines in self.process.gather(skipped) for line in lines]
        if problem := next(filter(None, self.process.gather(problem)), ""):
            self._failed_evaluation = self.progress.step
            is_last = self.progress.step == self.total_steps
            next_one = (
                "resume the run to evaluate again" if is_last else "training continues, and evaluates again later"
            )
            self.reporter.warn(f"the evaluation after step {self.progress.step} failed: {problem}; {next_one}")
            return None
        merged = merge_evaluators(own, self.process)
        if merged.images + len(left_out) < len(self.validation):
            return None
        if left_out:
            images = counted(len(left_out), "validation image")
            self.reporter.warn(f"PQ is without {images} that cannot be used: {listing(left_out, 3, '; ')}")
        return merged

    def _show(self, bar: Progress) -> None:
        """Advance the bar. The loss is read only every 10 steps, because reading it waits for the GPU."""
        if self.progress.step % 10 == 0 or not self._status:
            self._status = f"loss {self.log.running:.2f}"
            speed = self.meter.recent
            if speed is not None and speed.waiting_share >= SLOW_DATA:
                self._status += f", {100 * speed.waiting_share:.0f} % waiting for data"
        bar.advance(status=self._status)

    def _report_skipped(self) -> None:
        found = self.process.gather(self._skipped + self.loader.skipped)
        problems = sorted({problem for part in found for problem in part})
        if problems:
            self.reporter.warn(f"skipped {counted(len(problems), 'training image')} that cannot be used:")
        for problem in problems:
            self.reporter.warn(problem)
