"""Find the splits of a YOLO data set, and the text file of each image.

The splits are those of `data.yaml` (or darknet's `obj.data`). If none of their folders exists, they are folders with
usual names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from panformer_cli.data.images import IMAGE_SUFFIXES, read_bytes
from panformer_cli.errors import DataError
from panformer_cli.prepare.source import SPLIT_NAME, listed_files, visible
from panformer_cli.storage.files import name_inside
from panformer_cli.storage.plain_yaml import parse
from panformer_cli.storage.text_files import decode_text
from panformer_cli.wording import listing, short, truncated

LAYOUTS = (
    "images/<split>/ with labels/<split>/, <split>/images/ with <split>/labels/, images/ with labels/, or the folders "
    "of data.yaml"
)
"""The layouts, as errors describe them."""

CONFIGS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
"""Usual names of the file with classes and folders; another YAML file is used if it is the only one with `names`."""

DARKNET = "obj.data"
"""Darknet's file with the paths of the lists of images and of the class names."""

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Keys of the YAML file or of `obj.data` that name images, and the split that each stands for."""

CLASS_FILES = frozenset({"classes.txt", "obj.names"})
"""Files with one class name per line."""


@dataclass(frozen=True)
class YoloSplit:
    """A split of a data set.

    Attributes:
        name: Its name in the result.
        sources: Folders of images, which are searched recursively, text files that list images, and images.
        encoding: Encoding of such text files that are not UTF-8.
    """

    name: str
    sources: tuple[Path, ...]
    encoding: str | None = None


class LabeledFile(NamedTuple):
    """An image, its name in the result, and the path of its text file, which may not exist."""

    path: Path
    name: str
    labels: Path


class YoloLayout(NamedTuple):
    """The splits of a data set by name, and sentences about what is not used."""

    splits: dict[str, YoloSplit]
    notes: tuple[str, ...] = ()


def find_config(root: Path, encoding: str | None = None) -> Path | None:
    """Return the file in `root` that names classes and folders; None if there is none.

    Raises:
        DataError: Several YAML files have `names`, and none has a usual name.
    """
    usual = next((root / name for name in (*CONFIGS, DARKNET) if (root / name).is_file()), None)
    if usual is not None:
        return usual
    found = [path for path in _yamls(root) if _has_names(path, encoding)]
    if len(found) > 1:
        raise DataError(
            f"{root} has several YAML files with class names: {listing(path.name for path in found)}; pass the data "
            "set's own with --classes FILE"
        )
    return found[0] if found else None


def unreadable_yamls(root: Path, encoding: str | None) -> list[str]:
    """Return what is wrong with each YAML file in `root` that cannot be read; `find_config` passes over them."""
    problems = []
    for path in _yamls(root):
        try:
            read_config(path, encoding)
        except DataError as error:
            problems.append(str(error))
    return problems


def _yamls(root: Path) -> list[Path]:
    return [path for path in visible(root) if path.suffix in (".yaml", ".yml")]


def _has_names(path: Path, encoding: str | None) -> bool:
    try:
        content = read_config(path, encoding)
    except DataError:
        return False
    return isinstance(content.get("names"), list | dict)


def read_config(path: Path, encoding: str | None = None) -> Mapping[str, Any]:
    """Return the keys of a YAML file or of `obj.data`; empty if it has none.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        text = decode_text(read_bytes(path, "YOLO configuration"), path, encoding)
        if path.name == DARKNET:
            pairs = (line.split("#")[0].partition("=") for line in text.splitlines())
            return {key.strip(): value.strip() for key, _, value in pairs if value.strip()}
        content = parse(text)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not plain YAML: {error}; correct it") from error
    return content if isinstance(content, dict) else {}


def find_layout(root: Path, config: Path | None, encoding: str | None = None) -> YoloLayout:
    """Return the splits of a data set: those of `config` if it names any that exist, else folders with usual names.

    Args:
        root: The folder of the data set.
        config: A YAML file or `obj.data`.
        encoding: Its encoding if it is not UTF-8.

    Raises:
        DataError: The configuration names images, but neither these nor usual folders exist, or a folder contains both
            images and folders of splits.
    """
    content = read_config(config, encoding) if config is not None and config.suffix.lower() != ".csv" else {}
    named = {key: _entries(content[key], key, config) for key in _SPLITS if content.get(key)}
    bases = _bases(root, config, content.get("path"))
    found = {key: [_existing(entry, bases) for entry in entries] for key, entries in named.items()}
    missing = [
        f"{key}: {truncated(entry)}"
        for key in named
        for entry, path in zip(named[key], found[key], strict=True)
        if path is None
    ]
    problem = f"{config} names {listing(missing)}, which is not in {listing(dict.fromkeys(bases), separator=' or ')}"
    if any(None in paths and any(paths) for paths in found.values()):
        raise DataError(f"{problem}; expected all parts of a split; correct its paths, or move the folders there")
    splits = [
        (key, named[key], tuple(dict.fromkeys(path for path in found[key] if path))) for key in named if any(found[key])
    ]
    if splits:
        layout = _named_layout(splits, encoding)
        notes = [f"{config} names {listing(missing)}, which does not exist"] if missing else []
        return YoloLayout(layout.splits, (*notes, *layout.notes))
    usual = {split.name: split for split in _usual_splits(root)}
    if missing and not usual:
        raise DataError(f"{problem}; correct its paths, or move the folders there")
    return YoloLayout(usual, (f"{problem}; the images in {root} are used instead",) if missing else ())


