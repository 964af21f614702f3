"""Find the JSON files of COCO instance annotations, and the images that they list.

ROOT/annotations/instances_<split>.json    with ROOT/images/<split>/ or ROOT/<split>/: COCO
ROOT/<split>/_annotations.coco.json        next to the images: Roboflow
one JSON, or one per split                 next to the images or to a folder of images, as other tools write it
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.image_formats import is_clutter
from panformer_cli.data.layout import check_split_name, find_images
from panformer_cli.errors import DataError
from panformer_cli.prepare.source import SPLIT_NAME, listed_files, require_folder
from panformer_cli.storage.files import is_file, name_inside
from panformer_cli.wording import LISTED, listing

_EXPORT = "_annotations.coco.json"
"""Roboflow's JSON, next to the images of a split."""
SINGLE_SPLIT = "train"
"""Name of the split if no file or folder names one."""
_FOLDERS = ("images", "JPEGImages", "data")
"""Usual names of a folder of images."""
_OTHERS = ("panoptic_", "captions_", "person_keypoints_", "stuff_", "image_info_")
"""How COCO's other JSON files begin."""
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_PEEKED = 2**16
"""Bytes at either end of a JSON in which at least two of these keys must be, to recognize it."""
_LOCAL_FILES = "/local-files/?d="
"""What is before the path of an image in Label Studio's local storage."""
_URL = re.compile("[a-z][a-z0-9+.-]+://[^/?#]*(?P<path>[^?#]*)", re.IGNORECASE)
"""A URL, whose host may be invalid."""


class CocoSplit(NamedTuple):
    """The JSON of a split, and where its images are (see `ImageFinder`).

    Attributes:
        annotation: The JSON.
        folders: The folders in which file names are looked up, in this order.
        top: The folder whose files are matched with names that are in none of them.
        bases: The folders in which names with folders, such as `train/a.jpg`, are also looked up.
        within: The folder that must contain what is found in `bases`; None for any.
        others: The folders of other splits, whose files are not matched.
    """

    annotation: Path
    folders: tuple[Path, ...]
    top: Path
    bases: tuple[Path, ...] = ()
    within: Path | None = None
    others: tuple[Path, ...] = ()


class UnusedJson(NamedTuple):
    """A JSON that is not converted, the split in its name, and why: a sentence without its subject."""

    path: Path
    split: str
    reason: str


def find_splits(root: Path) -> dict[str, CocoSplit]:
    """Return the splits of a data set, sorted by name.

    Raises:
        DataError: There are none, or several JSON files could be the one of a split.
    """
    require_folder(root)
    named = {path.stem.removeprefix("instances_"): path for path in (root / "annotations").glob("instances_*.json")}
    splits = {
        split: CocoSplit(path, (folder,), folder)
        for split, path in named.items()
        if (folder := find_images(root, split)) is not None
    }
    exported = [
        path
        for path in root.glob(f"*/{_EXPORT}")
        if path.parent.name not in _FOLDERS and not _is_hidden(path.parent.name)
    ]
    splits = {path.parent.name: CocoSplit(path, (path.parent,), path.parent) for path in exported} | splits
    splits = splits or _other_splits(root)
    if not splits:
        raise DataError(_nothing_found(root))
    return dict(sorted(splits.items()))


def unused_jsons(root: Path, layout: Mapping[str, CocoSplit]) -> Iterator[UnusedJson]:
    """Yield the JSON files that `find_splits` does not use: those without images, then those in another layout.

    Yields nothing if the JSON was given: then the others are not meant.
    """
    if any(split.within is not None for split in layout.values()):
        return
    used = sorted(split.annotation for split in layout.values())
    lone = [path for path in sorted((root / "annotations").glob("instances_*.json")) if path not in used]
    for path in lone:
        split = path.stem.removeprefix("instances_")
        yield UnusedJson(path, split, f"has no images in images/{split}/ or {split}/")
    for path in _jsons(root):
        if path not in used and path not in lone and _is_readable_coco(path):
            reason = f"has another layout than {listing(used)}; pass it with --json FILE --images DIR"
            yield UnusedJson(path, split_of(path.relative_to(root)), reason)


def given_split(annotation: Path, images: Path, split: str) -> dict[str, CocoSplit]:
    """Return the split whose JSON and folder of images are given.

    Raises:
        DataError: One of them does not exist, or the name is not valid.
    """
    check_split_name(split)
    if not annotation.is_file():
        raise DataError(f"the JSON {annotation} does not exist; check --json")
    if not images.is_dir():
        raise DataError(f"the folder of images {images} does not exist; check --images")
    return {split: CocoSplit(annotation, (images,), images, bases=(annotation.parent,), within=images)}


def split_of(inner: PurePath) -> str:
    """Return the split in the name of a JSON, or else in that of its folder; `train` if there is none.

    >>> [split_of(PurePath(name)) for name in ("annotations/instances_val2017.json", "test/labels.json", "result.json")]
    ['val2017', 'test', 'train']
    """
    words = [*_words(inner.stem), inner.parent.name]
    return next((word for word in words if SPLIT_NAME.fullmatch(word)), SINGLE_SPLIT)


