"""Training on a GPU: gradients, precisions, deterministic runs and resumes, and memory; skipped if there is none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.loading import train_loader
from panformer_cli.data.structures import Batch
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.averaging import AveragedWeights
from panformer_cli.engine.training.memory import probe
from panformer_cli.engine.training.memory.parts import use_parts
from panformer_cli.engine.training.memory.plan import MemoryPlan
from panformer_cli.engine.training.numerics import numerics, synchronize_batch_norms
from panformer_cli.engine.training.optimizer import build_optimizer
from panformer_cli.engine.training.step import OptimizerStep, StepResult
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.models.base import LossCounts
from panformer_cli.models.build import build_model
from panformer_cli.models.layers.recompute import recompute_in_backward
from panformer_cli.models.panoptic_segformer.settings import PanopticSegFormerSettings
from panformer_cli.recipe import Recipe
from panformer_cli.reporting import SilentReporter
from panformer_cli.settings import TrainSettings
from tests.engine.ranks import in_processes
from tests.engine.small import StopAfter, categories_of, small_recipe, small_scenes
from tests.engine.training.test_train import interrupt
from tests.engine.training.toy import toy_model
from tests.models.panoptic_segformer.small import images_of, no_padding, scramble, small_model
from tests.models.panoptic_segformer.test_model import ONE_STUFF, SIZE, TWO_THINGS_AND_STUFF

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]

GPU = Process(0, 1, torch.device("cuda"))
EXACT = Process(0, 1, torch.device("cuda"), sampling="gather")
"""With `train.deterministic`, this process computes the same every time."""
PARTS = PanopticSegFormerSettings.parts


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_scenes(tmp_path_factory.mktemp("gpu") / "scenes", 8, 2)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Ignore torch's warnings about operations that may be nondeterministic; the tests compare their results."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def gradients_with(*parts: str) -> dict[str, Tensor]:
    """Return the gradients of two accumulated passes with these parts checkpointed."""
    model = small_model(dropout=0.5, encoder_layers=2, frozen_stages=0, sampling="gather").train()
    scramble(model)
    model.cuda()
    for part in parts:
        recompute_in_backward(model.parts()[part])
    torch.manual_seed(5)
    for targets in (TWO_THINGS_AND_STUFF, ONE_STUFF):
        images = images_of(2, SIZE)
        losses = model(Batch(images, no_padding(images), [targets] * 2).to("cuda"), LossCounts(1.0, 1.0))
        torch.stack(list(losses.values())).sum().backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("parts", [*((part,) for part in PARTS), PARTS], ids=",".join)
def test_checkpointed_parts_give_the_same_gradients_bit_for_bit(parts: tuple[str, ...]) -> None:
    with numerics(TrainSettings(deterministic=True), EXACT, SilentReporter()):
        expected, actual = gradients_with(), gradients_with(*parts)
    assert expected.keys() == actual.keys()
    for name, gradient in expected.items():
        assert torch.equal(gradient, actual[name]), name


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_deterministic_run_is_repeated_and_resumed_bit_for_bit(precision: str, data: Path, tmp_path: Path) -> None:
    overrides = ("train.deterministic=true", "train.ema_decay=0.9", "model.dropout=0.2", "train.max_steps=4")
    recipe = small_recipe(data, *overrides, f"train.precision={precision}", "train.epochs=9", "train.evaluate_every=9")
    one, two, resumed = (RunFolder(tmp_path / name) for name in ("one", "two", "resumed"))
    for run in (one, two):
        train(recipe, TrainOptions(run.path), EXACT, SilentReporter())
    assert not train(recipe, TrainOptions(resumed.path), EXACT, StopAfter(2, interrupt)).ended
    torch.manual_seed(12345)  # a new process would not have our random state
    train(recipe, TrainOptions(resumed.path, resume=True), EXACT, SilentReporter())
    expected = load_file(one.last)
    assert ("scaler.scale" in expected) == (precision == "fp16")
    for run in (two, resumed):
        actual = load_file(run.last)
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            assert value.numpy().tobytes() == actual[name].numpy().tobytes(), (run.path.name, name)


def first_step(recipe: Recipe, data: Path) -> tuple[OptimizerStep, StepResult]:
    """Return a new model's optimizer step, and the result of the first one that fp16 does not skip."""
    torch.manual_seed(0)
    model = build_model(recipe.model, recipe.inference, categories_of(data)).cuda()
    step = OptimizerStep(GPU, model, recipe.train)
    batches = next(iter(train_loader(CocoPanoptic(data, "train"), recipe).epoch(0)))
    result = step.take(batches, 1.0)
    for _ in range(20):
        if result.skipped is None or result.skipped.reason != "overflow":
            break
        result = step.take(batches, 1.0)
    return step, result


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_in_half_precision_has_the_loss_and_the_norm_of_float32(precision: str, data: Path) -> None:
    results = []
    for name in ("fp32", precision):
        step, result = first_step(small_recipe(data, f"train.precision={name}"), data)
        assert step.scaler.is_enabled() == (name == "fp16")
        assert result.skipped is None
        results.append(result)
    assert results[1].loss == pytest.approx(results[0].loss, rel=0.02)
    assert float(results[1].gradient_norm) == pytest.approx(float(results[0].gradient_norm), rel=0.3)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability()[0] < 8, reason="this GPU has no TF32"
)
@pytest.mark.parametrize("allowed", [False, True])
def test_tf32_is_used_only_if_the_settings_allow_it(allowed: bool) -> None:
    """TF32 has 10 bits of mantissa, float32 23."""
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = one.double() @ other.double()
    images, kernel = one[None, None].expand(1, 32, -1, -1), other[:96, :96].reshape(32, 32, 3, 3)
    convolved = nn.functional.conv2d(images.double(), kernel.double())
    with numerics(TrainSettings(tf32=allowed), GPU, SilentReporter()):
        product = (one.cuda() @ other.cuda()).cpu()
        features = nn.functional.conv2d(images.cuda(), kernel.cuda()).cpu()
    for actual, expected in ((product, exact), (features, convolved)):
        error = float((actual - expected).norm() / expected.norm())
        assert (1e-5 < error < 1e-2) if allowed else error < 1e-5


