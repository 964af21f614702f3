"""A skipped step is recorded once, and computed again with the same values; the place where it failed is found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from panformer_cli.cli.main import main
from panformer_cli.data.structures import Batch, Targets
from panformer_cli.engine.checkpoints.checkpoint import TrainProgress
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.replay.bad_step import BadStep, read_bad_step
from panformer_cli.engine.training.replay.finite_watch import watching
from panformer_cli.engine.training.replay.recorder import BadStepRecorder
from panformer_cli.engine.training.replay.replay import Replay, replay
from panformer_cli.engine.training.replay.verdict import findings, next_step
from panformer_cli.engine.training.step import NO_LOSSES, OptimizerStep, StepInputs
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.errors import CheckpointError, PanformerError, WriteError
from panformer_cli.models.base import LossCounts, PanopticModel
from panformer_cli.models.build import build_model
from panformer_cli.recipe import Recipe
from panformer_cli.reporting import SilentReporter
from panformer_cli.storage.tensor_files import read_header
from tests.engine.small import ALONE, StopAfter, categories_of, small_recipe
from tests.engine.training.toy import ToyModel, toy_batch, use_toy_replays, use_toy_runs


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy_runs(monkeypatch)
    use_toy_replays(monkeypatch)


def recorded(folder: Path, model: PanopticModel, recipe: Recipe, batches: list[Batch]) -> tuple[Path, StepInputs]:
    """Take a step that must be skipped; return its file, and what it was computed from."""
    step = OptimizerStep(ALONE, model, recipe.train)
    torch.manual_seed(5)
    result = step.take(batches, 1.0)
    assert result.skipped is not None
    assert result.inputs is not None
    run = RunFolder(folder)
    recorder = BadStepRecorder(ALONE, run, model, SilentReporter())
    assert recorder.record(result.skipped, result.inputs, ["a.png"], recipe, TrainProgress(step=7))
    assert recorder.command == f"panformer train --replay {run.path / 'bad-step-7.safetensors'}"
    return run.bad_step(7, None), result.inputs


def toy_step(folder: Path, scenes: Path, value: float) -> tuple[Path, StepInputs]:
    """Record a step of the toy model whose second batch consists of this value."""
    torch.manual_seed(0)
    model = ToyModel(categories_of(scenes))  # type: ignore[abstract]
    recipe = small_recipe(scenes, "train.images_per_forward=2", "train.batch_size=4")
    return recorded(folder, model, recipe, [toy_batch(1), toy_batch(2, value, bad=True)])


@pytest.mark.parametrize(
    ("value", "reason", "module", "loss", "gradients"),
    [
        (math.nan, "loss", "layer", "square/0", {"layer.weight", "layer.bias", "norm.weight", "norm.bias"}),
        (math.inf, "loss", None, NO_LOSSES, set()),  # the model raises an error, and there is no backward pass
        (0.0, "gradient", None, None, {"layer.bias"}),
    ],
)
@pytest.mark.usefixtures("toy")
def test_a_step_is_computed_again_bit_for_bit_dropout_included(
    scenes: Path, tmp_path: Path, value: float, reason: str, module: str | None, loss: str | None, gradients: set[str]
) -> None:
    path, inputs = toy_step(tmp_path, scenes, value)
    before = torch.get_rng_state()
    found = replay(path, ALONE, SilentReporter())
    assert torch.equal(torch.get_rng_state(), before)
    assert (found.step.number, found.step.reason, found.step.images) == (7, reason, ["a.png"])
    assert [row.now for row in found.losses if row.batch == 0] == [float(each) for each in inputs.losses[0].values()]
    assert found.is_equal
    assert found.differs == []
    assert (found.watch.output, found.loss) == (module, loss)
    assert set(found.gradients) == gradients
    assert not found.weights
    assert found.images == (value == 0.0)


@pytest.mark.usefixtures("toy")
def test_finite_losses_with_a_sum_that_is_too_large_are_recorded_and_named(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two losses of 3e38: float32 ends at 3.4e38."""
    forward: Any = ToyModel.forward

    def large(self: ToyModel, batch: Batch, counts: LossCounts) -> Any:
        return {name: 0 * value + 3e38 for name, value in forward(self, batch, counts).items()}

    monkeypatch.setattr(ToyModel, "forward", large)
    path, _ = toy_step(tmp_path, scenes, 1.0)
    found = replay(path, ALONE, SilentReporter())
    assert found.is_equal
    assert (found.step.reason, found.loss, found.watch.output, found.gradients) == ("loss", "sum", None, [])
    assert "All outputs and losses are finite, but the sum of the losses is too large." in findings(found)
    assert next_step(found).startswith("resume from a checkpoint with a lower train.lr")


