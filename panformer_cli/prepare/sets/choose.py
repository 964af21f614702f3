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
