"""`panformer recipes`: list, show, check and copy recipes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from panformer_cli.cli.groups import OrderedGroup
from panformer_cli.cli.options import json_option


@click.group(cls=OrderedGroup)
def recipes() -> None:
    """List the built-in recipes; show, check or copy a recipe.

    A recipe is a YAML file with the settings of a model, its data and its training.

    \b
    panformer recipes list
    panformer recipes copy r50 mine.yaml
    panformer recipes check mine.yaml
    """


def _set_option(function: Callable[..., Any]) -> Callable[..., Any]:
    help_text = "Override a setting, such as train.lr=1e-4; can be repeated."
    return click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=help_text)(function)


@recipes.command("list")
@json_option
def list_recipes(as_json: bool) -> None:
    """List the built-in recipes: backbone, millions of parameters, published PQ, data set and purpose.

    \b
    panformer recipes list
    panformer recipes list --json
    """
    from panformer_cli.console import print_table
    from panformer_cli.recipe_library import summaries

    columns = ("name", "backbone", "M", "PQ", "data set", "for")
    rows = [
        (row.recipe.name, row.recipe.model.backbone, row.parameters, row.recipe.published_pq, row.data, row.purpose)
        for row in summaries()
    ]
    if as_json:
        names = ("name", "backbone", "parameters_millions", "published_pq", "data", "purpose")
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2))
        return
    print_table("Built-in recipes: millions of parameters, and published PQ on COCO val2017", columns, rows)


@recipes.command()
@click.argument("recipe")
@_set_option
@click.option("--json", "as_json", is_flag=True, help="Print the settings as JSON.")
def show(recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print all settings of a recipe as YAML, with --set applied.

    RECIPE is a YAML file or the name of a built-in recipe, such as tiny or r50.

    \b
    panformer recipes show r50
    panformer recipes show tiny --set train.lr=1e-4
    """
    from panformer_cli.recipe_io import load_recipe, recipe_to_dict, recipe_to_yaml

    found = load_recipe(recipe, overrides)
    if as_json:
        click.echo(json.dumps(recipe_to_dict(found), indent=2))
    else:
        click.echo(recipe_to_yaml(found), nl=False)


@recipes.command()
@click.argument("recipe")
@click.option("--against", metavar="RECIPE", help="Recipe to compare with. [default: the one of the same name, or r50]")
@_set_option
@json_option
def check(recipe: str, against: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check a recipe as `panformer train` does, and list its differences from a built-in one.

    RECIPE is a YAML file or the name of a built-in recipe. Unknown keys are reported with suggestions, all problems at
    once; the exit code is then 2. data.root can be missing.

    \b
    panformer recipes check mine.yaml
    panformer recipes check mine.yaml --against r50
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
    if as_json:
        changes = {key: {"value": value, "before": before} for key, (before, value) in differing.items()}
        click.echo(
            json.dumps({"valid": True, "against": other, "differences": changes, "warnings": warnings}, indent=2)
        )
        return
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

    \b
    panformer recipes copy r50 mine.yaml
    """
    from panformer_cli.recipe_library import copy_recipe

    copy_recipe(recipe, file, force)
    click.echo(f"Recipe: {file}")
