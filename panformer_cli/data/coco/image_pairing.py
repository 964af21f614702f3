"""Pairs the images of two panoptic JSONs by id or, where the ids stand for other images, by file name."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from panformer_cli.data.coco.panoptic_annotation import ImageInfo, PanopticAnnotation
from panformer_cli.data.images import IMAGE_SUFFIXES
from panformer_cli.errors import DataError
from panformer_cli.wording import counted

CONFLICTS = 3
"""Number of conflicting images that an error lists."""

ImageId = int | str


@dataclass(frozen=True)
class Pairing:
    """The result of `pair_images`.

    Attributes:
        positions: for each image of the first list, the position of the same image in the second list.
        note: says that the images are paired by file name, although their ids differ, or by id, although the names of
            their PNGs differ; empty if nothing contradicts the ids.
    """

    positions: Sequence[int]
    note: str = ""

    def partners(self, first: PanopticAnnotation, second: PanopticAnnotation) -> dict[ImageId, ImageInfo]:
        """Return the image of `second` for each image id of `first`, the two JSONs that were paired."""
        pairs = zip(first.images, self.positions, strict=True)
        return {info.id: second.images[position] for info, position in pairs}


def pair_images(first: PanopticAnnotation, second: PanopticAnnotation) -> Pairing:
    """Find every image of `first` in `second`, which may have more images.

    Images are paired by id, unless an id is missing or stands for different file names in the two JSONs. In that case
    they are paired by file name, if every image of `first` has exactly one partner. Image names may be missing: then
    only the ids count.

    Raises:
        DataError: an image has no partner, or the ids and the file names contradict each other.
    """
    by_id = {info.id: position for position, info in enumerate(second.images)}
    positions = [by_id.get(info.id, -1) for info in first.images]
    if -1 not in positions and next(_conflicts(first, second, positions), None) is None:
        return Pairing(positions, _note_about_pngs(first, second, positions))
    named = _positions_by_name(first.images, second.images)
    if named is not None:
        return Pairing(
            named,
            f"{first.path} and {second.path} have different image ids for the same files: "
            "images are paired by file name",
        )
    if -1 in positions:
        raise _missing(first, second, positions)
    raise _contradiction(first, second, positions)


def same_name(first: str, second: str, ignores_suffix: bool = True) -> bool:
    """Return whether two file names can stand for one image: one is the other, or the end of it.

    The suffix is ignored, because tools list `a.png`, the prediction, for the image `a.jpg`.

    >>> same_name("val/a.jpg", "a.png"), same_name("a.jpg", "ba.jpg"), same_name("1/a.jpg", "2/a.jpg")
    (True, False, False)
    """
    spelled = stem_of if ignores_suffix else normalized
    one, other = f"/{spelled(first)}", f"/{spelled(second)}"
    return one.endswith(other) or other.endswith(one)


def normalized(name: str) -> str:
    """Return a file name in one spelling: macOS decomposes accents, and Windows writes backslashes."""
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")


def stem_of(name: str) -> str:
    """Return a normalized file name, with its folders, without the suffix of an image."""
    path = normalized(name)
    stem, _, suffix = path.rpartition(".")
    return stem if f".{suffix.lower()}" in IMAGE_SUFFIXES else path


def other_kind_of(image_id: ImageId) -> ImageId | None:
    """Return the id as text if it is a number, and as a number if it is the text of one."""
    if isinstance(image_id, int):
        return str(image_id)
    return int(image_id) if image_id.isdecimal() and image_id.isascii() else None


def kind_of(image_id: ImageId | None) -> str:
    """Return `text` or `numbers`."""
    return "text" if isinstance(image_id, str) else "numbers"


def _conflicts(
    first: PanopticAnnotation, second: PanopticAnnotation, positions: Sequence[int]
) -> Iterator[tuple[ImageInfo, ImageInfo]]:
    """Yield the pairs whose file names, where both are known, stand for different images."""
    stems = {stem_of(info.file_name) for info in first.images}
    ignores_suffix = len(stems) == len(first.images)  # not where a.jpg and a.png are two images
    for info, position in zip(first.images, positions, strict=True):
        other = second.images[position]
        if info.file_name and other.file_name and not same_name(info.file_name, other.file_name, ignores_suffix):
            yield info, other


def _note_about_pngs(first: PanopticAnnotation, second: PanopticAnnotation, positions: Sequence[int]) -> str:
    """Return a sentence if `second` does not name its images, and the names of its PNGs stand for other images."""
    if any(info.file_name for info in second.images):
        return ""
    by_png = _unique_positions([replace(info, file_name=info.png_name) for info in second.images], _base)
    pairs = zip(first.images, positions, strict=True)
    found = [(info, position, by_png.get(_base(info.file_name), -1)) for info, position in pairs]
    others = [(info, position) for info, position, named in found if position != named]
    if not others or any(named < 0 for _, _, named in found):
        return ""
    listed = "; ".join(
        f"image {info.id!r} is {info.file_name} and has the PNG {second.images[position].png_name}"
        for info, position in others[:CONFLICTS]
    )
    return (
        f"{second.path} has no `images`, so images are paired by id, but the names of {len(others)} of "
        f"{counted(len(found), 'PNG')} stand for other images ({listed}); if these ids are not those of {first.path}, "
        "add `images` with id and file_name"
    )


def _positions_by_name(first: Sequence[ImageInfo], second: Sequence[ImageInfo]) -> list[int] | None:
    """Return the position in `second` of each image of `first`; None if a name is missing or not unique."""
    readings: tuple[Callable[[str], str], ...] = (normalized, stem_of, _base)
    for key in readings:
        found = _unique_positions(second, key)
        names = [key(info.file_name) for info in first]
        positions = [found.get(name, -1) for name in names]
        if -1 in positions or "" in names or len(set(names)) < len(names):
            continue
        if all(same_name(one.file_name, second[at].file_name) for one, at in zip(first, positions, strict=True)):
            return positions
    return None


def _unique_positions(images: Sequence[ImageInfo], key: Callable[[str], str]) -> dict[str, int]:
    """Return the position of each name; -1 if several images have it."""
    positions: dict[str, int] = {}
    for position, info in enumerate(images):
        name = key(info.file_name)
        positions[name] = -1 if name in positions else position
    return positions


def _base(name: str) -> str:
    return stem_of(name).rpartition("/")[2]


def _missing(first: PanopticAnnotation, second: PanopticAnnotation, positions: Sequence[int]) -> DataError:
    missing = [info for info, position in zip(first.images, positions, strict=True) if position < 0]
    head, other_kind = missing[0], other_kind_of(missing[0].id)
    start = f"{second.path} is missing {len(missing)} of the {len(first.images)} images of {first.path}"
    if other_kind is not None and any(info.id == other_kind for info in second.images):
        mine, theirs = kind_of(head.id), kind_of(other_kind)
        return DataError(
            f"{start}: their image ids are {mine} ({head.id!r}), and {theirs} ({other_kind!r}) in {second.path.name}; "
            f"expected the same ids in both files; write them as {mine} or as {theirs} in both"
        )
    return DataError(
        f"{start}, first image {head.id!r} ({head.file_name}); expected each of them with its image id or, in `images` "
        "of both files, its unique file name"
    )


def _contradiction(first: PanopticAnnotation, second: PanopticAnnotation, positions: Sequence[int]) -> DataError:
    total = sum(1 for _ in _conflicts(first, second, positions))
    listed = "; ".join(
        f"image {one.id!r} is {one.file_name} and {other.file_name}"
        for one, other in islice(_conflicts(first, second, positions), CONFLICTS)
    )
    return DataError(
        f"{first.path} and {second.path} have different file names under {total} of {len(positions)} image ids "
        f"({listed}), and their names cannot be paired either; expected the same images; predict again with the ids of "
        "the annotation (`panformer predict --ids-from`), or remove `images` from the predictions to pair by id alone"
    )
