"""Settings of a new run that only the data can contradict."""

from __future__ import annotations

from pathlib import Path

import pytest

from panformer_cli.engine.training.data_checks import check_length
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.errors import RecipeError
from panformer_cli.settings import TrainSettings
from tests.engine.small import ALONE, StopAfter, small_recipe, small_scenes


def warnings(images: int, steps_per_epoch: int, **settings: int | None) -> list[str]:
    reporter = StopAfter()
    train_settings = TrainSettings(**{"epochs": 2, "batch_size": 4, **settings})  # type: ignore[arg-type]
    check_length(train_settings, images, steps_per_epoch, reporter)
    return reporter.warnings


def test_a_warmup_as_long_as_the_run_is_refused() -> None:
    assert warnings(20, 5, warmup_steps=9) == []
    with pytest.raises(RecipeError) as caught:
        warnings(20, 5, warmup_steps=10)
    assert str(caught.value) == (
        "train.warmup_steps is 10, but the run has only 10 steps (2 epochs of 5 steps), so the learning rate would "
        "never reach train.lr; set train.warmup_steps lower or train.epochs higher"
    )


def test_a_run_stopped_during_its_warmup_is_warned_about() -> None:
    assert warnings(20, 5, warmup_steps=4, max_steps=5) == []
    assert warnings(20, 5, warmup_steps=5, max_steps=5) == [
        "train.max_steps is 5, which stops the run during its warm-up of 5 steps"
    ]


def test_a_batch_of_more_images_than_there_are_is_warned_about() -> None:
    assert warnings(4, 1) == []
    assert warnings(3, 1) == [
        "train.batch_size is 4, but the training split has 3 images: each optimizer step repeats some of them; use "
        "--set train.batch_size=3 or less"
    ]


@pytest.mark.slow
def test_refused_settings_leave_no_run_folder(tmp_path: Path) -> None:
    data, out = small_scenes(tmp_path / "data", 4, 1), tmp_path / "run"
    for overrides, expected in (
        (["train.warmup_steps=2"], r"the run has only 2 steps \(2 epochs of 1 step\)"),
        (["model.backbone=timm/convnext_atto"], "timm/convnext_atto has no BatchNorm to train"),
    ):
        with pytest.raises(RecipeError, match=expected):
            train(small_recipe(data, *overrides), TrainOptions(out), ALONE, StopAfter())
        assert not out.exists()
