"""Which run a command line starts or resumes, and with which recipe."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from panformer_cli.engine.checkpoints.checkpoint import check_family
from panformer_cli.engine.checkpoints.run_checkpoints import checkpoint_to_resume
from panformer_cli.engine.runs import (
    RUNS,
    RunFolder,
    check_can_be_changed,
    find_checkpoint,
    published_weights_of,
    run_to_resume,
    runs_of,
)
from panformer_cli.engine.training.memory.plan import MemoryPlan
from panformer_cli.engine.training.train import TrainOptions, with_absolute_root
from panformer_cli.errors import PanformerError, RecipeError
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_checks import check_trainable
from panformer_cli.recipe_io import find_recipe, load_recipe, override_recipe, recipe_differences
from panformer_cli.reporting import Reporter, SilentReporter
from panformer_cli.wording import listing

AUTO = "auto"
DIFFERENCES = 4
"""Number of differing settings that a message lists."""


@dataclass(frozen=True)
class StartRequest:
    """What a command line asks for.

    Attributes:
        recipe: YAML file or built-in recipe; can be None if the folder of the run is known.
        overrides: `--set` options.
        out: Folder of the run.
        resume: False to start a new run; True for the run in `out` or else the newest run of the recipe; a folder; or
            `AUTO` for the run that the same command line started before, if there is one, else a new run.
        init_from: Checkpoint with the initial weights of a new run.
        fit_memory: The run chooses micro-batch, precision and checkpointing itself, so they can differ from the recipe.
    """

    recipe: str | None
    overrides: tuple[str, ...] = ()
    out: Path | None = None
    resume: bool | str = False
    init_from: Path | None = None
    fit_memory: bool = False


@dataclass(frozen=True)
class Start:
    """The recipe and the options to train with."""

    recipe: Recipe
    options: TrainOptions


def plan_start(request: StartRequest, reporter: Reporter) -> Start:
    """Return how to start or resume training. Only rank 0 calls this, so that all ranks do the same.

    A resumed run continues with its own recipe and `overrides`.

    Raises:
        PanformerError: The request is contradictory, the run or the recipe does not exist, or a setting is invalid.
    """
    request = _normalized(request)
    if not request.resume:
        return _new(_requested(request), request, request.out, reporter)
    if request.resume != AUTO:
        run = RunFolder(request.out or run_to_resume(_requested(request).name, None).path)
        return _resumed(run, request, reporter)
    wanted = _requested(request)
    found = _started_before(wanted, request, reporter)
    if found is None:
        return _new(wanted, request, request.out, reporter)
    return _resumed(found, replace(request, init_from=None) if found.is_resumable else request, reporter)


def _normalized(request: StartRequest) -> StartRequest:
    """Return the request with the folder that `resume` names as `out`, and `resume` as a flag or `AUTO`."""
    if request.resume in (False, True, AUTO):
        if request.recipe is None and (request.out is None or request.resume is not True):
            raise PanformerError("no recipe was given; expected RECIPE, or a run to resume: --resume RUN")
        return request
    word, folder = str(request.resume), Path(str(request.resume))
    if request.recipe is None and not folder.is_dir() and folder.suffix != ".safetensors" and _is_recipe(word):
        return _normalized(replace(request, recipe=word, resume=True))  # `--resume` is a flag before the recipe
    if folder.is_file():
        raise PanformerError(f"--resume {folder} is a file; expected the folder of a run, such as {folder.parent}")
    if not word or not folder.is_dir():
        raise PanformerError(f"--resume {word!r}: this folder does not exist; expected the folder of a run, or auto")
    if request.out is not None and request.out.absolute() != folder.absolute():
        raise PanformerError(f"--resume {folder} and --out {request.out} are two folders; omit --out")
    return replace(request, out=folder, resume=True)


def _is_recipe(word: str) -> bool:
    try:
        return bool(find_recipe(word))
    except RecipeError:
        return False


def _requested(request: StartRequest) -> Recipe:
    """Return the recipe that the command line names, with its overrides. Its models can be trained."""
    assert request.recipe is not None, "checked before"
    recipe = load_recipe(request.recipe, request.overrides)
    check_trainable(recipe)
    return with_absolute_root(recipe)


def _new(recipe: Recipe, request: StartRequest, out: Path | None, reporter: Reporter) -> Start:
    weights = None
    if request.init_from is not None:
        check_can_be_changed(request.init_from)
        if published := published_weights_of(request.init_from):  # before they are downloaded
            check_family(recipe, load_recipe(published.name), f"--init-from: {published.name}")
        weights = find_checkpoint(request.init_from, reporter)
    return Start(recipe, TrainOptions(out, init_from=weights))


def _resumed(run: RunFolder, request: StartRequest, reporter: Reporter) -> Start:
    """Return how to resume a run with its own recipe; without a checkpoint it starts from its beginning."""
    if not run.is_resumable and not run.recipe.is_file():
        run_to_resume("", run.path)  # raises
    if run.is_resumable:
        own, where = checkpoint_to_resume(run, SilentReporter()).recipe, f"the recipe of {run.path}"
        start = Start(own, TrainOptions(run.path, resume=True, init_from=request.init_from))
    else:
        reporter.message(f"The run in {run.path} has no checkpoint yet: starting from its beginning")
        own, where = load_recipe(str(run.recipe)), str(run.recipe)
        start = _new(own, replace(request, init_from=request.init_from or _initial_weights(run)), run.path, reporter)
    recipe = with_absolute_root(override_recipe(own, request.overrides, where))
    if request.recipe is not None:
        _report_other_recipe(request, recipe, run, reporter)
    return replace(start, recipe=recipe)


def _initial_weights(run: RunFolder) -> Path | None:
    """Return the checkpoint that the first start of a run began with."""
    weights = run.starts[0].get("init_from") if run.starts else None
    return Path(weights) if isinstance(weights, str) else None


def _report_other_recipe(request: StartRequest, recipe: Recipe, run: RunFolder, reporter: Reporter) -> None:
    """Report that the recipe on the command line is not the run's, whose settings are used."""
    named = _requested(request)
    if not named.data.root:
        named = replace(named, data=replace(named.data, root=recipe.data.root))
    if differing := recipe_differences(recipe, named):
        reporter.warn(
            f"the recipe {request.recipe} differs from the one of the run in {run.path}, which is used: "
            f"{_listed(differing, 'in the run', f'in {request.recipe}')}; to change a setting of the run, use --set"
        )


