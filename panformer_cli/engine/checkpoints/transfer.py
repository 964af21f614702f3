"""Starting from weights that were trained on other categories."""

from __future__ import annotations

from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, fill_model, is_plain, read_weights
from panformer_cli.models.base import PanopticModel
from panformer_cli.reporting import Reporter
from panformer_cli.wording import listing


def start_from(model: PanopticModel, checkpoint: Checkpoint, reporter: Reporter) -> None:
    """Fill `model` with a checkpoint's weights; with other categories, rows that belong to a class go by its name.

    A class that the checkpoint has under the same name (ignoring case), as a thing or as stuff alike, starts with its
    weights there; a class that it does not have stays newly initialized. Everything else has to fit.

    Raises:
        CheckpointError: the checkpoint is of another model.
    """
    weights = read_weights(checkpoint)
    if model.categories != checkpoint.categories:
        own = model.state_dict()
        sources = _sources(model.categories, checkpoint.categories)
        for name, labels in model.class_rows().items():
            if name in weights and weights[name].shape[1:] == own[name].shape[1:] and is_plain(weights[name]):
                weights[name] = _rows_by_name(own[name], weights[name], labels, sources, checkpoint.categories)
        reporter.message(_what_is_new(model.categories, sources, checkpoint))
    fill_model(model, checkpoint, weights)


def _sources(own: CategoryTable, known: CategoryTable) -> list[int | None]:
    """Return for each label of ours the checkpoint's label of the same name, both things or both stuff."""
    label = {(row.name.casefold(), row.is_thing): number for number, row in enumerate(known.categories)}
    return [label.get((row.name.casefold(), row.is_thing)) for row in own.categories]


def _rows_by_name(
    own: Tensor, known: Tensor, labels: range, sources: list[int | None], known_table: CategoryTable
) -> Tensor:
    """Return `own` with the rows of the known classes replaced by those of `known`.

    Args:
        labels: of our rows. A tensor begins at the first label, or at the first stuff label.
    """
    first_known = known_table.num_things if labels.start else 0
    rows = own.detach().cpu().clone()
    for row, label in enumerate(labels):
        source = sources[label]
        if source is not None:
            rows[row] = known[source - first_known]
    return rows


def _what_is_new(categories: CategoryTable, sources: list[int | None], checkpoint: Checkpoint) -> str:
    new = [row.name for row, source in zip(categories.categories, sources, strict=True) if source is None]
    total = len(categories)
    if not new:
        return f"All {total} categories are in {checkpoint.path} by name and start with its weights"
    return (
        f"{total - len(new)} of {total} categories are in {checkpoint.path} by name and start with its weights; "
        f"newly initialized: {listing(new, 5)}"
    )
