"""Evaluation during training: when it is due, what it reports, and which checkpoint is the best."""

from __future__ import annotations

from contextlib import suppress

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.engine.checkpoints.checkpoint import TrainProgress
from panformer_cli.engine.checkpoints.run_checkpoints import RunCheckpoints
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.distributed.signals import SharedStop, StopRequest
from panformer_cli.engine.evaluation.evaluate import evaluate_model
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.trackers.tracking import Tracking
from panformer_cli.engine.training.watching.sample_predictions import sample_predictions
from panformer_cli.engine.training.watching.train_log import TrainLog
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.metrics.evaluator import Evaluator
from panformer_cli.models.base import PanopticModel
from panformer_cli.recipe import Recipe
from panformer_cli.reporting import Reporter
from panformer_cli.wording import counted, listing


class Validation:
    """Evaluates a model on the validation split. Every rank calls the same methods.

    Args:
        process: This process.
        recipe: All settings.
        dataset: The validation split.
        total_steps: Number of steps of the whole run.
        log: Gets the results.
        checkpoints: Get the best model.
        reporter: For progress and messages.
        tracking: Gets sample predictions; None for none. Only rank 0 uses it.
    """

    def __init__(
        self,
        process: Process,
        recipe: Recipe,
        dataset: CocoPanoptic,
        total_steps: int,
        log: TrainLog,
        checkpoints: RunCheckpoints,
        reporter: Reporter,
        tracking: Tracking | None = None,
    ) -> None:
        self.dataset = dataset
        self._process, self._recipe, self._total_steps = process, recipe, total_steps
        self._log, self._checkpoints, self._reporter, self._tracking = log, checkpoints, reporter, tracking
        self._failed_step: int | None = None

    def is_due(self, progress: TrainProgress) -> bool:
        """Return whether the model must be evaluated after this step: at the end, and every few epochs before it."""
        step, per_epoch = progress.step, progress.steps_per_epoch
        if step == progress.evaluated_step:
            return False
        if step == self._total_steps:
            return True
        return step % per_epoch == 0 and (step // per_epoch) % self._recipe.train.evaluate_every == 0

    def is_settled(self, progress: TrainProgress) -> bool:
        """Return whether the evaluation of this step is done, or was tried and failed."""
        return self._failed_step == progress.step or not self.is_due(progress)

    def stops_early(self, progress: TrainProgress) -> bool:
        """Return whether so many evaluations in a row had no higher PQ that the run ends (`train.early_stopping`)."""
        patience = self._recipe.train.early_stopping
        return patience is not None and progress.evaluations_since_best >= patience

    def run(self, model: PanopticModel, progress: TrainProgress, stop: StopRequest) -> bool:
        """Evaluate the model, and save it if it is the best one; return whether there is a result.

        A stop of any rank ends the evaluation at the next image; it is due again when the run is resumed. A failure is
        reported, and training continues.
        """
        predictor = Predictor(model.eval(), self._recipe, self._process.device)
        evaluator = self._evaluated(predictor, progress, stop)
        if evaluator is None:
            return False
        groups = evaluator.panoptic.result()
        self._log.write_evaluation(progress, groups)
        if self._tracking is not None:
            with suppress(DataError):  # reported by the evaluation
                self._tracking.images(sample_predictions(predictor, self.dataset), progress.step)
        best_before = progress.best_pq
        is_best = progress.add_evaluation(self._process.on_first(lambda: groups.all.pq))
        if is_best and not self._checkpoints.save_best(progress):
            progress.best_pq = best_before  # that of the file, so that a later model can replace it
        return True

    def _evaluated(self, predictor: Predictor, progress: TrainProgress, stop: StopRequest) -> Evaluator | None:
        """Return the merged evaluator of all images, on every rank; None after a stop or a failure."""
        stopping = SharedStop(stop, self._process, f"evaluation after step {progress.step}")
        skipped: list[str] | None = [] if self._recipe.data.skip_bad_images else None
        try:
            evaluator = evaluate_model(
                predictor, self.dataset, self._process, self._reporter, stop=stopping, skipped=skipped
            )
        except PanformerError as error:  # training must not end
            self._failed_step = progress.step
            is_over = progress.step >= self._total_steps or self.stops_early(progress) or bool(stop)
            later = "resume the run to evaluate again" if is_over else "training continues, and evaluates later"
            self._reporter.warn(f"the evaluation after step {progress.step} failed: {error}; {later}")
            return None
        left_out = [line for lines in self._process.gather(skipped or []) for line in lines]
        if evaluator.images + len(left_out) < len(self.dataset):
            return None
        if left_out:
            images = counted(len(left_out), "validation image")
            self._reporter.warn(f"PQ is without {images} that cannot be used: {listing(left_out, 3, '; ')}")
        return evaluator
