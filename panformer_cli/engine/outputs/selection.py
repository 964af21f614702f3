"""Which segments of a prediction are kept: those of some categories, and of a minimum area."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_png import id_runs
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import PanformerError
from panformer_cli.wording import listing


@dataclass(frozen=True)
class SegmentSelection:
    """Keeps some segments of a panoptic map; the pixels of all others become void. Segment ids do not change.

    Attributes:
        category_ids: Dataset ids of the categories to keep; None for all.
        min_area: Minimum number of pixels.
    """

    category_ids: frozenset[int] | None = None
    min_area: int = 0

    def __call__(self, panoptic: PanopticMap) -> PanopticMap:
        """Return the map with the segments to keep; the argument itself if all are kept."""
        kept = tuple(
            segment
            for segment in panoptic.segments
            if segment.area >= self.min_area and (self.category_ids is None or segment.category_id in self.category_ids)
        )
        if len(kept) == len(panoptic.segments):
            return panoptic
        runs, lengths = id_runs(panoptic.ids)
        left = np.where(np.isin(runs, [segment.id for segment in kept]), runs, 0).astype(np.int32)
        return PanopticMap(np.repeat(left, lengths).reshape(panoptic.ids.shape), kept)


def find_categories(given: Sequence[str], categories: CategoryTable) -> frozenset[int]:
    """Return the dataset ids of categories that a user names.

    Args:
        given: Names in any case, dataset ids, and lists of both with commas; a name may contain commas itself. All
            categories of a name are meant if it occurs several times. A name has precedence over an equal id.
        categories: The category table.

    Raises:
        PanformerError: A name or id is not in the table; all of them are reported, with the closest names.
    """
    found: set[int] = set()
    unknown: list[str] = []
    for text in given:
        whole = _ids_of(text, categories)
        for part in [text] if whole else text.split(","):
            ids = _ids_of(part, categories)
            found |= ids
            if not ids and part.strip():
                unknown.append(part.strip())
    if unknown:
        raise PanformerError(_unknown(unknown, categories))
    if not found:
        raise PanformerError("--classes names no category; expected names or ids such as person,dog")
    return frozenset(found)


def _ids_of(text: str, categories: CategoryTable) -> set[int]:
    """Return the ids of the categories with this name, or else the id itself if the table has it."""
    name = text.strip().casefold()
    ids = {category.id for category in categories.categories if category.name.strip().casefold() == name}
    if not ids and name.isascii() and name.isdecimal() and int(name) in categories:
        ids = {int(name)}
    return ids


def _unknown(names: Sequence[str], categories: CategoryTable) -> str:
    known = {category.name.strip().casefold(): category.name for category in categories.categories}
    texts = []
    for name in names:
        parts = [other for other in known if name.casefold() in re.split(r"[\W_]+", other)]  # wall, wall-other-merged
        close = get_close_matches(name.casefold(), known, n=3) or parts[:3]
        guess = f" (did you mean {' or '.join(known[match] for match in close)}?)" if close else ""
        texts.append(f"{name!r}{guess}")
    some = listing((category.name for category in categories.categories), 5)
    return f"--classes: the model has no category {', '.join(texts)}; expected names or ids of its categories: {some}"
