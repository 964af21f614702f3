"""Starting from weights that were trained on other categories."""

from __future__ import annotations

import re

from torch import Tensor

from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, fill_model, is_plain, read_weights
from panformer_cli.models.panoptic_segformer.network import PanopticSegFormer
from panformer_cli.reporting import Reporter
from panformer_cli.wording import listing

PER_THING = re.compile(r"location_decoder\.class_branches\.\d+\.(weight|bias)")
"""A row for every thing class."""
PER_STUFF = re.compile(r"stuff_queries\.embedding\.weight")
"""A row for every stuff class; the stuff class branches serve all classes alike."""


def start_from(model: PanopticSegFormer, categories: CategoryTable, checkpoint: Checkpoint, reporter: Reporter) -> None:
    """Fill `model` with a checkpoint's weights; of other categories, what belongs to a class goes by its name.

    A class that the checkpoint knows by the same name (letter case apart) and kind begins with its weights there; a
    class that it does not know begins as `model` has it, at random. Everything else has to fit.

    Raises:
        CheckpointError: the checkpoint is of another model.
    """
    weights = read_weights(checkpoint)
    if categories != checkpoint.categories:
        own = model.state_dict()
        places = {is_thing: _places(categories, checkpoint.categories, is_thing) for is_thing in (True, False)}
        for rows, is_thing in ((PER_THING, True), (PER_STUFF, False)):
            for name in filter(rows.fullmatch, own):
                if name in weights and _fits_by_rows(name, own[name], weights[name]):
                    weights[name] = _rows_by_name(own[name], weights[name], places[is_thing])
        known = [place is not None for place in places[True] + places[False]]  # labels: things first, then stuff
        reporter.message(_what_begins_anew(categories, known, checkpoint))
    fill_model(model, checkpoint, weights)


def _places(own: CategoryTable, known: CategoryTable, is_thing: bool) -> list[int | None]:
    """For each of our classes of one kind its place among the known ones of that kind."""
    place = {name.casefold(): number for number, name in enumerate(_names(known, is_thing))}
    return [place.get(name.casefold()) for name in _names(own, is_thing)]


def _names(table: CategoryTable, is_thing: bool) -> list[str]:
    return [row.name for row in table.categories if row.is_thing == is_thing]


def _fits_by_rows(name: str, own: Tensor, known: Tensor) -> bool:
    return known.shape[1:] == own.shape[1:] and is_plain(name, known)


def _rows_by_name(own: Tensor, known: Tensor, places: list[int | None]) -> Tensor:
    rows = own.detach().cpu().clone()
    for number, place in enumerate(places):
        if place is not None:
            rows[number] = known[place]
    return rows


def _what_begins_anew(categories: CategoryTable, known: list[bool], checkpoint: Checkpoint) -> str:
    new = [row.name for row, is_known in zip(categories.categories, known, strict=True) if not is_known]
    total = len(categories)
    if not new:
        return f"All {total} categories are known to {checkpoint.path} by name and begin with its weights"
    return (
        f"{total - len(new)} of {total} categories are known to {checkpoint.path} by name and begin with its weights; "
        f"the others begin anew: {listing(new, 5)}"
    )
