"""What an authors' checkpoint does not say of itself: its recipe and its categories."""

from __future__ import annotations

from pathlib import Path

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.engine.checkpoints.published import PUBLISHED
from panformer_cli.errors import CheckpointError
from panformer_cli.models.panoptic_segformer.official_checkpoint import RECIPES, ReleasedModel, recognise
from panformer_cli.recipe import BackboneName, Recipe
from panformer_cli.recipe_io import built_in_recipes, load_recipe
from panformer_cli.tensor_files import read_state


def describe_release(
    path: Path, recipe_name: str | None = None, categories: CategoryTable | None = None
) -> tuple[Recipe, CategoryTable]:
    """Tell recipe and categories of an authors' checkpoint from its names and shapes; no tensor is read.

    recipe_name: a file or a built-in recipe; None for the built-in one with the backbone of the checkpoint. The name of
        the file tells r50_1x from r50.
    categories: of the data that the model was trained on; None for COCO's.

    Raises:
        CheckpointError: the file is no authors' checkpoint, or recipe or categories do not go with it.
        RecipeError: the recipe cannot be used.
    """
    model = recognise(read_state(path), path)
    return _recipe(path, model.backbone, recipe_name), _categories(path, model, categories)


def with_recipe(backbone: str) -> str:
    """For a message: the backbone, and the built-in recipe that has it, if there is one."""
    return f"{backbone} (recipe {RECIPES[backbone]})" if backbone in RECIPES else backbone


def _recipe(path: Path, backbone: BackboneName, wanted: str | None) -> Recipe:
    if wanted is not None:
        recipe = load_recipe(wanted)
        if recipe.model.backbone != backbone:
            raise CheckpointError(
                f"checkpoint {path} has the backbone {with_recipe(backbone)}, but the recipe {recipe.name} has "
                f"{recipe.model.backbone}; leave --recipe out, or give one with {backbone}"
            )
        return recipe
    by_file = [weights.name for weights in PUBLISHED.values() if weights.file == path.name]
    by_backbone = [RECIPES[backbone]] if backbone in RECIPES else []
    for name in by_file + by_backbone:
        recipe = load_recipe(str(built_in_recipes()[name]))
        if recipe.model.backbone == backbone:
            return recipe
    raise CheckpointError(
        f"checkpoint {path} is a Panoptic SegFormer with the backbone {backbone}, which no built-in recipe has; write "
        f"one and import it with `panformer weights import {path} --out DIR --recipe RECIPE.yaml`"
    )


def _categories(path: Path, model: ReleasedModel, given: CategoryTable | None) -> CategoryTable:
    table = COCO if given is None else given
    if (table.num_things, table.num_stuff) == (model.num_things, model.num_stuff):
        return table
    counts = f"checkpoint {path} was trained on {model.num_things} things and {model.num_stuff} stuff classes"
    if given is None:
        raise CheckpointError(
            f"{counts}, not on COCO's {COCO.num_things} and {COCO.num_stuff}, and does not say which; name them with "
            f"`panformer weights import {path} --out DIR --categories ANNOTATION.json`"
        )
    raise CheckpointError(
        f"{counts}, but the categories given are {given.num_things} things and {given.num_stuff} stuff classes; give "
        "the panoptic annotation of the data set that it was trained on"
    )