def _started_before(recipe: Recipe, request: StartRequest, reporter: Reporter) -> RunFolder | None:
    """Return the run that the same command line started before; None if there is none."""
    if request.out is not None:
        run = RunFolder(request.out)
        return run if run.is_resumable or run.recipe.is_file() else None
    runs = [(run, recipes) for run in runs_of(recipe.name) if (recipes := _readable(run.recipes))]
    for run, recipes in reversed(runs):
        if not all(recipe_differences(known, _comparable(recipe, known, request)) for known in recipes):
            return run
    if runs:
        newest, (known, *_) = runs[-1]
        reporter.message(
            f"No run in {RUNS / recipe.name} has these settings: starting a new one. The newest run, {newest.path}, "
            f"has others: {_listed(recipe_differences(known, recipe), 'there', 'now')}"
        )
    else:
        reporter.message(f"There is no run in {RUNS / recipe.name} to resume: starting a new one")
    return None


def _comparable(recipe: Recipe, known: Recipe, request: StartRequest) -> Recipe:
    """Return the recipe with the settings that `known` has chosen for its memory, if the request allows that."""
    if not request.fit_memory:
        return recipe
    return replace(recipe, train=MemoryPlan.of(known.train).applied(recipe.train))


def _readable(paths: list[Path]) -> list[Recipe]:
    """Return the recipes in files; those of other versions, or truncated ones, are skipped."""
    recipes = []
    for path in paths:
        with suppress(RecipeError):
            recipes.append(load_recipe(str(path)))
    return recipes


def _listed(differences: dict[str, tuple[Any, Any]], old: str, new: str) -> str:
    return listing(
        (f"{key} is {before!r} {old} and {after!r} {new}" for key, (before, after) in differences.items()),
        DIFFERENCES,
        "; ",
    )