@pytest.mark.usefixtures("toy")
def test_other_values_and_an_other_device_are_reported(scenes: Path, tmp_path: Path) -> None:
    path, _ = toy_step(tmp_path, scenes, 0.0)
    metadata, tensors = read_header(path)[0], load_file(path)
    tensors["step.0.images"][0, 0, 0, 0] += 1e-3
    facts = json.loads(metadata["step"]) | {"device": "cuda"}
    save_file(tensors, path, metadata | {"step": json.dumps(facts)})
    found = replay(path, ALONE, SilentReporter())
    assert not found.is_equal
    assert findings(found)[0] == ("The losses differ from those in training (cuda): the device is cpu, and was cuda.")


def small_batch(value: float = 0.0) -> Batch:
    """Return an image of 64 x 64 pixels with one object and one stuff region, and `value` in a corner."""
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images[0, 0, 5, 5] += value
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 8:40, 8:40] = masks[1, 40:] = True
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [0.0, 40.0, 64.0, 64.0]])
    return Batch(images, torch.zeros(1, 64, 64, dtype=torch.bool), [Targets(torch.tensor([0, 8]), boxes, masks)], [3])


Damage = Callable[[PanopticModel], None]


def set_inf(name: str) -> Damage:
    def damage(model: PanopticModel) -> None:
        model.get_parameter(name).data.view(-1)[1] = math.inf

    return damage


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("backbone.body.layer3.0.conv1.weight", "backbone.body.layer3.0.conv1"),
        ("encoder.layers.0.norm2.bias", "encoder.layers.0.norm2"),
        ("stuff_mask_decoder.blocks.0", "stuff_mask_decoder.blocks.0"),
    ],
)
@pytest.mark.slow
def test_a_weight_of_infinity_is_named_with_its_module(scenes: Path, tmp_path: Path, name: str, module: str) -> None:
    recipe, categories = small_recipe(scenes, "model.backbone=resnet18"), categories_of(scenes)
    model = build_model(recipe.model, recipe.inference, categories, pretrained=False)
    name = next(own for own, _ in model.named_parameters() if own.startswith(name))
    set_inf(name)(model)
    path, _ = recorded(tmp_path, model, recipe, [small_batch()])
    found = replay(path, ALONE, SilentReporter())
    assert found.is_equal
    assert found.weights == [name]
    assert found.watch.output is not None
    assert found.watch.output == name.rpartition(".")[0]
    assert found.watch.output.startswith(module)
    assert found.watch.inputs_are_finite
    text = "\n".join(findings(found))
    assert f"First output that is not finite: {found.watch.output} (because of {name})." in text
    assert next_step(found).startswith("the weights were not finite before the step")


@pytest.mark.slow
def test_an_infinite_pixel_is_named_and_a_good_step_has_only_finite_outputs(scenes: Path, tmp_path: Path) -> None:
    recipe, categories = small_recipe(scenes, "model.backbone=resnet18"), categories_of(scenes)
    torch.manual_seed(0)
    model = build_model(recipe.model, recipe.inference, categories, pretrained=False)
    path, inputs = recorded(tmp_path, model, recipe, [small_batch(math.inf)])
    found = replay(path, ALONE, SilentReporter())
    assert found.is_equal
    assert found.watch.output == "backbone.renormalize"
    assert not found.weights
    assert findings(found)[1] == "The images of the step are not finite."
    assert next_step(found).startswith("check a.png and the annotation")
    with watching(model) as watch:
        losses = model.train()(small_batch(), inputs.counts)
        torch.stack(list(losses.values())).sum().backward()
    assert (watch.output, watch.gradient) == (None, None)