def test_fused_adamw_and_the_average_are_those_of_the_cpu() -> None:
    settings = TrainSettings(lr=0.1, weight_decay=0.1)
    results = []
    for device in ("cpu", "cuda"):
        model = toy_model().to(device)
        optimizer, average = build_optimizer(model, settings), AveragedWeights(model, 0.9)
        assert optimizer.defaults["fused"]
        generator = torch.Generator().manual_seed(1)
        for update in (1, 2, 3):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(device)
            optimizer.step()
            average.update(model, update)
        results.append((model.state_dict(), average.model.state_dict()))
    for on_cpu, on_gpu in zip(*results, strict=True):
        for name, value in on_cpu.items():
            torch.testing.assert_close(on_gpu[name].cpu(), value, rtol=1e-5, atol=1e-6, msg=name)


def synchronized_statistics(process: Process) -> dict[str, Tensor]:
    """Return the statistics and the gradient of the input after a pass over this rank's half of 8 images."""
    norm = nn.Sequential(nn.BatchNorm2d(3)).cuda()
    synchronize_batch_norms(norm)
    assert isinstance(norm[0], nn.SyncBatchNorm)
    images = images_of(8, (4, 4))[4 * process.rank :][:4].cuda().requires_grad_()
    norm(images).pow(3).sum().backward()
    assert images.grad is not None
    statistics = {name: value.cpu() for name, value in norm.state_dict().items()}
    return statistics | {"gradient": images.grad.cpu()}


def test_synchronized_batch_norms_of_two_processes_are_one_over_all_images() -> None:
    """Both processes use the same GPU, which NCCL refuses, so they communicate with gloo."""
    ranks = in_processes(2, synchronized_statistics)
    alone = nn.BatchNorm2d(3).cuda()
    images = images_of(8, (4, 4)).cuda().requires_grad_()
    alone(images).pow(3).sum().backward()
    assert images.grad is not None
    for rank, actual in enumerate(ranks):
        torch.testing.assert_close(actual["gradient"], images.grad[4 * rank :][:4].cpu(), rtol=1e-3, atol=1e-4)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(actual[f"0.{name}"], value.cpu(), rtol=1e-4, atol=1e-5, msg=name)


def test_a_compiled_part_has_the_losses_and_gradients_of_an_eager_one() -> None:
    results = []
    for compiled in ((), ("encoder",)):
        model = small_model(encoder_layers=2).train()
        scramble(model)
        use_parts(model.cuda(), TrainSettings(compile=compiled), GPU.device, SilentReporter())
        images = images_of(1, SIZE)
        losses = model(Batch(images, no_padding(images), [TWO_THINGS_AND_STUFF]).to("cuda"), LossCounts(2.0, 1.0))
        torch.stack(list(losses.values())).sum().backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        results.append({**losses, **gradients})
    expected, actual = results
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert float((actual[name] - value).norm()) <= 1e-2 * float(value.norm()) + 1e-5, name


def test_fitting_stays_within_the_limit_and_a_run_without_memory_falls_back(data: Path, tmp_path: Path) -> None:
    """The limit is between what the recipe needs and the least that its images per step need."""
    sizes = ("data.short_side=384", "data.long_side=384", "data.train_short_sides=[384]", "train.max_steps=1")
    batch = ("train.batch_size=8", "train.images_per_forward=8", "model.frozen_batch_norm=true")
    recipe = small_recipe(data, *sizes, *batch, "train.precision=bf16")
    plan, reporter = MemoryPlan.of(recipe.train), StopAfter()
    trial = probe._Trial(recipe, CocoPanoptic(data, "train"), GPU, 1e12)
    large, small = trial(plan), trial(replace(plan, images_per_forward=1, checkpoint=PARTS))
    assert large is not None
    assert small is not None
    assert small.memory < 0.7 * large.memory
    limit = (large.memory + small.memory) / 2

    fitted = MemoryPlan.of(probe.fit_memory(recipe, limit, GPU, reporter).train)
    assert fitted != plan
    assert f"Fits in {limit / 1e9:.1f} GB: {fitted}" in reporter.messages
    needed = trial(fitted)
    assert needed is not None
    assert needed.memory <= limit

    total = torch.cuda.get_device_properties(0).total_memory
    probe.release_memory(GPU.device)
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        result = train(recipe, TrainOptions(tmp_path / "run"), GPU, reporter)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.ended
    assert any("memory ran out in step 1; training continues with" in warning for warning in reporter.warnings)
