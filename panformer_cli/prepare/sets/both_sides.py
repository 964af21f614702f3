"""Exchange images between the two sides of a split until every class is on both.

In general this is as hard as two-coloring a hypergraph. But a class in more images than there are rarer classes can
always be repaired: on the side that has it, at most one image per rarer class is the only one of such a class there, so
one of its other images can change sides without loss. In the same way, the number of images on each side can be
restored if each has more images than classes. So only the rarest classes, and sides with few images, need a search.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Present = npt.NDArray[np.uint8]
"""(images, classes): 1 where an image has a class. Only classes that are in two images or more."""
Side = npt.NDArray[np.int8]
"""(images,): the side of each image, 0 or 1."""

_CANDIDATES = 64
"""Number of images with a missing class that are tried at most in an exchange."""

_SMALL = 500
"""Number of images up to which single exchanges are tried first, which move the fewest images."""

_SOLVED = 20_000
"""Number of images up to which an integer program is solved."""


def on_both_sides(classes: npt.NDArray[np.uint8], chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Exchange images so that every class that is in two images or more is on both sides.

    If no simple exchange helps, the selection with the fewest missing classes is computed exactly. Only if this takes
    too long, a few classes may stay on one side.

    Args:
        classes: As returned by `choose.classes_of`.
        chosen: Indices of the images on one side, in ascending order.

    Returns:
        Indices of the same number of images, in ascending order.
    """
    present: Present = np.unpackbits(classes, axis=1)
    frequency = present.sum(axis=0, dtype=np.int64)
    order = np.argsort(frequency, kind="stable")
    present = np.ascontiguousarray(present[:, order[frequency[order] >= 2]])  # the rarest class first
    side: Side = np.ones(len(present), np.int8)
    side[chosen] = 0
    if _missing(present, side) and len(present) > _SMALL:
        side = _repaired(present, side)
    while _missing(present, side) and _exchange(present, side):
        pass
    if _missing(present, side) and len(present) <= _SOLVED:
        number = int((side == 0).sum())
        side = _fewest_missing(present, side, number, number)
    return np.flatnonzero(side == 0)


def _missing(present: Present, side: Side) -> int:
    """Return how often a side lacks a class."""
    return sum(int((~present[side == one].any(axis=0)).sum()) for one in (0, 1))


def _counts(present: Present, side: Side) -> npt.NDArray[np.int64]:
    """Return the number of images of each class on each side: (2, classes)."""
    return np.stack([present[side == one].sum(axis=0, dtype=np.int64) for one in (0, 1)])


def _repaired(present: Present, side: Side) -> Side:
    """Move images class by class, the rarest first, and then restore the number of images on each side.

    Takes time proportional to the size of `present`, except for classes that need a search. If one of them stays on one
    side, or there are too few images to restore their number, the given sides are returned.
    """
    new = side.copy()
    if not _spread(present, new):
        new = _searched(present, side)
        _spread(present, new)
    _restore_number(present, new, int((side == 0).sum()))
    is_better = (new == 0).sum() == (side == 0).sum() and _missing(present, new) < _missing(present, side)
    return new if is_better else side


def _spread(present: Present, side: Side) -> bool:
    """Move an image for each class that a side lacks; return whether every class is on both sides then.

    An image is moved only if its side keeps all rarer classes.
    """
    counts = _counts(present, side)
    for label in range(present.shape[1]):
        for lacking in (0, 1):
            if counts[lacking, label]:
                continue
            # Each rarer class is the last one of at most one image, so more candidates are not needed.
            candidates = np.flatnonzero((present[:, label] > 0) & (side != lacking))[: label + 1]
            lost = present[candidates] & (counts[1 - lacking] == 1)
            candidates, lost = candidates[~lost[:, :label].any(axis=1)], lost[~lost[:, :label].any(axis=1)]
            if not len(candidates):
                continue
            image = candidates[int(np.argmin(lost.sum(axis=1)))]
            side[image] = lacking
            counts[lacking] += present[image]
            counts[1 - lacking] -= present[image]
    return bool(counts.all())


