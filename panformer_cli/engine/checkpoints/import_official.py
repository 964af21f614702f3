"""From a file of the authors' release to a checkpoint of ours: safetensors that describe themselves, and a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.images import read_bytes
from panformer_cli.engine.checkpoints.checkpoint import (
    Checkpoint,
    is_own_checkpoint,
    load_model,
    official_checkpoint,
    save_checkpoint,
)
from panformer_cli.engine.runs import IMPORTED, RunFolder
from panformer_cli.errors import CheckpointError, DataError, PanformerError
from panformer_cli.models.base import PanopticModel
from panformer_cli.recipe_io import recipe_to_yaml
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import atomic_write
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.storage.tensor_files import check_whole


def import_weights(
    source: Path, out: Path, recipe_name: str | None, categories: Path | None, reporter: Reporter
) -> Path:
    """Write `out/model.safetensors` and `out/recipe.yaml` from an authors' checkpoint.

    source: the authors' file. out: a folder, new, empty or of an earlier import. recipe_name: a recipe's file or a
        built-in one; None for the one that names and shapes tell. categories: a COCO panoptic JSON with the table that
        the model was trained on; None for COCO's own.

    Returns the path of model.safetensors.

    Raises:
        PanformerError: `source` is no authors' checkpoint, is damaged or holds values that are not finite, recipe or
            categories do not go with it, or `out` cannot be written or holds anything else.
    """
    _check_out(out)
    if is_own_checkpoint(source):
        raise CheckpointError(f"{source} is a checkpoint of panformer already; use it as it is, without importing it")
    check_whole(source)
    checkpoint = official_checkpoint(source, recipe_name, _read_categories(categories) if categories else None)
    if checkpoint.categories != COCO:
        checkpoint.recipe = replace(checkpoint.recipe, published_pq=None)
    model = load_model(checkpoint)
    _check_finite(model, checkpoint)
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
        raise PanformerError(f"--out {out} is a file; expected a folder, new or empty")
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if there and not {IMPORTED} <= there <= {IMPORTED, RunFolder(out).recipe.name}:
        raise PanformerError(
            f"--out {out} holds something else than an earlier import; expected a new or empty folder; choose another"
        )


def _check_finite(model: PanopticModel, checkpoint: Checkpoint) -> None:
    assert checkpoint.official is not None
    state = model.state_dict()
    bad = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} has values that are not finite (NaN or infinity) in {len(bad)} tensors, the "
            f"first of which is {checkpoint.official.official_name(bad[0], state)}: it is corrupt, or its training "
            "diverged; use another"
        )


def _read_categories(path: Path) -> CategoryTable:
    text = read_bytes(path, "panoptic JSON")
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON, or is truncated: {error}; expected a COCO panoptic JSON") from error
    return CategoryTable.from_coco(content.get("categories") if isinstance(content, dict) else content, str(path))
