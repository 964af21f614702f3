"""Infer the recipe and the categories of an official checkpoint, which does not state them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.engine.checkpoints.published import PUBLISHED
from panformer_cli.errors import CheckpointError
from panformer_cli.models.families import FAMILIES
from panformer_cli.models.official import OfficialFormat, OfficialModel, unknown_checkpoint
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import built_in_recipes, load_recipe
from panformer_cli.storage.tensor_files import read_state


def describe_official(
    path: Path, recipe_name: str | None = None, categories: CategoryTable | None = None
) -> tuple[OfficialFormat, Recipe, CategoryTable]:
    """Return format, recipe and categories of an official checkpoint from its tensor names and shapes.

    Args:
        path: The checkpoint file.
        recipe_name: A built-in recipe or a YAML file; None for the built-in recipe with the checkpoint's backbone. The
            file name distinguishes r50_1x from r50.
        categories: Categories of the training data; None for COCO's.

    Raises:
        CheckpointError: No family recognizes the file, or the recipe or the categories do not match it.
        RecipeError: The recipe cannot be used.
    """
    state = read_state(path)
    family, official = find_format(state, path)
    model = official.describe(state, path)
    recipe = (
        _given_recipe(path, family, official, model, recipe_name) if recipe_name else _recipe(path, official, model)
    )
    return official, recipe, _categories(path, model, categories)


def find_format(state: Mapping[str, Tensor], path: Path) -> tuple[str, OfficialFormat]:
    """Return the family that recognizes a state dict, and its format.

    Raises:
        CheckpointError: No family recognizes it. The message says what the file seems to be.
    """
    formats = {name: format for name, family in FAMILIES.items() if (format := family.official_format())}
    for name, official in formats.items():
        if official.recognizes(state):
            return name, official
    raise CheckpointError(f"checkpoint {path} {unknown_checkpoint(state, path, list(formats.values()))}")


def _with_recipe(model: OfficialModel) -> str:
    """Return the backbone for a message, with the built-in recipe that has it, if there is one."""
    return f"{model.backbone} (recipe {model.recipe})" if model.recipe else model.backbone


def _given_recipe(path: Path, family: str, official: OfficialFormat, model: OfficialModel, name: str) -> Recipe:
    """Return the recipe that the user gives, which must be one of the checkpoint's family and backbone."""
    recipe = load_recipe(name)
    if recipe.model.family != family:
        raise CheckpointError(
            f"checkpoint {path} is a {official.name} (recipe {model.recipe}), but the recipe {recipe.name} is of the "
            f"family {recipe.model.family}; omit --recipe, or give one of the family {family}"
        )
    if recipe.model.backbone != model.backbone:
        raise CheckpointError(
            f"checkpoint {path} has the backbone {_with_recipe(model)}, but the recipe {recipe.name} has "
            f"{recipe.model.backbone}; omit --recipe, or give one with {model.backbone}"
        )
    return recipe


def _recipe(path: Path, official: OfficialFormat, model: OfficialModel) -> Recipe:
    by_file = [weights.name for weights in PUBLISHED.values() if weights.file == path.name]
    for name in [*by_file, *filter(None, [model.recipe])]:
        recipe = load_recipe(str(built_in_recipes()[name]))
        if recipe.model.backbone == model.backbone:
            return recipe
    raise CheckpointError(
        f"checkpoint {path} is a {official.name} with the backbone {model.backbone}, which no built-in recipe has; "
        f"write a recipe and import it with `panformer weights import {path} --out DIR --recipe RECIPE.yaml`"
    )


def _categories(path: Path, model: OfficialModel, given: CategoryTable | None) -> CategoryTable:
    table = COCO if given is None else given
    if len(table) == model.num_classes and model.num_things in (None, table.num_things):
        return table
    counts = f"checkpoint {path} was trained on {_counts(model)}"
    if given is None:
        raise CheckpointError(
            f"{counts}, not on COCO's {COCO.num_things} and {COCO.num_stuff}, and does not name them; give them with "
            f"`panformer weights import {path} --out DIR --categories ANNOTATION.json`"
        )
    raise CheckpointError(
        f"{counts}, but --categories has {given.num_things} things and {given.num_stuff} stuff classes; give the "
        "panoptic annotation of its training data"
    )


def _counts(model: OfficialModel) -> str:
    if model.num_things is None:
        return f"{model.num_classes} things and stuff classes"
    return f"{model.num_things} things and {model.num_classes - model.num_things} stuff classes"
