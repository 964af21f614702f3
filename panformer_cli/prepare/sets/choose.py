"""Select images, stratified by class or from a list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.images import read_bytes
from panformer_cli.errors import DataError

_CANDIDATES = 64
"""Number of images with a missing class that are tried at most."""

_SMALL = 500
"""Number of images up to which the best selection is computed exactly."""


def stratified(classes: npt.NDArray[np.uint8], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Select `count` images in which the class frequencies are about the same as in all images.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas: On the Stratification of Multi-Label Data, ECML PKDD
    2011) into selected and other images: the rarest remaining class is distributed first, and each of its images goes
    to the side that lacks more of that class.

    Args:
        classes: As returned by `classes_of`.
        count: Number of images to select, 0..images.
        seed: Random seed. The same seed gives the same images.

    Returns:
        Image indices in ascending order.
    """
    images = len(classes)
    order = np.random.default_rng(seed).permutation(images)
    frequency = sum((_unpacked(row) for row in classes), np.zeros(8 * classes.shape[1], np.int64))
    share = np.array([count / max(images, 1), 1 - count / max(images, 1)])
    desired = share[:, None] * frequency  # (2, classes): images of each class for the selected and the other side
    room = np.array([count, images - count])
    side = np.full(images, -1, np.int8)
    while frequency.any():  # of the remaining images
        rarest = int(np.argmin(np.where(frequency, frequency, images + 1)))
        has_rarest = classes[:, rarest // 8] & 128 >> rarest % 8 > 0
        for image in order[(has_rarest & (side < 0))[order]]:
            side[image] = chosen = _choose_side(desired[:, rarest], room)
            row = _unpacked(classes[image])
            room[chosen] -= 1
            desired[chosen] -= row
            frequency -= row
    side[order[(side < 0)[order]]] = np.repeat(np.array([0, 1], np.int8), room)  # images without segments
    return np.flatnonzero(side == 0)


def _unpacked(row: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    return np.unpackbits(row).astype(np.int64)


def _choose_side(desired: npt.NDArray[np.float64], room: npt.NDArray[np.int64]) -> int:
    """Return the side (0 or 1) that lacks more of the class; on ties, the one with more room; never a full one."""
    if not room.all():
        return int(np.argmax(room))
    return int(np.argmax(room)) if desired[0] == desired[1] else int(np.argmax(desired))


def on_both_sides(classes: npt.NDArray[np.uint8], chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Exchange images so that every class that is in two images or more is on both sides.

    If no exchange of two images helps, and the data set is small, the selection with the fewest missing classes is
    computed exactly. Of a larger one a few classes may stay on one side, if one side has few images.

    Args:
        classes: As returned by `classes_of`.
        chosen: Indices of the images on one side, in ascending order.

    Returns:
        Indices of the same number of images, in ascending order.
    """
    present = np.unpackbits(classes, axis=1)
    present = present[:, present.sum(axis=0, dtype=np.int64) >= 2]
    side = np.ones(len(present), np.int8)
    side[chosen] = 0
    while _missing(present, side) and _exchange(present, side):
        pass
    if _missing(present, side) and len(present) <= _SMALL:
        side = _fewest_missing(present, side)
    return np.flatnonzero(side == 0)


def _missing(present: npt.NDArray[np.uint8], side: npt.NDArray[np.int8]) -> int:
    """Return how often a side lacks a class; `present` (images, classes) is 1 where an image has a class."""
    return sum(int((~present[side == one].any(axis=0)).sum()) for one in (0, 1))


def _exchange(present: npt.NDArray[np.uint8], side: npt.NDArray[np.int8]) -> bool:
    """Exchange the two images that help most with the first class for which this is possible; return whether one is."""
    before = _missing(present, side)
    for lacking in (0, 1):
        counts = [present[side == one].sum(axis=0, dtype=np.int64) for one in (0, 1)]
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


def _fewest_missing(present: npt.NDArray[np.uint8], side: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Return the sides with the fewest missing classes and, among these, the fewest moved images: an integer program.

    If it takes too long, `side` is returned.
    """
    from scipy.optimize import LinearConstraint, milp  # rarely needed, and slow to import

    images, rows = present.shape
    # The variables are 1 for an image on side 0, for a class that side 0 lacks, and for a class that side 1 lacks.
    lacks = np.eye(2 * rows)
    members, nothing = present.T.astype(np.float64), np.zeros((rows, 2 * rows))
    one_here = LinearConstraint(np.hstack([members, nothing + lacks[:rows]]), lb=1)
    one_there = LinearConstraint(np.hstack([members, nothing - lacks[rows:]]), ub=members.sum(axis=1) - 1)
    number = np.concatenate([np.ones(images), np.zeros(2 * rows)])
    equal = LinearConstraint(number, *[int((side == 0).sum())] * 2)
    costs = np.concatenate([np.where(side == 0, -1.0, 1.0), np.full(2 * rows, 2.0 * images)])
    constraints, everything = [one_here, one_there, equal], np.ones(len(costs))
    solution = milp(costs, integrality=everything, bounds=(0, 1), constraints=constraints, options={"time_limit": 5})
    return side if solution.x is None else (solution.x[:images] < 0.5).astype(np.int8)


def classes_of(data: CocoPanoptic) -> npt.NDArray[np.uint8]:
    """Return which classes the JSON lists for each image, packed with `np.packbits`: (images, classes / 8) uint8."""
    found = np.zeros((len(data), (len(data.categories) + 7) // 8), np.uint8)
    for index in range(len(data)):
        present = np.zeros(len(data.categories), np.bool_)
        present[[data.categories.label(category_id) for category_id in data.category_ids(index)]] = True
        found[index] = np.packbits(present)
    return found


def listed(data: Sequence[CocoPanoptic], path: Path) -> list[list[int]]:
    """Return for each split the sorted indices of the images that a text file lists, one id or file name per line.

    Raises:
        DataError: The file cannot be read or is empty, or a line matches no image or several.
    """
    data_of_list = read_bytes(path, "list of images")
    text = data_of_list.decode(json.detect_encoding(data_of_list), "replace").removeprefix("\ufeff")  # UTF-8 or UTF-16
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    matches: dict[str, set[tuple[int, int]]] = {name: set() for _, name in lines}
    for part, split in enumerate(data):
        for index in range(len(split)):
            info = split.image_info(index)
            for name in {str(info.id), info.file_name, info.file_name.rsplit("/", 1)[-1]} & matches.keys():
                matches[name].add((part, index))
    chosen: list[set[int]] = [set() for _ in data]
    for number, name in lines:
        if not matches[name]:
            raise DataError(
                f"{path}, line {number}: no image has the id or file name {name!r}; expected one listed in "
                f"{data[0].layout.annotation}"
            )
        if len(matches[name]) > 1:
            raise DataError(
                f"{path}, line {number}: {len(matches[name])} images have the id or file name {name!r}; expected one; "
                "add its folder, or choose the split with --split"
            )
        ((part, index),) = matches[name]
        chosen[part].add(index)
    if not any(chosen):
        raise DataError(f"{path} lists no images; expected one id or file name per line")
    return [sorted(indices) for indices in chosen]
