"""Checks of a recipe before a run that need several settings at once. No torch import here.

A setting alone is checked when its section is created (`setting_types`). These checks are made before a run, and most
of them only before a new one, so that existing checkpoints and runs can still be evaluated and resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from panformer_cli.data.layout import check_split_name
from panformer_cli.errors import DataError, RecipeError
from panformer_cli.models.backbones.known import has_batch_norm
from panformer_cli.models.families import FAMILIES
from panformer_cli.recipe import Recipe
from panformer_cli.settings import CROP_LONG_SIDE, ModelSettings, TrainSettings

Check = Callable[[Recipe], Iterator[str]]


def check_run(recipe: Recipe, is_new: bool = True) -> list[str]:
    """Return warnings about the settings of a run.

    Args:
        recipe: All settings.
        is_new: Whether the run starts with these settings; otherwise only what a resumed run needs is checked.

    Raises:
        RecipeError: The model family is inference only, or settings cannot be used together; all such problems are
            listed.
    """
    check_trainable(recipe)
    checks = PROBLEMS if is_new else (_root_is_set,)
    problems = [problem for check in checks for problem in check(recipe)]
    if problems:
        raise RecipeError("\n".join(problems))
    return [warning for check in WARNINGS for warning in check(recipe)] if is_new else []


def check_trainable(recipe: Recipe) -> None:
    """Raise RecipeError if the models of the recipe's family cannot be trained."""
    family = recipe.model.family
    if not FAMILIES[family].trainable:
        trained = ", ".join(name for name, other in FAMILIES.items() if other.trainable)
        raise RecipeError(
            f"the recipe {recipe.name} cannot be trained: its model family, {family}, is inference only; use a recipe "
            f"of the family {trained}, such as r50"
        )


def _root_is_set(recipe: Recipe) -> Iterator[str]:
    if not recipe.data.root:
        yield "data.root is not set: give the folder of the data set, --set data.root=DIR"


def _splits_are_names(recipe: Recipe) -> Iterator[str]:
    for key, split in (("train_split", recipe.data.train_split), ("val_split", recipe.data.val_split)):
        try:
            check_split_name(split)
        except DataError as error:
            yield f"data.{key}: {error}"


def _sides_are_in_order(recipe: Recipe) -> Iterator[str]:
    """The long side limits the short side, so a longer short side would never be reached, for no image."""
    data = recipe.data
    if data.short_side > data.long_side:
        yield (
            f"data.short_side is {data.short_side}: expected at most data.long_side ({data.long_side}), which no side "
            "of a resized image exceeds"
        )
    if max(data.train_short_sides) > data.long_side:
        yield (
            f"data.train_short_sides is {list(data.train_short_sides)}: expected values of at most data.long_side "
            f"({data.long_side}), which no side of a resized image exceeds"
        )
    if data.crop_probability > 0 and max(data.crop_short_sides) > CROP_LONG_SIDE:
        yield (
            f"data.crop_short_sides is {list(data.crop_short_sides)}: expected values of at most {CROP_LONG_SIDE}, the "
            "maximum length of the long side before a crop"
        )


def _drops_are_reached(recipe: Recipe) -> Iterator[str]:
    train = recipe.train
    if train.schedule == "step" and any(epoch >= train.epochs for epoch in train.drop_epochs):
        yield (
            f"train.drop_epochs is {list(train.drop_epochs)}: expected epochs below train.epochs ({train.epochs}), "
            f"since epochs are counted from 0; {_drop_advice(train)}"
        )


def _drop_advice(train: TrainSettings) -> str:
    drop = train.epochs * 3 // 4  # the published 18 of 24
    three_quarters = f"set train.drop_epochs=[{drop}] to drop after three quarters of the run, or " if drop else "set "
    return f"{three_quarters}train.drop_epochs=[] for a constant learning rate"


def _batches_are_whole(recipe: Recipe) -> Iterator[str]:
    train = recipe.train
    if train.batch_size % train.images_per_forward:
        yield (
            f"train.batch_size is {train.batch_size}: expected a multiple of train.images_per_forward "
            f"({train.images_per_forward}); set train.batch_size to "
            f"{max(1, train.batch_size // train.images_per_forward) * train.images_per_forward}, or "
            "train.images_per_forward=1"
        )


def _batch_norm_is_known_to_exist(recipe: Recipe) -> Iterator[str]:
    known = has_batch_norm(recipe.model.backbone)
    if known is not None:
        yield from _batch_norm_exists(recipe.model, known)


def _batch_norm_exists(model: ModelSettings, has_batch_norm: bool) -> Iterator[str]:
    if not model.frozen_batch_norm and not has_batch_norm:
        yield (
            f"model.frozen_batch_norm is False, but the backbone {model.backbone} has no BatchNorm to train: expected "
            "the default, model.frozen_batch_norm=true"
        )


def check_batch_norm(model: ModelSettings, has_batch_norm: bool) -> None:
    """Raise RecipeError if the settings of BatchNorm are for a backbone that has none; for any backbone, once built."""
    for problem in _batch_norm_exists(model, has_batch_norm):
        raise RecipeError(problem)


def _splits_differ(recipe: Recipe) -> Iterator[str]:
    if recipe.data.train_split == recipe.data.val_split:
        yield (
            f"data.train_split and data.val_split are both {recipe.data.val_split!r}: the run is evaluated on its "
            "training images, which says nothing about other images"
        )


def _drops_are_used(recipe: Recipe) -> Iterator[str]:
    train = recipe.train
    if train.schedule != "step" and train.drop_epochs != TrainSettings.drop_epochs:
        yield (
            f"train.drop_epochs is {list(train.drop_epochs)}, but only the schedule `step` uses it; train.schedule is "
            f"{train.schedule}"
        )


PROBLEMS: tuple[Check, ...] = (
    _root_is_set,
    _splits_are_names,
    _sides_are_in_order,
    _drops_are_reached,
    _batches_are_whole,
    _batch_norm_is_known_to_exist,
)
"""Checks whose messages are errors."""
WARNINGS: tuple[Check, ...] = (_splits_differ, _drops_are_used)
"""Checks whose messages are warnings."""