def diverging(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool]) -> None:
    """Multiply the images of some forward passes, counted from 1, by NaN."""
    calls = [0]
    forward: Any = ToyModel.forward

    def poisoned(self: ToyModel, batch: Batch, counts: LossCounts) -> Any:
        calls[0] += 1
        return forward(self, replace(batch, images=batch.images * (math.nan if bad(calls[0]) else 1.0)), counts)

    monkeypatch.setattr(ToyModel, "forward", poisoned)


@pytest.mark.usefixtures("toy")
def test_a_run_records_its_first_bad_step_and_names_the_command(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging(monkeypatch, lambda call: call in (2, 3))
    recipe = small_recipe(scenes, "train.images_per_forward=4", "train.epochs=2", "train.evaluate_every=9")
    reporter = StopAfter()
    run = train(recipe, TrainOptions(tmp_path / "run"), ALONE, reporter).run
    (path,) = run.bad_steps
    assert path.name == "bad-step-2.safetensors"
    assert f"; to find the cause, run `panformer train --replay {path}`" in reporter.warnings[0]
    assert "--replay" not in reporter.warnings[1]
    checkpoint, step = read_bad_step(path)
    assert (checkpoint.progress.step, step.number, len(step.image_ids)) == (1, 2, 4)
    longer = replace(recipe, train=replace(recipe.train, epochs=4, max_bad_steps=1))
    diverging(monkeypatch, lambda call: True)
    with pytest.raises(PanformerError, match=r"to find the cause, run `panformer train --replay .*bad-step-2\.safe"):
        train(longer, TrainOptions(run.path, resume=True), ALONE, SilentReporter())
    assert run.bad_steps == [path]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    "error", [WriteError("cannot write: No space left on device"), MemoryError("No space left on device")]
)
def test_a_full_disk_does_not_end_the_run_and_a_new_start_forgets_the_file(
    error: Exception, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same if something else prevents the file: other ranks wait for this one."""
    diverging(monkeypatch, lambda call: call == 1)
    recipe = small_recipe(scenes, "train.images_per_forward=4", "train.max_steps=2", "train.evaluate_every=9")
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.bad_step(9, None).write_bytes(b"of a run without a checkpoint")

    def full(self: BadStep, path: Path, *rest: Any) -> None:
        raise error

    monkeypatch.setattr(BadStep, "write", full)
    reporter = StopAfter()
    assert train(recipe, TrainOptions(run.path), ALONE, reporter).ended
    assert "No space left on device" in reporter.warnings[0]
    assert reporter.warnings[0].endswith("; the run continues without a record of step 1")
    assert "--replay" not in reporter.warnings[1]
    assert run.bad_steps == []


Content = tuple[dict[str, str], dict[str, torch.Tensor]]


def changed(**facts: object) -> Callable[[Content], Content]:
    def change(content: Content) -> Content:
        metadata, tensors = content
        return metadata | {"step": json.dumps(json.loads(metadata["step"]) | facts)}, tensors

    return change


def without(name: str) -> Callable[[Content], Content]:
    return lambda content: (content[0], {key: value for key, value in content[1].items() if key != name})


def with_tensor(name: str, value: torch.Tensor) -> Callable[[Content], Content]:
    return lambda content: (content[0], content[1] | {name: value})


DAMAGES: dict[str, tuple[Callable[[Content], Content], str]] = {
    "no step": (lambda content: ({k: v for k, v in content[0].items() if k != "step"}, content[1]), "no recorded step"),
    "not ours": (lambda content: ({}, content[1]), "no recorded step"),
    "no JSON": (lambda content: (content[0] | {"step": "{"}, content[1]), "the recorded step is corrupt"),
    "a list": (lambda content: (content[0] | {"step": "[]"}, content[1]), "the recorded step is corrupt"),
    "text as number": (changed(number="7"), "a number is out of range"),
    "threads": (changed(threads=0), "a number is out of range"),
    "sampling": (changed(sampling="other"), "a name is unknown"),
    "unknown fact": (changed(more=1), "the recorded step is corrupt"),
    "no batches": (changed(image_ids=[], losses=[]), "it has no images"),
    "no images": (without("step.1.images"), "the recorded step is corrupt"),
    "no weights": (without("model.layer.weight"), "missing: layer.weight"),
    "padding": (with_tensor("step.0.padding_mask", torch.zeros(1, 2, 2, dtype=torch.bool)), "padding and targets"),
    "flat image": (with_tensor("step.0.images", torch.zeros(2, 2)), "the recorded step is corrupt"),
    "label": (with_tensor("step.0.targets.0.labels", torch.tensor([999])), "a label is not one of the categories"),
    "boxes": (with_tensor("step.0.targets.0.boxes", torch.zeros(1, 3)), "targets of an image do not match"),
    "random": (with_tensor("step.random.cpu", torch.zeros(3)), "random state is corrupt"),
}


@pytest.mark.usefixtures("toy")
def test_files_that_cannot_be_used_are_refused_with_a_sentence(scenes: Path, tmp_path: Path) -> None:
    path, _ = toy_step(tmp_path, scenes, math.nan)
    content = read_header(path)[0], load_file(path)
    damaged = tmp_path / "damaged.safetensors"
    for name, (damage, expected) in DAMAGES.items():
        metadata, tensors = damage((content[0], dict(content[1])))
        save_file(tensors, damaged, metadata)
        with pytest.raises(CheckpointError) as raised:
            replay(damaged, ALONE, SilentReporter())
        assert expected in str(raised.value), name
        assert "\n" not in str(raised.value)
        assert str(damaged) in str(raised.value)
    for size in (0, 7, 100, path.stat().st_size - 1):
        damaged.write_bytes(path.read_bytes()[:size])
        with pytest.raises(CheckpointError, match="damaged"):
            replay(damaged, ALONE, SilentReporter())


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["train", *map(str, words)])
    return ended.value.code, *capsys.readouterr()


@pytest.mark.usefixtures("toy")
def test_the_command_prints_losses_and_places(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = toy_step(tmp_path, scenes, math.nan)
    content = path.read_bytes()
    code, out, _ = command(capsys, "--replay", path, "--device", "cpu")
    assert code == 0
    lines = [line.split() for line in out.splitlines() if "/0" in line]
    assert [(line[0], line[1], line[-1]) for line in lines] == [
        ("square/0", "1", "yes"),
        ("shift/0", "1", "yes"),
        ("square/0", "2", "no"),
        ("shift/0", "2", "no"),
    ]
    assert "All losses equal those in training, bit for bit." in out
    assert "First output that is not finite: layer (its input is not finite either)." in out
    assert "Gradients that are not finite: 4 of 4: layer.weight" in out
    assert "\nNext: check a.png" in out
    assert path.read_bytes() == content
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("tiny",), "RECIPE cannot be used with --replay"),
        (("--set", "train.lr=1"), "--set cannot be used with --replay"),
        (("--resume",), "--resume cannot be used with --replay"),
        (("--gpus", "2"), "--gpus cannot be used with --replay"),
        ((), "no such file; expected bad-step-<n>.safetensors"),
    ],
)
def test_the_command_refuses_other_options_and_missing_files(
    words: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = command(capsys, *words, "--replay", tmp_path / "bad-step-1.safetensors")
    assert code == 2
    assert expected in " ".join(err.split())


def test_a_step_without_a_failure_has_advice_for_one_and_for_several_processes() -> None:
    inputs = StepInputs([], LossCounts(1, 1), 1.0, {}, [])
    step = BadStep(7, "gradient", ["a.png"], 0, 1, "cpu", "auto", 1, inputs)
    found = Replay(step, [], True, [], [], True, 3.0, watching_nothing(), None, [], 4)
    assert next_step(found).startswith("the step does not fail here")
    huge = replace(found, largest_pixel=3e38)
    assert "The images have values up to 3e+38 after normalization; expected about -3 to 3." in findings(huge)
    assert next_step(huge).startswith("check a.png and the annotation")
    several = replace(found, step=replace(step, rank=1, world_size=2))
    assert next_step(several).startswith("process 1 does not fail here by itself; replay the files of the other")


def watching_nothing() -> Any:
    with watching(torch.nn.Identity()) as watch:
        return watch
