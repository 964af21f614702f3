"""Find the images of a data set that those of another one replace, such as images whose labels were corrected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.disk_list import DiskList
from panformer_cli.errors import DataError
from panformer_cli.prepare.sets.existing import Place
from panformer_cli.wording import counted, listing

_NAMED = 3
"""Number of images that an error names."""


class Replacement(NamedTuple):
    """An image of the first data set, and the one of the second whose annotation it gets."""

    old: Place
    new: Place


def find_replacements(
    first: Mapping[str, CocoPanoptic], second: Mapping[str, CocoPanoptic], where: str
) -> list[Replacement]:
    """Return the image of the first data set that each image of the second replaces.

    It is the one with the same file name, or else the only one whose name has the same last part, since a labeling tool
    may lose folders. Of several with the same name, it is the one in the split of the same name.

    Args:
        first: The splits of the first data set.
        second: The splits of the second one.
        where: Both data sets, for errors.

    Raises:
        DataError: An image has no counterpart or several, another size, or the same one as another image.
    """
    names = _Names(list(first.values()))
    found, lost, taken = list[Replacement](), list[str](), dict[Place, str]()
    for part, (split, data) in enumerate(second.items()):
        for index in range(len(data)):
            info = data.image_info(index)
            old = names.find(info.file_name, list(first).index(split) if split in first else None)
            if old is None:
                lost.append(info.file_name)
                continue
            if old in taken:
                both = f"{taken[old]} and {info.file_name}"
                raise DataError(f"{where}: {both} of the second data set replace one image; expected one; remove one")
            taken[old] = info.file_name
            _check_size(list(first.values())[old.part], old.number, data, index)
            found.append(Replacement(old, Place(part, index)))
    if lost:
        raise DataError(
            f"{where}: {counted(len(lost), 'image')} of the second data set replace no image, since the first has none "
            f"with this file name, or several: {listing(lost, _NAMED)}; expected the names of the first data set; "
            "leave such images out with `prepare-data subset`, or merge without --replace to add them"
        )
    return found


def _check_size(first: CocoPanoptic, old: int, second: CocoPanoptic, new: int) -> None:
    ours, theirs = first.image_info(old), second.image_info(new)
    if (ours.height, ours.width) != (theirs.height, theirs.width):
        raise DataError(
            f"{second.layout.annotation}: {theirs.file_name} is {theirs.width}x{theirs.height}, but the image that it "
            f"replaces, {ours.file_name} in {first.layout.annotation}, is {ours.width}x{ours.height} (width x height); "
            "expected equal sizes; label the original image"
        )


class _Names:
    """The images of several splits by file name, on disk, since there may be millions."""

    def __init__(self, splits: Sequence[CocoPanoptic]) -> None:
        self._places = DiskList[tuple[str, Place]](key=_name)
        self._last = DiskList[tuple[str, Place]](key=_name)
        for part, data in enumerate(splits):
            for index in range(len(data)):
                name = data.image_info(index).file_name
                self._places.append((name, Place(part, index)))
                self._last.append((_last_part(name), Place(part, index)))

    def find(self, name: str, part: int | None) -> Place | None:
        """Return the image of a name, preferably in the split `part`; None if there is none or several."""
        for rows, key in ((self._places, name), (self._last, _last_part(name))):
            places = [rows[position][1] for position in rows.positions(key)]
            same = [place for place in places if place.part == part]
            for candidates in (places, same):
                if len(candidates) == 1:
                    return candidates[0]
            if places:
                return None
        return None


def _name(row: tuple[str, Place]) -> str:
    return row[0]


def _last_part(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]
