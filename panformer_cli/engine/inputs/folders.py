"""The files of folders and glob patterns, and why some of them are left out."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from panformer_cli.data.image_formats import HIDDEN, LINK, RESULT, SPECIAL, is_clutter, why_left_out
from panformer_cli.data.result_folders import IMAGE_FOLDERS, is_result_folder
from panformer_cli.pages.replacing import is_below_page, is_image_of_page
from panformer_cli.storage.files import resolve_links


class LocalImage(NamedTuple):
    """A file of a folder or pattern.

    Attributes:
        path: The file.
        name: Its name relative to the folder; for a pattern, without folders.
        problem: Why it is left out; "" for an image.
    """

    path: Path
    name: str
    problem: str


class Folders:
    """Finds the files of folders and patterns. Results of `predict`, and the files below `out`, are no inputs.

    Attributes:
        unreadable: Folders that cannot be read.
    """

    def __init__(self, out: Path) -> None:
        """Args: out: The folder of results, without symbolic links."""
        self.unreadable: list[Path] = []
        self._out = out
        self._folder = cache(resolve_links)  # a folder can have many files
        self._has_results, self._is_below_page = cache(is_result_folder), cache(is_below_page)

    def files_below(self, folder: Path) -> Iterator[LocalImage]:
        """Yield the files below a folder, sorted; only the names of the folders on the way are in memory."""
        for path, name, problem in self._walk(folder):
            is_hidden = any(part.startswith(".") for part in name.split("/"))
            yield from self._checked(folder, path, name, problem or (HIDDEN if is_hidden else self._result(path)))

    def matches(self, pattern: str) -> Iterator[LocalImage]:
        """Yield the files that match a pattern, sorted."""
        base = fixed_part(Path(pattern))
        for match in map(Path, sorted(glob.glob(pattern, recursive=True))):  # noqa: PTH207 (absolute patterns)
            if match.is_file() and not is_clutter(match.name):
                yield from self._checked(base, match, match.name, self._result(match))

    def _walk(self, folder: Path) -> Iterator[tuple[Path, str, str]]:
        """Yield path, relative name and problem of all files and links below a folder, in the order of their paths."""
        waiting = [self._listed(str(folder), "")]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
                continue
            path, name, is_folder, problem = entry
            if is_folder:
                waiting.append(self._listed(path, f"{name}/"))
            else:
                yield Path(path), name, problem

    def _listed(self, folder: str, prefix: str) -> Iterator[tuple[str, str, bool, str]]:
        """Yield path, relative name, whether it is a folder, and the problem of what is in a folder, sorted."""
        names: list[str] = []
        others: dict[str, tuple[bool, str]] = {}  # few of them, while a folder can have a million files
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not is_clutter(entry.name):
                        names.append(entry.name)
                        if (kind := _kind_of(entry)) != (False, ""):
                            others[entry.name] = kind
        except OSError:
            self.unreadable.append(Path(folder))
            return
        names.sort()
        for name in names:
            yield os.path.join(folder, name), f"{prefix}{name}", *others.get(name, (False, ""))  # noqa: PTH118 (a text)

    def _checked(self, base: Path, path: Path, name: str, problem: str) -> Iterator[LocalImage]:
        """Yield a file with its problem, unless it is in the folder of results."""
        results = [self._out]
        if self._folder(base).is_relative_to(self._out):
            results = [self._out / folder for folder in IMAGE_FOLDERS]
        if not any(self._is_in(folder, path, follow=not problem) for folder in results):
            yield LocalImage(path, name, problem or why_left_out(path))

    def _is_in(self, folder: Path, path: Path, follow: bool) -> bool:
        """Return whether a file, or what it links to, is in a folder; only possible images are followed."""
        if self._folder(path.parent).is_relative_to(folder):
            return True
        return follow and path.is_symlink() and resolve_links(path).is_relative_to(folder)

    def _result(self, path: Path) -> str:
        is_result = self._has_results(path.parent) or (
            self._is_below_page(path.parent) and is_image_of_page(path.absolute())
        )
        return RESULT if is_result else ""


def fixed_part(pattern: Path) -> Path:
    """Return the folder of a pattern, up to the first part with a wildcard."""
    return Path(*takewhile(lambda part: glob.escape(part) == part, pattern.parts))


def _kind_of(entry: os.DirEntry[str]) -> tuple[bool, str]:
    """Return whether an entry is a folder to search, and why it is left out if it is neither that nor a file."""
    if entry.is_dir(follow_symlinks=False):
        return True, ""
    if not entry.is_symlink():
        return False, "" if entry.is_file() else SPECIAL
    if os.path.isdir(entry.path):  # noqa: PTH112 (a text)
        return False, LINK
    return False, "" if os.path.isfile(entry.path) else SPECIAL  # noqa: PTH113 (a text)
