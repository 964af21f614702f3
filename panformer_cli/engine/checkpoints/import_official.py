"""Convert an official checkpoint to one of panformer: a self-describing safetensors file, and a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from panformer_cli.data.category_files import read_categories
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.engine.checkpoints.checkpoint import (
    check_finite,
    is_own_checkpoint,
    load_model,
    official_checkpoint,
    save_checkpoint,
)
from panformer_cli.engine.runs import IMPORTED, RunFolder
from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.recipe_io import recipe_to_yaml
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import atomic_write
from panformer_cli.storage.tensor_files import check_whole


def import_weights(
    source: Path, out: Path, recipe_name: str | None, categories: Path | None, reporter: Reporter
) -> Path:
    """Write `out/model.safetensors` and `out/recipe.yaml` from an official checkpoint.

    Args:
        source: The official checkpoint.
        out: A new or empty folder, or the folder of an earlier import.
        recipe_name: A built-in recipe or a YAML file; None to infer it from the tensors.
        categories: A COCO panoptic JSON with the categories of the training data; None for COCO's categories.
        reporter: Reports what was imported.

    Returns:
        The path of model.safetensors.

    Raises:
        PanformerError: `source` is corrupt, not an official checkpoint or has non-finite values; the recipe or the
            categories do not match it; or `out` has other files or cannot be written.
    """
    _check_out(out)
    if is_own_checkpoint(source):
        raise CheckpointError(f"{source} is already a checkpoint of panformer; use it directly, without importing it")
    check_whole(source)
    checkpoint = official_checkpoint(source, recipe_name, read_categories(categories) if categories else None)
    if checkpoint.categories != COCO:
        checkpoint.recipe = replace(checkpoint.recipe, published_pq=None)
    model = load_model(checkpoint)
    check_finite(model, checkpoint)
    save_checkpoint(out / IMPORTED, model, checkpoint.recipe, checkpoint.categories, checkpoint.progress)
    with atomic_write(RunFolder(out).recipe) as temporary:
        temporary.write_text(recipe_to_yaml(checkpoint.recipe), encoding="utf-8")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    reporter.message(
        f"{source}: recipe {checkpoint.recipe.name}, {checkpoint.categories.num_things} things and "
        f"{checkpoint.categories.num_stuff} stuff classes, {parameters / 1e6:.1f} M parameters"
    )
    return out / IMPORTED


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise PanformerError(f"--out {out} is a file; expected a new or empty folder")
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if found and not {IMPORTED} <= found <= {IMPORTED, RunFolder(out).recipe.name}:
        raise PanformerError(
            f"--out {out} has other files than an earlier import; expected a new or empty folder; choose another folder"
        )
