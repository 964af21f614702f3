"""Settings of how torch computes: they are applied, reported, refused where they have no meaning, and restored."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.runs import RunFolder
from panformer_cli.engine.training.numerics import (
    check_sync_batch_norm,
    nondeterministic,
    numerics,
    synchronize_batch_norms,
)
from panformer_cli.engine.training.optimizer import build_optimizer
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.errors import RecipeError
from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.reporting import SilentReporter
from panformer_cli.settings import TrainSettings
from tests.engine.small import ALONE, StopAfter, run_small, small_recipe, small_scenes
from tests.engine.training.toy import toy_model

GPU = Process(0, 2, torch.device("cuda"))


def torch_state() -> tuple[object, ...]:
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
    )


FUSED = torch_state()[5:]
"""Whether attention may use its two fused kernels, whose backward passes are not deterministic on a GPU."""


@pytest.mark.parametrize(
    ("settings", "process", "expected"),
    [
        (TrainSettings(), GPU, torch_state()),
        (TrainSettings(tf32=True), GPU, (True, True, False, False, False, *FUSED)),
        (TrainSettings(tf32=False), GPU, (False, False, False, False, False, *FUSED)),
        (TrainSettings(deterministic=True), GPU, (*torch_state()[:2], True, True, True, False, False)),
        (TrainSettings(deterministic=True), ALONE, (*torch_state()[:2], True, True, False, *FUSED)),
    ],
)
def test_settings_hold_during_the_run_only(
    settings: TrainSettings, process: Process, expected: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    before = torch_state()
    with pytest.raises(KeyError), numerics(settings, process, SilentReporter()):
        assert torch_state() == expected
        raise KeyError
    assert torch_state() == before


@pytest.mark.parametrize("sampling", ["auto", "triton", "portable"])
def test_what_stays_nondeterministic_on_a_gpu_is_reported_before_the_start(
    sampling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    reporter = StopAfter()
    process = Process(0, 1, torch.device("cuda"), sampling=sampling)
    with numerics(TrainSettings(deterministic=True), process, reporter):
        (warning,) = reporter.warnings
    assert "train.deterministic: on a GPU, the backward pass of deformable attention" in warning
    assert "--sampling gather" in warning
    with numerics(TrainSettings(), process, reporter):
        assert len(reporter.warnings) == 1


def test_nothing_is_known_to_be_nondeterministic_on_a_cpu_or_with_gather() -> None:
    assert nondeterministic("cpu", "auto") == ""
    assert nondeterministic("cuda", "gather") == ""


@pytest.mark.parametrize(
    ("overrides", "process", "problem"),
    [
        (["model.frozen_batch_norm=true"], GPU, "all BatchNorms are frozen; set model.frozen_batch_norm=false"),
        (["model.frozen_batch_norm=false"], Process(0, 1, torch.device("cuda")), "there is only one process"),
        (["model.frozen_batch_norm=false"], Process(0, 2, torch.device("cpu")), "it needs GPUs, and this run uses cpu"),
    ],
)
def test_sync_batch_norm_is_refused_where_it_has_no_meaning(
    overrides: list[str], process: Process, problem: str
) -> None:
    recipe = small_recipe(Path("data"), "train.sync_batch_norm=true", *overrides)
    with pytest.raises(RecipeError, match=f"train.sync_batch_norm is true, but {problem}"):
        check_sync_batch_norm(recipe, process)


def test_sync_batch_norm_is_accepted_on_several_gpus() -> None:
    recipe = small_recipe(Path("data"), "train.sync_batch_norm=true", "model.frozen_batch_norm=false")
    check_sync_batch_norm(recipe, GPU)


def test_only_batch_norms_that_are_trained_are_synchronized() -> None:
    """The stem and the first stage of the ResNet are frozen."""
    backbone = build_backbone("resnet18", 0.0, 2, False)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    synchronize_batch_norms(backbone)
    after = backbone.train().state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert {isinstance(norm, nn.SyncBatchNorm) for norm in norms} == {True, False}
    assert all(isinstance(norm, nn.SyncBatchNorm) == norm.training for norm in norms)


def test_adamw_is_fused_where_the_device_has_it() -> None:
    model: Any = toy_model()
    assert build_optimizer(model, TrainSettings()).defaults["fused"]
    other = SimpleNamespace(
        parameter_groups=lambda _: [
            SimpleNamespace(parameters=[nn.Parameter(torch.ones(2, device="meta"))], lr_factor=1)
        ],
        modules=model.modules,
    )
    assert not build_optimizer(other, TrainSettings()).defaults["fused"]  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_deterministic_runs_on_a_cpu_have_equal_bytes(scenes: Path, tmp_path: Path) -> None:
    overrides = ("train.deterministic=true", "train.max_steps=2", "model.dropout=0.2", "train.ema_decay=0.9")
    runs = [RunFolder(run_small(small_recipe(scenes, *overrides), tmp_path / name)) for name in ("one", "two")]
    one, two = (load_file(run.last) for run in runs)
    assert {name.partition(".")[0] for name in one} >= {"model", "averaged", "optimizer", "random"}
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert value.numpy().tobytes() == two[name].numpy().tobytes(), name


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    data = small_scenes(tmp_path / "scenes", 1, 1)
    recipe = small_recipe(data, "train.sync_batch_norm=true", "model.frozen_batch_norm=false")
    with pytest.raises(RecipeError, match="there is only one process"):
        train(recipe, TrainOptions(tmp_path / "run"), ALONE, SilentReporter())
    assert not (tmp_path / "run").exists()
