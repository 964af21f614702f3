"""Settings that a prediction changes: thresholds of any model family, sizes and single settings."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.transforms import resized_size
from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, TrainProgress
from panformer_cli.engine.inference_changes import InferenceChanges
from panformer_cli.errors import PanformerError
from panformer_cli.models.families import FAMILIES
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import load_recipe, recipe_from_dict
from tests.pixel_family import PixelFamily, PixelSettings

CATEGORIES = CategoryTable([Category(1, "dog", True)])


def checkpoint(recipe: Recipe) -> Checkpoint:
    return Checkpoint(Path("best.safetensors"), recipe, CATEGORIES, TrainProgress(), False, "1.0")


R50 = checkpoint(load_recipe("r50"))


def test_nothing_changes_by_default() -> None:
    assert InferenceChanges().applied_to(R50) == R50


def test_thresholds_are_those_of_the_family() -> None:
    changed = InferenceChanges(threshold=0.5, overlap=0.125, overrides=("inference.top_k=7",)).applied_to(R50)
    before = R50.recipe.inference
    expected = replace(before, score_threshold=0.5, thing_overlap=0.125, stuff_overlap=0.125, top_k=7)  # type: ignore[call-arg]
    assert changed == replace(R50, recipe=replace(R50.recipe, inference=expected))


def test_a_family_with_other_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, PixelSettings.family, PixelFamily())
    pixels = checkpoint(recipe_from_dict({"model": {"family": "per_pixel"}, "inference": {}}, "test"))
    changed = InferenceChanges(threshold=1e-05).applied_to(pixels)
    assert changed.recipe.inference == replace(pixels.recipe.inference, min_score=1e-05)  # type: ignore[call-arg]
    message = (
        "--overlap: models of the family per_pixel have no such threshold; expected --set with one of inference.min"
    )
    with pytest.raises(PanformerError, match=message):
        InferenceChanges(overlap=0.5).applied_to(pixels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            InferenceChanges(overrides=("train.lr=1",)),
            "--set train.lr=1: a prediction can change the section `inference`",
        ),
        (
            InferenceChanges(overrides=("top_k=1",)),
            "--set top_k=1: .*; expected one of inference.top_k, inference.score_",
        ),
        (InferenceChanges(overrides=("inference.topk=1",)), "best.safetensors with --set inference.topk=1: .*top_k"),
        (InferenceChanges(overrides=("inference.top_k=x",)), "inference.top_k is 'x': expected a whole number"),
        (InferenceChanges(overrides=("inference.score_threshold=2",)), "inference.score_threshold is 2"),
        (InferenceChanges(threshold=float("nan")), "inference.score_threshold is 'nan'"),
        (
            InferenceChanges(overlap=0.3, overrides=("inference.stuff_overlap=0.1",)),
            "--overlap 0.3 and --set inference.stuff_overlap=0.1 set the same threshold; leave out one of them",
        ),
    ],
)
def test_what_cannot_be_changed_is_reported(changes: InferenceChanges, message: str) -> None:
    with pytest.raises(PanformerError, match=message):
        changes.applied_to(R50)


@pytest.mark.parametrize(("given", "size"), [(None, (800, 1200)), (600, (400, 600)), (5000, (800, 1200))])
def test_the_maximum_size_only_shrinks(given: int | None, size: tuple[int, int]) -> None:
    data = InferenceChanges(max_size=given).applied_to(R50).recipe.data
    assert resized_size(1000, 1500, data.short_side, data.long_side) == size


def test_only_a_family_names_its_thresholds() -> None:
    """The options work for any family, so nothing outside a family's folder names its fields."""
    source = Path(InferenceChanges.__module__.replace(".", "/") + ".py").read_text(encoding="utf-8")
    assert not re.search("score_threshold|thing_overlap|stuff_overlap|min_score", source)