def _entries(value: Any, key: str, config: Path | None) -> list[str]:
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) and entry.strip() for entry in entries):
        raise DataError(f"{config}: {key} is {short(value)}; expected a folder, a text file, or a list of these")
    return list(dict.fromkeys(entry.strip().replace("\\", "/") for entry in entries))


def _bases(root: Path, config: Path | None, path: Any) -> list[Path]:
    """Return the folders that entries may be relative to, in order of preference.

    `path` may be that of another computer, so the folder of the configuration file is also tried.
    """
    home = config.parent if config is not None else root
    bases = [home, root]
    if isinstance(path, str) and path.strip():
        bases.insert(0, home / path.strip().replace("\\", "/"))
    return [Path(os.path.normpath(base)) for base in bases]


def _existing(entry: str, bases: Sequence[Path]) -> Path | None:
    """Return the path of a folder or file.

    Like Ultralytics, tries `../train/images` of Roboflow's exports without `..`. CVAT writes `data/` in front.
    """
    names = [entry, *(entry.removeprefix(prefix) for prefix in ("../", "data/") if entry.startswith(prefix))]
    paths = (Path(os.path.normpath(base / name)) for name in names for base in bases)
    return next((path for path in paths if exists(path)), None)


def exists(path: Path) -> bool:
    """Return whether a file or folder exists; False if none can have this name."""
    try:
        return path.exists()
    except OSError:  # the name is too long
        return False


def _named_layout(splits: Sequence[tuple[str, Sequence[str], tuple[Path, ...]]], encoding: str | None) -> YoloLayout:
    """Return the splits of the configuration: keys, entries and existing paths."""
    by_sources: dict[tuple[Path, ...], tuple[str, str]] = {}  # key and name
    notes = []
    for key, entries, sources in splits:
        if sources in by_sources:
            first = by_sources[sources][0]
            notes.append(f"{key} has the same images as {first} and is converted once, as {by_sources[sources][1]}")
        else:
            by_sources[sources] = (key, _folder_name(entries) or _SPLITS[key])
    names = [name for _, name in by_sources.values()]
    if len(set(names)) < len(names):
        names = [key for key, _ in by_sources.values()]
    named = zip(names, by_sources, strict=True)
    return YoloLayout({name: YoloSplit(name, sources, encoding) for name, sources in named}, tuple(notes))


def _folder_name(entries: Sequence[str]) -> str | None:
    """Return <split> of a single folder `images/<split>` or `<split>/images`."""
    parts = [part for part in PurePosixPath(entries[0]).parts if part not in ("..", ".")]
    if len(entries) > 1 or len(parts) < 2 or parts[-1].endswith(".txt") or "images" not in parts[-2:]:
        return None
    return parts[-2] if parts[-1] == "images" else parts[-1]


def _usual_splits(root: Path) -> Iterator[YoloSplit]:
    """Yield the splits of a data set without a usable configuration; their labels may be missing."""
    inner, outer = _folders(root / "images"), _folders(root)
    found = [(path.name, path) for path in inner]
    found += [(path.name, path / "images") for path in outer if (path / "images").is_dir()]
    direct = next(_images_in(root / "images"), None)
    if inner and direct is not None:
        raise DataError(
            f"{root / 'images'} contains both images, such as {direct.name}, and folders, such as {inner[0].name}; "
            "expected one folder per split, or the images of a single split; move the images, or name the folders in "
            "data.yaml"
        )
    if not found and direct is not None:
        found = [("train", root / "images")]
    if not found:  # the text files are next to the images
        found = [(path.name, path) for path in outer if _is_labeled_split(path)]
    if not found and _has_labeled_image(root):
        found = [("train", root)]
    folders: dict[str, Path] = {}
    for name, path in found:
        if folders.setdefault(name, path) != path:
            raise DataError(
                f"{root} has two folders of the split {name}, {folders[name]} and {path}; expected one; move the "
                "images and their labels into one of them, or name the folders in data.yaml"
            )
        yield YoloSplit(name, (path,))


