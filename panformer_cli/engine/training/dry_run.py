"""Try a recipe on its data without a run folder: one optimizer step, one evaluated image, and what a run would cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from panformer_cli.data.structures import Batch
from panformer_cli.engine.benchmarking.meters import PeakMemory, clock_of, flop_meter
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.evaluate import evaluate_model
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.data_checks import check_length
from panformer_cli.engine.training.memory.lower_bound import check_fits
from panformer_cli.engine.training.train import with_absolute_root
from panformer_cli.engine.training.trainer import Trainer
from panformer_cli.models.backbones.feature_layout import check_backbone_name
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_checks import check_batch_norm, check_run
from panformer_cli.reporting import Reporter, SilentReporter


@dataclass(frozen=True)
class DryRun:
    """What a dry run found.

    Attributes:
        device: Device of the model.
        training_images: Number of training images.
        validation_images: Number of validation images.
        steps_per_epoch: Optimizer steps of an epoch.
        total_steps: Optimizer steps of the whole run.
        inputs: Shapes (B, 3, H, W) of the batches of the step, of one process.
        segments: Number of target segments in these batches.
        parameters: Number of parameters.
        trained: Number of parameters that are trained.
        forward_flops: FLOPs of the network for one validation image (`meters.flop_meter`).
        forward_input: Shape (1, 3, H, W) of that image.
        loss: Sum of the losses of the step, of one process.
        step_seconds: Time of an optimizer step, without loading its images.
        peak_mib: Peak memory of the step in MiB; None if the system does not report it.
        memory_kind: What the peak memory includes, in words.
        evaluation_seconds: Time to evaluate one image.
        epoch_seconds: Estimated time of an epoch with its share of evaluations, if loading images is not the limit.
    """

    device: str
    training_images: int
    validation_images: int
    steps_per_epoch: int
    total_steps: int
    inputs: list[tuple[int, ...]]
    segments: int
    parameters: int
    trained: int
    forward_flops: float
    forward_input: tuple[int, ...]
    loss: float
    step_seconds: float
    peak_mib: float | None
    memory_kind: str
    evaluation_seconds: float
    epoch_seconds: float


def dry_run(recipe: Recipe, process: Process, reporter: Reporter) -> DryRun:
    """Build data, model and optimizer as a new run does, and take a step and evaluate an image with them.

    Nothing is kept: the step changes only the model in memory. The first step, in which kernels are compiled, is not
    measured; a second one on the same images is. Every rank calls this.

    Raises:
        PanformerError: Recipe or data cannot be used, or the step fails.
    """
    for warning in check_run(recipe):
        reporter.warn(warning)
    check_backbone_name(recipe.model.backbone)
    process.on_first(lambda: check_fits(recipe, process))
    with TemporaryDirectory(prefix="panformer-") as folder:  # nothing writes to it
        trainer = Trainer(process, with_absolute_root(recipe), RunFolder(Path(folder) / "run"), reporter)
        steps = trainer.loader.steps_per_epoch
        check_batch_norm(recipe.model, bool(trainer.model.backbone.batch_norms))
        check_length(recipe.train, trainer.training_images, steps, reporter)
        reporter.message("Dry run: loading a batch, and taking a step")
        batches = next(trainer.loader.epoch(0))
        _step(trainer, batches)
        memory = PeakMemory(process.device)
        memory.reset()
        loss, step_seconds = _step(trainer, batches)
        peak = memory.mib()
        evaluation_seconds, flops, shape = _evaluate(trainer)
    evaluating = (
        evaluation_seconds * -(-len(trainer.validation.dataset) // process.world_size) / recipe.train.evaluate_every
    )
    parameters = list(trainer.model.parameters())
    return DryRun(
        device=str(process.device),
        training_images=trainer.training_images,
        validation_images=len(trainer.validation.dataset),
        steps_per_epoch=steps,
        total_steps=trainer.total_steps,
        inputs=[tuple(batch.images.shape) for batch in batches],
        segments=sum(len(target.labels) for batch in batches for target in batch.targets),
        parameters=sum(parameter.numel() for parameter in parameters),
        trained=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        forward_flops=flops,
        forward_input=shape,
        loss=loss,
        step_seconds=step_seconds,
        peak_mib=peak,
        memory_kind=memory.kind,
        evaluation_seconds=evaluation_seconds,
        epoch_seconds=steps * step_seconds + evaluating,
    )


def _step(trainer: Trainer, batches: list[Batch]) -> tuple[float, float]:
    """Take an optimizer step at the full learning rate, and return the mean loss of its batches and its time."""
    read = clock_of(trainer.process.device)
    begin = read()
    losses = trainer.step.take(batches, 1.0).losses
    seconds = read() - begin
    return sum(float(value) for of_batch in losses for value in of_batch.values()) / len(losses), seconds


def _evaluate(trainer: Trainer) -> tuple[float, float, tuple[int, ...]]:
    """Evaluate the first validation image; return the time, the FLOPs of its forward pass and its input shape."""
    model, sample = trainer.model.eval(), trainer.validation.dataset[0]
    predictor = Predictor(model, trainer.recipe, trainer.process.device)
    images, padding_mask = predictor.prepare([sample.image])
    with torch.inference_mode(), flop_meter(model) as read_flops:
        predictor.infer(images, padding_mask)
        flops = read_flops()
    read = clock_of(trainer.process.device)
    begin = read()
    # Each rank evaluates this image for itself.
    evaluate_model(predictor, [sample], Process(0, 1, trainer.process.device), SilentReporter())
    return read() - begin, flops, tuple(images.shape)
