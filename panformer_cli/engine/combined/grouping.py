"""Joins masks of several tiles or views that show one object: union-find, with at most one mask per tile or view."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

SAME_OBJECT = 0.5
"""Two masks of one class show the same object if their IoU is above this value, as in the definition of PQ. Of masks
that do not overlap, only one can have such an IoU with a given mask."""


def join_groups(owners: Sequence[Hashable], pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return groups of items, each with at most one item of every owner, in ascending order.

    Args:
        owners: the tile or view that each item belongs to.
        pairs: items that belong together, the most certain pairs first. A pair is ignored if its two groups have items
            of the same owner.
    """
    parents = list(range(len(owners)))
    seen = [{owner} for owner in owners]  # owners in the group of a root

    def root(item: int) -> int:
        while parents[item] != item:
            parents[item] = parents[parents[item]]
            item = parents[item]
        return item

    for first, second in pairs:
        one, other = sorted((root(first), root(second)))
        if one != other and not seen[one] & seen[other]:
            parents[other] = one
            seen[one] |= seen[other]
    groups: dict[int, list[int]] = {}
    for item in range(len(owners)):
        groups.setdefault(root(item), []).append(item)
    return list(groups.values())
