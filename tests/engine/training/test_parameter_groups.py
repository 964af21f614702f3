"""Options that divide the optimizer's parameter groups: layer decay, no decay of norms, and frozen parts."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from panformer_cli.engine.checkpoints.checkpoint import MODEL, read_checkpoint, read_tensors
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.optimizer import build_optimizer
from panformer_cli.engine.training.schedule import set_learning_rate
from panformer_cli.engine.training.train import RunResult, TrainOptions, train
from panformer_cli.engine.training.trainer import Trainer
from panformer_cli.errors import PanformerError, RecipeError
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from panformer_cli.reporting import SilentReporter
from panformer_cli.settings import TrainSettings
from tests.engine.ranks import in_processes
from tests.engine.small import ALONE, small_recipe
from tests.engine.training.test_optimizer import settings_of
from tests.models.panoptic_segformer.small import small_model

BACKBONES = [
    "resnet18",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("swin_tiny", "pvt_v2_b0", "timm/convnext_tiny")),
]


def on_meta(backbone: str) -> PanopticSegFormer:
    with torch.device("meta"):
        return small_model(backbone=backbone, frozen_batch_norm=False)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_only_matrices_of_linear_and_convolutional_layers_decay(backbone: str) -> None:
    model = on_meta(backbone)
    ours = settings_of(model, build_optimizer(model, TrainSettings(decay_norms_and_biases=False, weight_decay=0.05)))
    owners = dict(model.named_modules())
    assert set(ours) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".")
        norm = "norm" in type(owners[owner]).__name__.lower()
        embedding = isinstance(owners[owner], nn.Embedding) or kind.endswith(("embed", "embedding", "bias_table"))
        assert ours[name][1] == (0.0 if parameter.ndim <= 1 or norm or embedding else 0.05), name
    assert ours["location_decoder.query_embedding.weight"][1] == ours["encoder.level_embedding"][1] == 0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_rates_of_layers_decay_towards_the_stem(backbone: str) -> None:
    model = on_meta(backbone)
    settings = TrainSettings(lr=1e-3, slow_lr_factor=0.5, layer_decay=0.8)
    optimizer = build_optimizer(model, settings)
    rates = {name: lr for name, (lr, _) in settings_of(model, optimizer).items()}
    own = [lr for name, lr in rates.items() if name.startswith("backbone.")]
    depths = len(set(own))
    assert depths > 3
    assert sorted(set(own), reverse=True) == pytest.approx([5e-4 * 0.8**depth for depth in range(1, depths + 1)])
    names = [name for name, _ in model.named_parameters() if name.startswith("backbone.body.")]
    assert rates[names[0]] == min(own) and max(own) == pytest.approx(4e-4)
    assert rates["neck.levels.0.conv.weight"] == 1e-3
    assert rates["location_decoder.reference_points.weight"] == 5e-4  # slow, but no layer of the backbone
    for factor in (0.5, 0.5, 1.0):  # the decay is not multiplied in again
        set_learning_rate(optimizer, factor)
        again = {name: lr for name, (lr, _) in settings_of(model, optimizer).items()}
        assert again == pytest.approx({name: lr * factor for name, lr in rates.items()})


def test_rates_of_resnet18_by_hand() -> None:
    """The stem and 8 blocks."""
    model = on_meta("resnet18")
    rates = settings_of(model, build_optimizer(model, TrainSettings(lr=1.0, slow_lr_factor=1.0, layer_decay=0.5)))
    for name, exponent in (("conv1", 9), ("layer1.0.conv1", 8), ("layer3.0.downsample.0", 4), ("layer4.1.bn2", 1)):
        assert rates[f"backbone.body.{name}.weight"][0] == 0.5**exponent


@pytest.mark.slow
def test_both_options_together_have_each_parameter_once() -> None:
    model = on_meta("timm/convnext_tiny")
    optimizer = build_optimizer(model, TrainSettings(decay_norms_and_biases=False, layer_decay=0.9))
    assert len(settings_of(model, optimizer)) == len(list(model.parameters()))
    assert len({(group["lr"], group["weight_decay"]) for group in optimizer.param_groups}) == len(
        optimizer.param_groups
    )


@pytest.mark.slow
def test_layer_decay_needs_a_backbone_with_layers() -> None:
    with pytest.raises(PanformerError, match="the layers of the backbone timm/caformer_s18 are unknown"):
        build_optimizer(on_meta("timm/caformer_s18"), TrainSettings(layer_decay=0.9))


@pytest.mark.parametrize("value", [0.0, -0.5, 1.1, float("nan")])
def test_impossible_layer_decays_are_rejected(value: float) -> None:
    with pytest.raises(RecipeError, match=r"train.layer_decay is .*: expected more than 0 and at most 1"):
        TrainSettings(layer_decay=value)


def test_frozen_parts_are_not_in_the_optimizer() -> None:
    model = on_meta("resnet18")
    model.freeze(["backbone", "stuff_queries"])
    ours = settings_of(model, build_optimizer(model, TrainSettings(layer_decay=0.9)))
    assert {name.split(".")[0] for name in ours} == {
        "neck",
        "encoder",
        "location_decoder",
        "thing_mask_decoder",
        "stuff_mask_decoder",
    }


@pytest.mark.slow
def test_training_mode_does_not_reach_frozen_parts() -> None:
    model = small_model(dropout=0.5, frozen_batch_norm=False)
    model.freeze(["backbone", "encoder"])
    for _ in range(2):
        model.train()
        assert not any(module.training for part in (model.backbone, model.encoder) for module in part.modules())
        assert model.neck.training and model.location_decoder.training and model.training
        model.eval()
        assert not model.neck.training
    copied = copy.deepcopy(model).train()
    assert not copied.encoder.training and copied.neck.training


@pytest.mark.slow
def test_unknown_parts_and_a_model_without_trained_parts_are_rejected() -> None:
    with pytest.raises(
        RecipeError, match=r"train.freeze has head: expected parts of the model: backbone, neck, encode"
    ):
        small_model().freeze(["backbone", "head"])
    names = [name for name, part in small_model().named_children() if list(part.parameters())]
    assert "criterion" not in names and len(names) == 7
    with pytest.raises(RecipeError, match="no weight is left to train; leave out a part"):
        small_model().freeze(names)


def train_in(process: Process, recipe: object, options: TrainOptions) -> RunResult:
    return train(recipe, options, process, SilentReporter())  # type: ignore[arg-type]


@pytest.mark.slow
def test_frozen_parts_stay_bit_identical_in_a_run(scenes: Path, tmp_path: Path) -> None:
    """Two epochs with an evaluation in between, and a step in two processes; BatchNorm would learn its statistics."""
    frozen = ("train.freeze=[backbone, stuff_mask_decoder]", "model.frozen_batch_norm=false", "train.batch_size=8")
    recipe = small_recipe(scenes, *frozen, "train.epochs=2")
    trainer = Trainer(ALONE, recipe, RunFolder(tmp_path / "unused"), SilentReporter())
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}

    def changed(run: RunFolder) -> set[str]:
        after = read_tensors(run.last, MODEL)
        return {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}

    expected = {"neck", "encoder", "location_decoder", "thing_mask_decoder", "stuff_queries"}
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    train_in(ALONE, recipe, TrainOptions(one.path))
    assert read_checkpoint(one.last).progress.step == 2
    assert changed(one) == expected
    in_processes(2, train_in, small_recipe(scenes, *frozen, "train.max_steps=1"), TrainOptions(two.path))
    assert changed(two) == expected


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 300])
def test_names_of_parts_are_checked_as_texts(name: str) -> None:
    assert TrainSettings(freeze=("backbone", "neck")).freeze == ("backbone", "neck")
    with pytest.raises(RecipeError, match=r"train.freeze is .*: expected values of "):
        TrainSettings(freeze=("backbone", name))