def _words(stem: str) -> list[str]:
    return re.split("[._ -]", stem)


def coco_jsons(root: Path, most: int | None = None) -> Iterator[Path]:
    """Yield the JSON files in `root` and in its folders that look like COCO's, without those of COCO's other tasks.

    Opens at most `most` files, the largest ones, since COCO's JSON describes many images.
    """
    found = _jsons(root)
    if most is not None and len(found) > most:
        found = sorted(nlargest(most, found, key=_size))
    return filter(_is_coco, found)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reported when it is opened
        return 0


def _other_jsons(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in coco_jsons(root):
        split = split_of(path.relative_to(root))
        if split in found:
            raise DataError(
                f"{root} has several COCO JSON files for the split {split}: {found[split].relative_to(root)} and "
                f"{path.relative_to(root)}; expected one per split; choose one with --json FILE --images DIR"
            )
        found[split] = path
    return found


def _jsons(root: Path) -> list[Path]:
    """Return the JSON files in `root` and in its folders, without those of COCO's other tasks."""
    found = sorted(path for pattern in ("*.json", "*/*.json") for path in root.glob(pattern) if path.is_file())
    names = [part for path in found for part in [path.relative_to(root).parts]]
    return [
        path
        for path, parts in zip(found, names, strict=True)
        if not any(map(_is_hidden, parts)) and not path.name.startswith(_OTHERS)
    ]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or is_clutter(name)


def _is_coco(path: Path) -> bool:
    """Return whether a JSON has at least two of COCO's keys near its beginning or end. Reads no more than that."""
    try:
        with path.open("rb") as file:
            head = file.read(_PEEKED)
            file.seek(max(file.seek(0, 2) - _PEEKED, 0))
            text = (head + file.read()).replace(b"\0", b"")  # UTF-16
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; expected a readable file") from error
    return sum(key in text for key in _KEYS) >= 2


def _is_readable_coco(path: Path) -> bool:
    try:
        return _is_coco(path)
    except DataError:  # of no matter for the files that are used
        return False


def _other_splits(root: Path) -> dict[str, CocoSplit]:
    jsons = _other_jsons(root)
    own = {split: _own_folders(root, split, path) for split, path in jsons.items()}
    return {split: _other_split(root, path, split, own) for split, path in jsons.items()}


def _own_folders(root: Path, split: str, annotation: Path) -> list[Path]:
    """Return the folders with images that have the name of a split or of its JSON."""
    named = [root / "images" / split, root / split]
    if split in _words(annotation.stem):
        named.append(annotation.with_suffix(""))
    return [folder for folder in dict.fromkeys(named) if folder.is_dir() and _has_images(folder)]


def _has_images(folder: Path) -> bool:
    try:
        return next(listed_files(folder), None) is not None
    except DataError:  # reported with the images that are missing
        return True


def _other_split(root: Path, annotation: Path, split: str, own: Mapping[str, Sequence[Path]]) -> CocoSplit:
    """Return where the images of a split are: only in its own folders, unless it has none or a name has folders."""
    home = annotation.parent
    usual = [root / "images" / split, root / split, annotation.with_suffix(""), home]
    usual += [base / name for base in (home, root) for name in _FOLDERS]
    anywhere = _existing([*usual, root])
    if own[split]:
        inside = [folder / name for folder in own[split] for name in _FOLDERS]
        return CocoSplit(annotation, _existing([*own[split], *inside]), own[split][0], bases=anywhere)
    others = [folder for folders in own.values() for folder in folders]
    if len(own) > 1:
        inner = [folder for base in (root, root / "images") for folder in base.glob("*/")]
        others += [folder for folder in inner if _purpose(folder.name) not in ("", _purpose(split))]
    return CocoSplit(annotation, anywhere, root, others=tuple(others))


def _purpose(split: str) -> str:
    """Return the first two letters of a usual name of a split, such as `va` of `val2017` and `valid`, or nothing."""
    return split[:2].lower() if SPLIT_NAME.fullmatch(split) else ""


def _existing(folders: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def _nothing_found(root: Path) -> str:
    jsons = [path.relative_to(root).as_posix() for path in _jsons(root)]
    folders = [f"{path.name}/" for path in sorted(root.iterdir()) if path.is_dir() and not _is_hidden(path.name)]
    there = [f"the JSON files {listing(jsons)}, without `images`, `annotations` and `categories`"] if jsons else []
    there += [f"the folders {listing(folders)}"] if folders else []
    return (
        f"{root} has no COCO annotations: looked for annotations/instances_<split>.json with images in images/<split>/ "
        f"or <split>/, for <split>/{_EXPORT}, and for other COCO JSON files in this folder and in its folders; found "
        f"{' and '.join(there) or 'no JSON files and no folders'}; check --root, or pass --json FILE --images DIR"
    )


class FoundImage(NamedTuple):
    """An image file, and its name in the output."""

    path: Path
    name: str


class ImageFinder:
    """Finds the images that a JSON lists.

    A name is first looked up in the split's folders, and a name with folders also in its bases. If it is in none of
    them, it may come from another machine or another folder. Then its file is the only one below `top` that ends in
    the same parts, as many as needed, if no other name in the JSON ends in these parts.
    """

    def __init__(self, split: CocoSplit, listed: Iterable[str]) -> None:
        self._split = split
        self._listed = listed
        self._problem = ""
        self._tails: _Tails | None = None

    def find(self, file_name: str) -> FoundImage:
        """Return the file of an image.

        Raises:
            DataError: There is none, or there are several.
        """
        where, problem = str(self._split.annotation), None
        names = list(_spellings(file_name))
        for name in names:
            for folder in self._places(name):
                try:
                    path = name_inside(folder, name, where)
                except DataError as error:
                    problem = problem or error
                else:
                    if is_file(path) and self._is_allowed(folder, path):
                        return FoundImage(path, name)
        return self._find_elsewhere(file_name, names[-1], problem)

    def _places(self, name: str) -> tuple[Path, ...]:
        has_folders = len(PurePosixPath(name).parts) > 1
        return self._split.folders + (self._split.bases if has_folders else ())

    def _is_allowed(self, folder: Path, path: Path) -> bool:
        within = self._split.within
        return folder in self._split.folders or within is None or path.is_relative_to(within)

    def _find_elsewhere(self, file_name: str, name: str, problem: DataError | None) -> FoundImage:
        tails = self._all_tails()
        for tail in _tails_of(name, tails.depth):
            matching = _first(tails.files, tail, LISTED + 1)
            if len(matching) > 1:
                more = " and others" if len(matching) > LISTED else ""
                raise DataError(
                    f"{self._split.annotation}: the image {file_name} could be {', '.join(matching[:LISTED])}{more} in "
                    f"{self._split.top}; expected one; correct the file_name"
                )
            if matching and len(_first(tails.names, tail, 2)) == 1:
                return FoundImage(self._split.top / matching[0], matching[0])
        if problem is not None:
            raise problem
        raise DataError(
            f"{self._split.annotation}: the image {file_name} is missing: looked in {listing(self._split.folders)}"
            f"{self._problem}; restore it, or pass its folder with --json FILE --images DIR"
        )

    def _all_tails(self) -> _Tails:
        """Return the tails of all files below `top` and of all names in the JSON; there may be millions."""
        if self._tails is None:
            files, depth = DiskList[tuple[str, str]](key=_tail), 0
            try:
                for inner in self._files_below_top():
                    tails = _tails_of(inner)
                    depth = max(depth, len(tails))
                    files.extend((tail, inner) for tail in tails)
            except DataError as error:  # then only the split's folders count
                files, depth, self._problem = DiskList(key=_tail), 0, f" ({error})"
            listed = (list(_spellings(name))[-1] for name in self._listed) if depth else ()
            names = DiskList(((tail, name) for name in listed for tail in _tails_of(name, depth)), key=_tail)
            self._tails = _Tails(files, names, depth)
        return self._tails

    def _files_below_top(self) -> Iterator[str]:
        for path in listed_files(self._split.top):
            if not any(path.is_relative_to(other) for other in self._split.others):
                yield path.relative_to(self._split.top).as_posix()


class _Tails(NamedTuple):
    """Every tail (see `_tails_of`) of files and of listed names, with its file or name, to find them by it.

    Attributes:
        files: The tails of files.
        names: The tails of names, no longer than those of files.
        depth: Most parts of a tail.
    """

    files: DiskList[tuple[str, str]]
    names: DiskList[tuple[str, str]]
    depth: int


def _tail(row: tuple[str, str]) -> str:
    return row[0]


def _tails_of(name: str, most: int | None = None) -> list[str]:
    """Return the ends of a name with at most `most` parts, longest first.

    >>> _tails_of("images/left/a.jpg", 2)
    ['left/a.jpg', 'a.jpg']
    """
    parts = PurePosixPath(name).parts
    longest = len(parts) if most is None else min(len(parts), most)
    return ["/".join(parts[-count:]) for count in range(longest, 0, -1)]


def _first(rows: DiskList[tuple[str, str]], tail: str, most: int) -> list[str]:
    """Return the first files or names with a tail; there may be as many as images."""
    return [rows[position][1] for position in islice(rows.positions(tail), most)]


def _spellings(file_name: str) -> Iterator[str]:
    """Yield a file name with `/` between folders; of a URL only the path; then without the escapes of URLs.

    Label Studio lists images on its disk as `/data/local-files/?d=folder/a.jpg`: then the part after `d=`.
    """
    name = file_name.replace("\\", "/")
    if _LOCAL_FILES in name:
        name = name.partition(_LOCAL_FILES)[2].partition("&")[0].lstrip("/")
        yield unquote(name).replace("\\", "/")
        return
    url = _URL.match(name)
    if url is not None:
        name = url["path"].lstrip("/")
    yield name
    if "%" in name:
        yield unquote(name)
