"""Choosing images so that every class keeps its share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from panformer_cli.data.coco_panoptic import CocoPanoptic
from panformer_cli.data.images import read_bytes
from panformer_cli.errors import DataError


def stratified(has_class: npt.NDArray[np.bool_], count: int, seed: int) -> list[int]:
    """`count` images in which each class is in about as large a part of the images as in all.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas: On the Stratification of Multi-Label Data, ECML PKDD
    2011) into the chosen images and the others: the rarest class that is left is shared out first, each of its images
    to whichever side lacks more of that class.

    has_class: (images, classes), whether a class is in an image.
    count: 0 .. images.
    Returns places in ascending order; equal seeds give equal ones.
    """
    images = len(has_class)
    order = np.random.default_rng(seed).permutation(images)
    has_class = np.asarray(has_class)[order]
    share = np.array([count / max(images, 1), 1 - count / max(images, 1)])
    wanted = share[:, None] * has_class.sum(0)  # of each class, by chosen and other images
    room = np.array([count, images - count])
    side = np.full(images, -1)
    while (left := side < 0).any():
        frequency = has_class[left].sum(0)
        present = np.flatnonzero(frequency)
        if not len(present):  # images without a segment
            side[np.flatnonzero(left)] = np.repeat([0, 1], room)
            break
        rarest = present[np.argmin(frequency[present])]
        for image in np.flatnonzero(left & has_class[:, rarest]):
            side[image] = taker = _taker(wanted[:, rarest], room)
            room[taker] -= 1
            wanted[taker] -= has_class[image]
    return sorted(order[side == 0].tolist())


def _taker(wanted: npt.NDArray[np.float64], room: npt.NDArray[np.int64]) -> int:
    """0 or 1: the side that lacks more of the class; of equals the one with more room; never a full one."""
    if not room.all():
        return int(np.argmax(room))
    return int(np.argmax(room)) if wanted[0] == wanted[1] else int(np.argmax(wanted))


def classes_of(data: CocoPanoptic) -> npt.NDArray[np.bool_]:
    """(images, classes), whether a class is in an image; from the JSON alone."""
    found = np.zeros((len(data), len(data.categories)), np.bool_)
    for index in range(len(data)):
        found[index, [data.categories.label(category_id) for category_id in data.category_ids(index)]] = True
    return found


def listed(data: Sequence[CocoPanoptic], path: Path) -> list[list[int]]:
    """The images that a text file names, one a line, by id or by file name; for each split their places in order.

    Raises:
        DataError: the file cannot be read or is empty, or a line names no image of the splits, or several.
    """
    places: dict[str, set[tuple[int, int]]] = {}
    for part, split in enumerate(data):
        for index in range(len(split)):
            info = split.image_info(index)
            for name in (str(info.id), info.file_name, info.file_name.rsplit("/", 1)[-1]):
                places.setdefault(name, set()).add((part, index))
    chosen: list[set[int]] = [set() for _ in data]
    text = read_bytes(path, "list of images").decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        if name not in places:
            raise DataError(
                f"{path}, line {number}: no image has the id or file name {name!r}; expected one of "
                f"{data[0].layout.annotation}"
            )
        if len(places[name]) > 1:
            raise DataError(
                f"{path}, line {number}: {len(places[name])} images have the id or file name {name!r}; expected one; "
                "name its folder too, or choose the split with --split"
            )
        ((part, index),) = places[name]
        chosen[part].add(index)
    if not any(chosen):
        raise DataError(f"{path} names no image; expected ids or file names, one a line")
    return [sorted(indices) for indices in chosen]
