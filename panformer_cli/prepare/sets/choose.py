"""Choosing images so that every class keeps its share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.images import read_bytes
from panformer_cli.errors import DataError


def stratified(classes: npt.NDArray[np.uint8], count: int, seed: int) -> npt.NDArray[np.int64]:
    """`count` images in which each class is in about as large a part of the images as in all.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas: On the Stratification of Multi-Label Data, ECML PKDD
    2011) into the chosen images and the others: the rarest class that is left is shared out first, each of its images
    to whichever side lacks more of that class.

    classes: as `classes_of` gives it.
    count: 0 .. images.
    Returns places in ascending order; equal seeds give equal ones.
    """
    images = len(classes)
    order = np.random.default_rng(seed).permutation(images)
    frequency = sum((_unpacked(row) for row in classes), np.zeros(8 * classes.shape[1], np.int64))
    share = np.array([count / max(images, 1), 1 - count / max(images, 1)])
    wanted = share[:, None] * frequency  # of each class, by chosen and other images
    room = np.array([count, images - count])
    side = np.full(images, -1, np.int8)
    while frequency.any():  # of the images that are left
        rarest = int(np.argmin(np.where(frequency, frequency, images + 1)))
        has_rarest = classes[:, rarest // 8] & 128 >> rarest % 8 > 0
        for image in order[(has_rarest & (side < 0))[order]]:
            side[image] = taker = _taker(wanted[:, rarest], room)
            row = _unpacked(classes[image])
            room[taker] -= 1
            wanted[taker] -= row
            frequency -= row
    side[order[(side < 0)[order]]] = np.repeat(np.array([0, 1], np.int8), room)  # images without a segment
    return np.flatnonzero(side == 0)


def _unpacked(row: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    return np.unpackbits(row).astype(np.int64)


def _taker(wanted: npt.NDArray[np.float64], room: npt.NDArray[np.int64]) -> int:
    """0 or 1: the side that lacks more of the class; of equals the one with more room; never a full one."""
    if not room.all():
        return int(np.argmax(room))
    return int(np.argmax(room)) if wanted[0] == wanted[1] else int(np.argmax(wanted))


def classes_of(data: CocoPanoptic) -> npt.NDArray[np.uint8]:
    """(images, classes / 8): whether a class is in an image, a bit each as `np.packbits` has them; from the JSON."""
    found = np.zeros((len(data), (len(data.categories) + 7) // 8), np.uint8)
    for index in range(len(data)):
        present = np.zeros(len(data.categories), np.bool_)
        present[[data.categories.label(category_id) for category_id in data.category_ids(index)]] = True
        found[index] = np.packbits(present)
    return found


def listed(data: Sequence[CocoPanoptic], path: Path) -> list[list[int]]:
    """The images that a text file names, one a line, by id or by file name; for each split their places in order.

    Raises:
        DataError: the file cannot be read or is empty, or a line names no image of the splits, or several.
    """
    text = read_bytes(path, "list of images").decode("utf-8-sig", "replace")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    places: dict[str, set[tuple[int, int]]] = {name: set() for _, name in lines}
    for part, split in enumerate(data):
        for index in range(len(split)):
            info = split.image_info(index)
            for name in {str(info.id), info.file_name, info.file_name.rsplit("/", 1)[-1]} & places.keys():
                places[name].add((part, index))
    chosen: list[set[int]] = [set() for _ in data]
    for number, name in lines:
        if not places[name]:
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