def _folders(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_dir()]


def _images_in(folder: Path) -> Iterator[Path]:
    """Yield the images directly in the folder."""
    return (path for path in visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir())


def _is_labeled_split(folder: Path) -> bool:
    return SPLIT_NAME.fullmatch(folder.name) is not None and _has_labeled_image(folder)


def _has_labeled_image(folder: Path) -> bool:
    return any(path.with_suffix(".txt").is_file() for path in _images_in(folder))


def label_folder(folder: Path, root: Path) -> Path:
    """Return the folder of the text files of a folder of images: `images`, the last one in its path, is `labels`.

    Without `images` in the path, the text files are next to the images. Both are Ultralytics' rules.
    """
    base = root if folder.is_relative_to(root) else Path(folder.anchor)
    parts = list(folder.relative_to(base).parts)
    if "images" not in parts:
        return folder
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return base.joinpath(*parts)


def image_folders(split: YoloSplit, root: Path) -> set[Path]:
    """Return the folders of images of a split; a list of images can name any. Raises as `files_of`."""
    folders = {source for source in split.sources if source.is_dir()}
    lists = (source for source in split.sources if source not in folders)
    return folders | {path.parent for source in lists for path in _listed(source, split, root)}


def files_of(split: YoloSplit, root: Path) -> Iterator[LabeledFile]:
    """Yield the images of a split, with names relative to the folder that contains all of them.

    Raises:
        DataError: A folder or a list cannot be read, or a name leads out of its folder.
    """
    folders = image_folders(split, root)
    if not folders:
        return
    common = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    for source in split.sources:
        if source.is_dir():
            yield from _files_in(source, common, root)
        else:
            yield from (_file(path, path.parent, common, root) for path in _listed(source, split, root))


def _files_in(folder: Path, common: Path, root: Path) -> Iterator[LabeledFile]:
    return (_file(path, folder, common, root) for path in listed_files(folder))


def _file(path: Path, folder: Path, common: Path, root: Path) -> LabeledFile:
    """Return an image in `folder`; its text file stays in the folder that belongs to it."""
    inner = path.relative_to(folder)
    home = label_folder(folder, root)
    if "images" in inner.parts[:-1]:
        home, inner = folder, label_folder(path.parent, folder).relative_to(folder) / path.name
    labels = name_inside(home, inner.with_suffix(".txt").as_posix(), str(home))
    name = path.absolute().relative_to(common.absolute())
    return LabeledFile(path, name.as_posix(), labels)


def _listed(path: Path, split: YoloSplit, root: Path) -> Iterator[Path]:
    """Yield the images that a text file lists, one per line, or the file itself if it is an image.

    A path is absolute, or relative to the text file, or to `root`, also behind `data/`, which darknet and CVAT write.
    An absolute path of another computer stands for the file that has most of its last folders in common with it.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES:
        yield path
        return
    lines = decode_text(read_bytes(path, "list of images"), path, split.encoding).splitlines()
    bases = [path.parent, root]
    for line in map(str.strip, lines):
        if line:
            name = line.replace("\\", "/")
            yield _existing(name, bases) or _moved(name, bases)


def _moved(name: str, bases: Sequence[Path]) -> Path:
    """Return the path of a listed image that does not exist under its own path; it may be missing altogether."""
    windows = PureWindowsPath(name)
    parts = windows.parts[1:] if windows.drive or windows.root else ()
    tails = (_existing("/".join(parts[start:]), bases) for start in range(len(parts)))
    missing = Path(os.path.normpath(bases[0] / (windows.name if windows.drive else name)))
    return next((path for path in tails if path is not None), missing)


def unused_labels(split: YoloSplit, root: Path) -> Iterator[Path]:
    """Yield the text files in the label folders of a split; lists of images select some of them, so they yield none."""
    for source in split.sources:
        folder = label_folder(source, root) if source.is_dir() else None
        if folder is None or not folder.is_dir():
            continue
        for path in listed_files(folder, frozenset({".txt"})):
            if path.name not in CLASS_FILES and _starts_with_number(path):
                yield path


def _starts_with_number(path: Path) -> bool:
    """Return whether a text file could be labels, in contrast to a list of images or a readme."""
    try:
        with path.open("rb") as file:
            return re.match(rb"\s*[0-9]", file.read(100)) is not None
    except OSError:  # reported when it is read
        return True
