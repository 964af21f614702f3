"""`panformer recipes`: list, show, check and copy recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from panformer_cli.cli.groups import OrderedGroup


@click.group(cls=OrderedGroup)
def recipes() -> None:
    """List the built-in recipes; show, check or copy a recipe.

    A recipe is a YAML file with the settings of a model, its data and its training.
    """


def _set_option(function: Callable[..., Any]) -> Callable[..., Any]:
    help_text = "Override a setting, such as train.lr=1e-4; can be repeated."
    return click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=help_text)(function)


@recipes.command("list")
def list_recipes() -> None:
    """List the built-in recipes: backbone, millions of parameters, published PQ, data set and purpose."""
    from panformer_cli.console import print_table
    from panformer_cli.recipe_library import summaries

    columns = ("name", "backbone", "M", "PQ", "data set", "for")
    rows = [
        (row.recipe.name, row.recipe.model.backbone, row.parameters, row.recipe.published_pq, row.data, row.purpose)
        for row in summaries()
    ]
    print_table("Built-in recipes: millions of parameters, and published PQ on COCO val2017", columns, rows)


@recipes.command()
@click.argument("recipe")
@_set_option
def show(recipe: str, overrides: tuple[str, ...]) -> None:
    """Print all settings of a recipe as YAML, with --set applied.

    RECIPE is a YAML file or the name of a built-in recipe, such as tiny or r50.
    """
    from panformer_cli.recipe_io import load_recipe, recipe_to_yaml

    click.echo(recipe_to_yaml(load_recipe(recipe, overrides)), nl=False)


@recipes.command()
@click.argument("recipe")
@click.option("--against", metavar="RECIPE", help="Recipe to compare with. [default: the one of the same name, or r50]")
@_set_option
def check(recipe: str, against: str | None, overrides: tuple[str, ...]) -> None:
    """Check a recipe as `panformer train` does, and list its differences from a built-in one.

    RECIPE is a YAML file or the name of a built-in recipe. Unknown keys are reported with suggestions, all problems at
    once; the exit code is then 2. data.root can be missing.
    """
    from dataclasses import replace

    from panformer_cli.console import RichReporter, print_table
    from panformer_cli.recipe_checks import check_run
    from panformer_cli.recipe_io import built_in_recipes, load_recipe, recipe_differences

    found = load_recipe(recipe, overrides)
    warnings = check_run(replace(found, data=replace(found.data, root=found.data.root or "DIR")))
    other = against or (found.name if found.name in built_in_recipes() else "r50")
    differing = recipe_differences(replace(load_recipe(other), name=found.name, published_pq=found.published_pq), found)
    for warning in warnings:
        RichReporter().warn(warning)
    if differing:
        rows = [(key, str(value), str(before)) for key, (before, value) in differing.items()]
        print_table(f"Differences from {other}", ("setting", found.name, other), rows)
    click.echo(f"{recipe}: valid, {_how_many(len(differing))} from {other}")


def _how_many(differences: int) -> str:
    from panformer_cli.wording import counted

    return counted(differences, "difference") if differences else "no difference"


@recipes.command()
@click.argument("recipe")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
def copy(recipe: str, file: Path, force: bool) -> None:
    """Write an editable copy of a recipe, with the meaning of every setting.

    RECIPE is a YAML file or the name of a built-in recipe. FILE is a new YAML file; its name is the name of the copy.
    Settings that have their defaults are comments.
    """
    from panformer_cli.recipe_library import copy_recipe

    copy_recipe(recipe, file, force)
    click.echo(f"Recipe: {file}")
