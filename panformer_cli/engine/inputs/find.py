"""The images that `predict` segments: which files of the inputs, and their ids and names in the results."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path

from panformer_cli.data.image_formats import HIDDEN, LINK, RESULT, SPECIAL, counted_reason, is_clutter, why_left_out
from panformer_cli.data.images import IMAGE_SUFFIXES
from panformer_cli.data.result_folders import IMAGE_FOLDERS, is_result_folder
from panformer_cli.engine.inputs.ids import ids_of
from panformer_cli.engine.inputs.input_image import InputImage, LocalFile
from panformer_cli.engine.outputs.names import usable_name
from panformer_cli.errors import DataError
from panformer_cli.pages.replacing import is_below_page, is_image_of_page
from panformer_cli.storage.files import resolve_links
from panformer_cli.wording import counted, listing


@dataclass(frozen=True)
class InputImages:
    """The images of all inputs.

    Attributes:
        images: In the order of the inputs; folders and patterns are sorted.
        notes: One line each: which files were left out, and which data set the ids are from.
    """

    images: list[InputImage]
    notes: list[str] = field(default_factory=list)


def find_images(inputs: Sequence[str], out: Path, ids_from: Path | None = None) -> InputImages:
    """Return the images of all inputs.

    Args:
        inputs: Image files, folders, which are searched recursively, and glob patterns.
        out: Folder of the results. Images in it are skipped, unless they are given by name. If it contains an input,
            only those in its folders of results are skipped.
        ids_from: JSON with `images`, rows of id and file_name; None for the ids that `ids.ids_of` chooses.

    Raises:
        DataError: An input does not exist or has no images, or `ids_from` is corrupt or does not list an image.
    """
    finder = _Finder(resolve_links(out))
    for given in inputs:
        finder.add(given)
    paths = [path for path, _ in finder.found.values()]
    if not paths:
        raise DataError(
            f"{listing(inputs)}: no images, only files of the operating system; give image files or folders"
        )
    own_names = [name for _, name in finder.found.values()]
    names = _distinct([Path(name) for name in own_names])
    counts = Counter(own_names)
    file_names = [
        name if counts[own] > 1 or re.search(r"[:\\]", own) else own for name, own in zip(names, own_names, strict=True)
    ]
    ids, note = ids_of(paths, ids_from)
    images = zip(map(LocalFile, paths), ids, names, file_names, strict=True)
    return InputImages([InputImage(*values) for values in images], [*finder.notes(), *([note] if note else [])])


class _Finder:
    """Collects the image files of the inputs.

    Attributes:
        found: Path and name in the results, by absolute path: a file can be in several inputs.
        left_out: Number of other files by the reason why they are left out.
        unreadable: Folders that cannot be read.
    """

    def __init__(self, out: Path) -> None:
        self.found: dict[str, tuple[Path, str]] = {}
        self.left_out: Counter[str] = Counter()
        self.unreadable: list[Path] = []
        self._out = out
        self._folder = cache(resolve_links)  # a folder can have many files
        self._has_results, self._is_below_page = cache(is_result_folder), cache(is_below_page)

    def add(self, given: str) -> None:
        """Add the image files of one input."""
        path = Path(given)
        if path.is_dir():
            if not self._add_all(path, self._files_below(path)):
                suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
                raise DataError(
                    f"the folder {path} has no images{self._only()}; expected files with the suffixes {suffixes}"
                )
        elif path.is_file():
            if not is_clutter(path.name):  # from a pattern that the shell expanded
                self._keep(path, path.name)
        elif not self._add_all(_fixed_part(path), self._matches(given)):
            raise DataError(
                f"no such image, folder or pattern: {given}{self._only()}; give image files, folders or patterns "
                "such as 'photos/*.jpg'"
            )

    def notes(self) -> list[str]:
        """Return which files are left out, and which folders cannot be read; one line each."""
        total = self.left_out.total()
        notes = [f"{counted(total, 'file')} left out: {self._reasons()}"] if total else []
        return [*notes, self._unreadable_folders()] if self.unreadable else notes

    def _reasons(self) -> str:
        """Return why files are left out, the most frequent reason first."""
        ranked = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(counted_reason(count, reason) for reason, count in ranked)

    def _unreadable_folders(self) -> str:
        return f"{counted(len(self.unreadable), 'folder')} cannot be read: {listing(self.unreadable, 3)}"

    def _only(self) -> str:
        parts = [f"left out: {self._reasons()}"] if self.left_out else []
        parts += [self._unreadable_folders()] if self.unreadable else []
        return f" ({'; '.join(parts)})" if parts else ""

    def _add_all(self, base: Path, files: Iterable[tuple[Path, str, str]]) -> bool:
        """Add the files of an input; return whether any is an image.

        Args:
            base: Folder of the input.
            files: Path, name in the results, and the reason why it is left out, "" for a possible image.
        """
        results = [self._out]
        if resolve_links(base).is_relative_to(self._out):
            results = [self._out / name for name in IMAGE_FOLDERS]
        any_image = False
        for path, name, problem in files:
            if any(self._is_in(folder, path, follow=not problem) for folder in results):
                continue
            if reason := problem or why_left_out(path):
                self.left_out[reason] += 1
                continue
            self._keep(path, name)
            any_image = True
        return any_image

    def _keep(self, path: Path, name: str) -> None:
        self.found.setdefault(os.path.abspath(path), (path, name))  # noqa: PTH100 (removes `..`, follows no links)

    def _is_in(self, folder: Path, path: Path, follow: bool) -> bool:
        """Return whether a file, or what it links to, is in a folder; only possible images are followed."""
        if self._folder(path.parent).is_relative_to(folder):
            return True
        return follow and path.is_symlink() and resolve_links(path).is_relative_to(folder)

    def _matches(self, pattern: str) -> Iterator[tuple[Path, str, str]]:
        """Yield the files that match a pattern, sorted, as `_add_all` expects them."""
        for match in map(Path, sorted(glob.glob(pattern, recursive=True))):  # noqa: PTH207 (absolute patterns)
            if match.is_file() and not is_clutter(match.name):
                yield match, match.name, self._result(match)

    def _files_below(self, folder: Path) -> Iterator[tuple[Path, str, str]]:
        """Yield the files below a folder, sorted, as `_add_all` expects them."""
        found = []
        for base, folders, files in os.walk(folder, onerror=self._note_unreadable):
            folders[:] = [name for name in folders if not is_clutter(name)]
            found += [(Path(base, name), LINK) for name in folders if Path(base, name).is_symlink()]
            found += [(Path(base, name), "") for name in files if not is_clutter(name)]
        for path, problem in sorted(found):
            name = path.relative_to(folder)
            if problem or not path.is_file():
                yield path, name.as_posix(), problem or SPECIAL
            else:
                is_hidden = any(part.startswith(".") for part in name.parts)
                yield path, name.as_posix(), HIDDEN if is_hidden else self._result(path)

    def _note_unreadable(self, error: OSError) -> None:
        self.unreadable.append(Path(error.filename))

    def _result(self, path: Path) -> str:
        is_result = self._has_results(path.parent) or (
            self._is_below_page(path.parent) and is_image_of_page(path.absolute())
        )
        return RESULT if is_result else ""


def _fixed_part(pattern: Path) -> Path:
    """Return the folder of a pattern, up to the first part with a wildcard."""
    return Path(*takewhile(lambda part: glob.escape(part) == part, pattern.parts))


def _distinct(names: list[Path]) -> list[str]:
    """Return the names for the results, with a number where two would give the same result file."""
    taken: set[str] = set()
    last: Counter[str] = Counter()  # the last number of each name: the numbers below it are taken
    distinct = []
    for name in map(usable_name, names):
        candidate, key = name, _result_key(name)
        number = max(last[key], 1)
        while _result_key(candidate) in taken:
            number += 1
            candidate = name.with_stem(f"{name.stem}_{number}")
        last[key] = number
        taken.add(_result_key(candidate))
        distinct.append(candidate.as_posix())
    return distinct


def _result_key(name: Path) -> str:
    """Return what two names share if their results would be the same file, also where capitals do not count."""
    return name.with_suffix("").as_posix().lower()
