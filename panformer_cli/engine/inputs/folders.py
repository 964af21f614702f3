"""The files of folders and glob patterns, and why some of them are left out."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from panformer_cli.data.image_formats import HIDDEN, LINK, RESULT, SPECIAL, is_clutter, why_left_out
from panformer_cli.data.images import IMAGE_SUFFIXES
from panformer_cli.data.result_folders import IMAGE_FOLDERS, VIDEO_FOLDER, is_result_folder, is_result_video
from panformer_cli.engine.inputs.videos import is_searched_video
from panformer_cli.pages.replacing import is_below_page, is_image_of_page
from panformer_cli.storage.files import resolve_links


class LocalImage(NamedTuple):
    """A file of a folder or pattern.

    Attributes:
        path: The file. A text, since creating a path takes longer than everything else for a million files.
        name: Its name relative to the folder; for a pattern, without folders, or relative to that of the list.
        problem: Why it is left out; "" for an image or a video.
    """

    path: str
    name: str
    problem: str


class _Entry(NamedTuple):
    """What is in a folder: a folder to search, or a file with the reason why it is left out."""

    name: str
    is_folder: bool
    problem: str


class _Facts(NamedTuple):
    """What is true for all files of a folder.

    Attributes:
        is_skipped: They are in a folder of results of this call.
        has_results: They are results of an earlier call.
        is_below_page: They may be images of a page.
    """

    is_skipped: bool
    has_results: bool
    is_below_page: bool


class Folders:
    """Finds the files of folders and patterns. Results of `predict`, and the files below `out`, are no inputs.

    Attributes:
        unreadable: Folders that cannot be read.
    """

    def __init__(self, out: Path) -> None:
        """Args: out: The folder of results, without symbolic links."""
        self.unreadable: list[Path] = []
        self._out = out
        self._facts = cache(self._facts_of)  # a folder can have many files

    def files_below(self, folder: Path) -> Iterator[LocalImage]:
        """Yield the files below a folder, in the order of their paths."""
        results = self._results(folder)
        waiting = [(str(folder), "", self._entries(str(folder)))]
        while waiting:
            parent, prefix, entries = waiting[-1]
            if (entry := next(entries, None)) is None:
                waiting.pop()
                continue
            path, name = os.path.join(parent, entry.name), prefix + entry.name  # noqa: PTH118 (a text)
            if entry.is_folder:
                waiting.append((path, f"{name}/", self._entries(path)))
                continue
            is_hidden = name.startswith(".") or "/." in name
            yield from self._checked(results, parent, path, name, entry.problem or (HIDDEN if is_hidden else ""))

    def matches(self, pattern: str, folder: Path | None = None) -> Iterator[LocalImage]:
        """Yield the files that match a pattern, sorted, with names relative to a folder, that of a list, if any."""
        results = self._results(fixed_part(Path(pattern)))
        for match in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 (absolute patterns)
            parent, name = os.path.split(match)
            if os.path.isfile(match) and not is_clutter(name):  # noqa: PTH113 (a text)
                if folder is not None and Path(match).is_relative_to(folder):
                    name = Path(match).relative_to(folder).as_posix()
                yield from self._checked(results, parent, match, name, "")

    def _entries(self, folder: str) -> Iterator[_Entry]:
        """Yield what is in a folder, sorted; only the names are in memory."""
        names: list[str] = []
        others: dict[str, _Entry] = {}  # few of them, while a folder can have a million files
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not is_clutter(entry.name):
                        names.append(entry.name)
                        if entry.is_dir(follow_symlinks=False):
                            others[entry.name] = _Entry(entry.name, True, "")
                        elif problem := _problem_of(entry):
                            others[entry.name] = _Entry(entry.name, False, problem)
        except OSError:
            self.unreadable.append(Path(folder))
            return
        names.sort()
        for name in names:
            yield others.get(name) or _Entry(name, False, "")

    def _results(self, base: Path) -> tuple[Path, ...]:
        """Return the folders whose files are skipped in an input: `out` or, if the input is in it, those of images."""
        if resolve_links(base).is_relative_to(self._out):
            return tuple(self._out / folder for folder in (*IMAGE_FOLDERS, VIDEO_FOLDER))
        return (self._out,)

    def _checked(
        self, results: tuple[Path, ...], parent: str, path: str, name: str, problem: str
    ) -> Iterator[LocalImage]:
        """Yield a file of the folder `parent` with its problem, unless it is in a folder of results."""
        facts = self._facts(results, parent)
        if facts.is_skipped or (not problem and os.path.islink(path) and _is_in(Path(path), results)):  # noqa: PTH114
            return
        if not problem and (facts.has_results or (facts.is_below_page and is_image_of_page(Path(path).absolute()))):
            problem = RESULT
        if not problem and is_searched_video(name):
            yield LocalImage(path, name, RESULT if is_result_video(Path(path)) else "")
            return
        if not problem and os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES:  # noqa: PTH122 (a text)
            problem = why_left_out(Path(name))
        yield LocalImage(path, name, problem)

    def _facts_of(self, results: tuple[Path, ...], folder: str) -> _Facts:
        path = Path(folder)
        return _Facts(_is_in(path, results), is_result_folder(path), is_below_page(path))


def _is_in(path: Path, folders: Iterable[Path]) -> bool:
    """Return whether a file or folder, or what it links to, is in one of these folders."""
    real = resolve_links(path)
    return any(map(real.is_relative_to, folders))


def fixed_part(pattern: Path) -> Path:
    """Return the folder of a pattern, up to the first part with a wildcard."""
    return Path(*takewhile(lambda part: glob.escape(part) == part, pattern.parts))


def _problem_of(entry: os.DirEntry[str]) -> str:
    """Return why an entry that is no folder is left out; "" for a file, or a link to one."""
    if not entry.is_symlink():
        return "" if entry.is_file() else SPECIAL
    if os.path.isdir(entry.path):  # noqa: PTH112 (a text)
        return LINK
    return "" if os.path.isfile(entry.path) else SPECIAL  # noqa: PTH113 (a text)
