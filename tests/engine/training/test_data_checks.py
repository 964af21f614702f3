"""Settings of a new run that only the data can contradict."""

from __future__ import annotations

from pathlib import Path

import pytest

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.engine.training import data_checks
from panformer_cli.engine.training.data_checks import check_length, check_validation_images
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.errors import DataError, RecipeError
from panformer_cli.settings import DataSettings, TrainSettings
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


def test_validation_images_that_cannot_be_used_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = small_scenes(tmp_path, 1, 3)
    data, reporter = CocoPanoptic(root, "val"), StopAfter()
    check_validation_images(data, DataSettings(), reporter)
    image, png = data.image_path(0), data.png_path(2)
    image.write_bytes(image.read_bytes()[:-40])
    png.unlink()
    check_validation_images(data, DataSettings(check_validation=False), reporter)
    assert reporter.warnings == []
    for number in (1, 200):  # with worker processes and without
        monkeypatch.setattr(data_checks, "MANY_IMAGES", number)
        with pytest.raises(DataError) as caught:
            check_validation_images(data, DataSettings(workers=2), reporter)
        first, *problems = str(caught.value).splitlines()
        assert first.startswith("2 of 3 validation images cannot be used; repair them, leave them out with --set data.")
        assert [str(path) in line for path, line in zip((image, png), problems, strict=True)] == [True, True]
    check_validation_images(data, DataSettings(skip_bad_images=True), reporter)
    assert reporter.warnings[0].splitlines()[1:] == problems
    data.png_path(1).unlink()
    with pytest.raises(DataError, match="^3 of 3 validation images cannot be used, so nothing could be evaluated"):
        check_validation_images(data, DataSettings(skip_bad_images=True), reporter)


@pytest.mark.slow
def test_refused_settings_leave_no_run_folder(tmp_path: Path) -> None:
    data, out = small_scenes(tmp_path / "data", 4, 1), tmp_path / "run"
    image = data / "images" / "val" / "000000.png"
    content = image.read_bytes()
    image.write_bytes(content[:-40])
    with pytest.raises(DataError, match=r"^1 of 1 validation image cannot be used; .*\n  .*000000\.png"):
        train(small_recipe(data), TrainOptions(out), ALONE, StopAfter())
    assert not out.exists()
    image.write_bytes(content)
    for overrides, expected in (
        (["train.warmup_steps=2"], r"the run has only 2 steps \(2 epochs of 1 step\)"),
        (["model.backbone=timm/convnext_atto"], "timm/convnext_atto has no BatchNorm to train"),
    ):
        with pytest.raises(RecipeError, match=expected):
            train(small_recipe(data, *overrides), TrainOptions(out), ALONE, StopAfter())
        assert not out.exists()