def _searched(present: Present, side: Side) -> Side:
    """Return sides on which each of the rarest classes is on both, for any number of images on a side, if possible.

    Only classes in no more images than there are rarer classes are searched; the others can be repaired later.
    """
    frequency = present.sum(axis=0, dtype=np.int64)
    hard = np.flatnonzero(frequency <= np.arange(len(frequency)))
    kernel = present[:, : hard[-1] + 1] if len(hard) else present[:, :0]
    images = np.flatnonzero(kernel.any(axis=1))
    new = side.copy()
    if 0 < len(images) <= _SOLVED:
        new[images] = _fewest_missing(kernel[images], side[images], 0, len(images))
    return new


def _restore_number(present: Present, side: Side, number: int) -> None:
    """Move images that are not the only one of a class on their side until `number` images are on side 0."""
    counts = _counts(present, side)
    surplus = int((side == 0).sum()) - number
    source = 0 if surplus > 0 else 1
    # Images with few classes first: they are the only one of a class least often.
    images = np.flatnonzero(side == source)
    for image in images[np.argsort(present[images].sum(axis=1, dtype=np.int64), kind="stable")].tolist():
        if surplus == 0:
            return
        if (counts[source] > present[image]).all():
            side[image] = 1 - source
            counts[source] -= present[image]
            counts[1 - source] += present[image]
            surplus += 1 if surplus < 0 else -1


def _exchange(present: Present, side: Side) -> bool:
    """Exchange the two images that help most with the first class for which this is possible; return whether one is."""
    before = _missing(present, side)
    counts = _counts(present, side)
    for lacking in (0, 1):
        mine, own = np.flatnonzero(side == lacking), present[side == lacking].astype(np.int64)
        for label in np.flatnonzero(counts[lacking] == 0).tolist():
            best = (before, -1, -1)
            for come in np.flatnonzero(present[:, label])[:_CANDIDATES].tolist():
                here, there = counts[lacking] + present[come], counts[1 - lacking] - present[come]
                # What each image takes along: classes that only it has here, less those that the other side lacks.
                taken = own @ ((here == 1).astype(np.int64) - (there == 0))
                go = int(np.argmin(taken))
                best = min(best, (int((here == 0).sum() + (there == 0).sum() + taken[go]), come, int(mine[go])))
            if best[0] < before:
                side[list(best[1:])] = lacking, 1 - lacking
                return True
    return False


def _fewest_missing(present: Present, side: Side, least: int, most: int) -> Side:
    """Return the sides with the fewest missing classes and, among these, the fewest moved images: an integer program.

    If it takes too long, `side` is returned.

    Args:
        present: The images.
        side: Their sides.
        least: Lowest number of images on side 0.
        most: Highest number of images on side 0.
    """
    from scipy.optimize import LinearConstraint, milp  # rarely needed, and slow to import
    from scipy.sparse import csr_array, hstack, identity

    images, rows = present.shape
    # The variables are 1 for an image on side 0, for a class that side 0 lacks, and for a class that side 1 lacks.
    members, lacks = csr_array(present.T.astype(np.float64)), identity(rows, format="csr")
    nothing = csr_array((rows, rows))
    one_here = LinearConstraint(hstack([members, lacks, nothing]), lb=1)
    one_there = LinearConstraint(hstack([members, nothing, -lacks]), ub=present.sum(axis=0, dtype=np.int64) - 1)
    number = np.concatenate([np.ones(images), np.zeros(2 * rows)])
    sizes = LinearConstraint(number, least, most)
    costs = np.concatenate([np.where(side == 0, -1.0, 1.0), np.full(2 * rows, 2.0 * images)])
    constraints, everything = [one_here, one_there, sizes], np.ones(len(costs))
    solution = milp(costs, integrality=everything, bounds=(0, 1), constraints=constraints, options={"time_limit": 5})
    return side if solution.x is None else (solution.x[:images] < 0.5).astype(np.int8)
