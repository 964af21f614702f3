"""A frozen backbone: no gradients, no activations, no optimizer state, nothing changed, and exact resumes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from panformer_cli.data.structures import Batch
from panformer_cli.engine.checkpoints.checkpoint import (
    AVERAGED,
    MODEL,
    OPTIMIZER,
    load_optimizer_state,
    optimizer_state,
    read_tensors,
)
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.optimizer import build_optimizer
from panformer_cli.engine.training.step import OptimizerStep
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.engine.training.trainer import Trainer
from panformer_cli.reporting import SilentReporter
from panformer_cli.settings import TrainSettings
from tests.engine.small import ALONE, BACKBONE, StopAfter, small_recipe
from tests.models.panoptic_segformer.small import images_of, no_padding, small_model, targets_of

FROZEN = ("train.freeze=[backbone]", "model.frozen_batch_norm=false", "train.ema_decay=0.9", "model.dropout=0.1")


@pytest.mark.slow
def test_nothing_is_kept_for_the_backward_pass_and_no_gradient_exists() -> None:
    """With BatchNorms that would otherwise be trained."""
    model = small_model(backbone=BACKBONE, frozen_batch_norm=False)
    model.freeze(["backbone"])
    step = OptimizerStep(ALONE, model, TrainSettings(batch_size=2, images_per_forward=2))
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    kept: list[Tensor] = []
    images = images_of(2, (64, 96))

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = model.backbone(images)
        assert (kept, [feature.requires_grad for feature in features]) == ([], [False] * 3)
        model.neck(features)
    assert kept

    targets = [targets_of((64, 96), (0, (8, 8, 40, 40)), (4, (40, 0, 96, 64))) for _ in range(2)]
    step.take([Batch(images, no_padding(images), targets, [0, 1])], 1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert step.optimizer.state
    assert not {*step.optimizer.state} & {*model.backbone.parameters()}


def test_a_part_that_is_frozen_or_trained_from_a_resume_on_starts_without_moments() -> None:
    def optimizer_of(*frozen: str) -> torch.optim.AdamW:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        model.freeze(frozen)
        return build_optimizer(model, TrainSettings())

    with torch.device("meta"):
        model = small_model(backbone=BACKBONE, frozen_batch_norm=False)
    of_all = optimizer_of()
    for parameter in model.parameters():
        of_all.state[parameter] = {"exp_avg": torch.zeros(1), "exp_avg_sq": torch.zeros(1), "step": torch.ones(())}
    saved = optimizer_state(model, of_all)
    frozen = optimizer_of("backbone")
    load_optimizer_state(model, frozen, saved)
    assert {*frozen.state} == {*model.parameters()} - {*model.backbone.parameters()}
    saved = optimizer_state(model, frozen)
    trained = optimizer_of()
    load_optimizer_state(model, trained, saved)
    assert {*trained.state} == {*frozen.state}


@pytest.mark.slow
def test_a_run_with_an_average_resumes_exactly(scenes: Path, tmp_path: Path) -> None:
    recipe = small_recipe(scenes, *FROZEN, "train.epochs=2", "train.batch_size=2", "train.images_per_forward=1")
    initial = Trainer(ALONE, recipe, RunFolder(tmp_path / "unused"), SilentReporter()).model.backbone.state_dict()
    reporter = StopAfter()
    whole = train(recipe, TrainOptions(tmp_path / "whole"), ALONE, reporter).run
    assert any("train.freeze has backbone, whose weights are random and stay so" in text for text in reporter.warnings)
    run = RunFolder(tmp_path / "run")
    stopping = StopAfter(3, lambda: signal.raise_signal(signal.SIGINT))
    assert not train(recipe, TrainOptions(run.path), ALONE, stopping).ended
    reporter = StopAfter()
    train(recipe, TrainOptions(run.path, resume=True), ALONE, reporter)
    assert not any("train.freeze" in text for text in reporter.warnings)
    for prefix in (MODEL, OPTIMIZER, AVERAGED):
        one, other = read_tensors(whole.last, prefix), read_tensors(run.last, prefix)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        own = {name.removeprefix("backbone."): tensor for name, tensor in one.items() if name.startswith("backbone.")}
        if prefix == OPTIMIZER:
            assert one and not own
        else:
            assert own.keys() == initial.keys()
            assert all(torch.equal(tensor, initial[name]) for name, tensor in own.items())
