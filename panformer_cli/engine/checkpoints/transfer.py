"""Fine-tune from weights that were trained on other categories."""

from __future__ import annotations

from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, fill_model, is_plain, read_weights
from panformer_cli.models.base import PanopticModel
from panformer_cli.reporting import Reporter
from panformer_cli.wording import listing


def start_from(model: PanopticModel, checkpoint: Checkpoint, reporter: Reporter) -> None:
    """Load a checkpoint's weights into `model`; if the categories differ, match rows that belong to a class by name.

    A class starts with the checkpoint's weights if the checkpoint has a class of the same name (ignoring case) that is
    also a thing or also stuff; otherwise it stays newly initialized. All other tensors must match.

    Raises:
        CheckpointError: The checkpoint is from another model.
    """
    weights = read_weights(checkpoint)
    if model.categories != checkpoint.categories:
        own = model.state_dict()
        sources = _sources(model.categories, checkpoint.categories)
        for name, labels in model.class_rows().items():
            if name in weights and weights[name].shape[1:] == own[name].shape[1:] and is_plain(weights[name]):
                weights[name] = _rows_by_name(own[name], weights[name], labels, sources, checkpoint.categories)
        reporter.message(_summary(model.categories, sources, checkpoint))
    fill_model(model, checkpoint, weights)


def _sources(own: CategoryTable, known: CategoryTable) -> list[int | None]:
    """Return for each of our labels the checkpoint's label with the same name and type (thing or stuff), or None."""
    label = {(row.name.casefold(), row.is_thing): number for number, row in enumerate(known.categories)}
    return [label.get((row.name.casefold(), row.is_thing)) for row in own.categories]


def _rows_by_name(
    own: Tensor, known: Tensor, labels: range, sources: list[int | None], known_table: CategoryTable
) -> Tensor:
    """Return a copy of `own` in which the rows of known classes come from `known`.

    Args:
        labels: Labels of our rows, which start at the first label or at the first stuff label.
    """
    first_known = known_table.num_things if labels.start else 0
    rows = own.detach().cpu().clone()
    for row, label in enumerate(labels):
        source = sources[label]
        if source is not None:
            rows[row] = known[source - first_known]
    return rows


def _summary(categories: CategoryTable, sources: list[int | None], checkpoint: Checkpoint) -> str:
    new = [row.name for row, source in zip(categories.categories, sources, strict=True) if source is None]
    total = len(categories)
    if not new:
        return f"{checkpoint.path} has all {total} categories by name; they start with its weights"
    return (
        f"{checkpoint.path} has {total - len(new)} of {total} categories by name; they start with its weights; "
        f"newly initialized: {listing(new, 5)}"
    )
