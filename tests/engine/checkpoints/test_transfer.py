"""Fine-tuning on other categories: classes with the same name keep their weights, new ones are initialized."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.engine.checkpoints.checkpoint import (
    Checkpoint,
    TrainProgress,
    read_checkpoint,
    read_weights,
    save_checkpoint,
)
from panformer_cli.engine.checkpoints.transfer import start_from
from panformer_cli.engine.training.train import TrainOptions, train
from panformer_cli.errors import CheckpointError
from panformer_cli.models.build import build_model
from panformer_cli.models.panoptic_segformer.build import build
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from panformer_cli.models.panoptic_segformer.settings import MergingSettings
from panformer_cli.recipe import Recipe
from panformer_cli.reporting import SilentReporter
from tests.engine.small import ALONE, categories_of, small_checkpoint, small_recipe
from tests.models.panoptic_segformer.small import SMALL, small_model

THEIRS = CategoryTable(
    [Category(1, "cat", True), Category(2, "dog", True), Category(3, "road", False), Category(4, "sky", False)]
)
OURS = CategoryTable(
    [
        Category(7, "road", True),  # the same name, another type
        Category(8, "Dog", True),
        Category(9, "horse", True),
        Category(20, "sky", False),
        Category(21, "cat", False),
        Category(22, "road", False),
    ]
)


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def model_of(categories: CategoryTable, seed: int) -> PanopticSegFormer:
    torch.manual_seed(seed)
    return build(SMALL, MergingSettings(), categories, "auto")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    path = tmp_path / "theirs.safetensors"
    save_checkpoint(path, model_of(THEIRS, seed=1), Recipe(model=SMALL), THEIRS, TrainProgress())
    return read_checkpoint(path)


@pytest.mark.slow
def test_rows_are_matched_by_name_and_type(checkpoint: Checkpoint) -> None:
    theirs, fresh, ours = (model_of(THEIRS, 1), model_of(OURS, 2), model_of(OURS, 2))
    listener = Listener()
    start_from(ours, checkpoint, listener)
    for layer, branch in enumerate(ours.location_decoder.class_branches):
        known, new = theirs.location_decoder.class_branches[layer], fresh.location_decoder.class_branches[layer]
        for part in ("weight", "bias"):  # road, Dog, horse
            rows = getattr(branch, part)
            assert torch.equal(rows[1], getattr(known, part)[1])
            assert torch.equal(rows[[0, 2]], getattr(new, part)[[0, 2]])
    queries = ours.stuff_queries.embedding.weight  # sky, cat, road
    assert torch.equal(queries[[0, 2]], theirs.stuff_queries.embedding.weight[[1, 0]])
    assert torch.equal(queries[1], fresh.stuff_queries.embedding.weight[1])
    (message,) = listener.messages
    assert "has 3 of 6 categories by name; they start with its weights; " in message
    assert message.endswith("newly initialized: road, horse, cat")


@pytest.mark.slow
def test_all_other_tensors_are_loaded(checkpoint: Checkpoint) -> None:
    theirs, ours = model_of(THEIRS, 1).state_dict(), model_of(OURS, 2)
    start_from(ours, checkpoint, SilentReporter())
    apart = [name for name, tensor in ours.state_dict().items() if tensor.shape != theirs[name].shape]
    assert set(apart) == {
        "stuff_queries.embedding.weight",
        *(f"location_decoder.class_branches.{layer}.{part}" for layer in range(2) for part in ("weight", "bias")),
    }
    for name, tensor in ours.state_dict().items():
        assert name in apart or torch.equal(tensor, theirs[name]), name


@pytest.mark.slow
def test_equal_categories_are_loaded_without_a_message(checkpoint: Checkpoint) -> None:
    ours, listener = model_of(THEIRS, 2), Listener()
    start_from(ours, checkpoint, listener)
    theirs = model_of(THEIRS, 1).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.state_dict().items())
    assert not listener.messages


@pytest.mark.slow
def test_another_model_is_rejected_for_any_categories(checkpoint: Checkpoint) -> None:
    ours = small_model(things=3, stuff=3, thing_queries=9)
    with pytest.raises(CheckpointError, match=r"does not match this model: .*query_embedding.weight \(\[7, 64\]"):
        start_from(ours, checkpoint, SilentReporter())


@pytest.mark.slow
def test_class_tensors_that_are_not_plain_numbers_are_rejected(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "location_decoder.class_branches.0.weight"
    weights = read_weights(checkpoint)
    monkeypatch.setattr(
        "panformer_cli.engine.checkpoints.transfer.read_weights", lambda _: weights | {name: weights[name].to_sparse()}
    )
    with pytest.raises(CheckpointError, match=rf"not plain floating-point numbers: {name}"):
        start_from(model_of(OURS, 2), checkpoint, SilentReporter())


@pytest.mark.slow
def test_a_run_on_other_categories(tmp_path: Path, scenes: Path) -> None:
    known = CategoryTable(
        [Category(row.id + 50, row.name if row.id % 2 else f"other {row.id}", row.is_thing)
         for row in categories_of(scenes).categories]
    )  # fmt: skip
    recipe, path = small_recipe(scenes, "train.max_steps=1"), tmp_path / "other.safetensors"
    save_checkpoint(path, build_model(recipe.model, recipe.inference, known), recipe, known, TrainProgress())
    run = train(recipe, TrainOptions(tmp_path / "run", init_from=path), ALONE, SilentReporter()).run
    assert read_checkpoint(run.last).categories == categories_of(scenes)


@pytest.mark.slow
def test_another_backbone_is_rejected_before_the_folder_is_created(tmp_path: Path, scenes: Path) -> None:
    path = small_checkpoint(tmp_path / "a.safetensors", scenes)
    recipe = small_recipe(scenes, "model.backbone=resnet50")
    with pytest.raises(CheckpointError, match="with the backbone timm/lcnet_035, but this model has resnet50"):
        train(recipe, TrainOptions(tmp_path / "run", init_from=path), ALONE, SilentReporter())
    assert not (tmp_path / "run").exists()
