"""Replaces a page and its images as a whole, so that a folder never has images of two pages.

The images of a page are listed in a file beside it. Only these are ever deleted or replaced: the text of a page may
mention files that the user owns.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from panformer_cli.errors import DataError, PanformerError
from panformer_cli.storage.files import name_inside, write_json, writing
from panformer_cli.storage.plain_json import parse as parse_json

PAGE = "index.html"
IMAGES = ".panformer_page.json"
"""The list of the page's images: relative paths with `/`."""
_GENERATOR = '<meta name="generator" content="panformer">'
_HEAD = 4000
"""Characters in which `_GENERATOR` is searched; the rest of a page can be large."""


@contextmanager
def replaced_page(out: Path) -> Iterator[Path]:
    """Yield a temporary folder for index.html and its images; at the end, they replace the earlier ones in `out`.

    Files that do not belong to the earlier page are kept. If the block fails, `out` is unchanged.

    Raises:
        PanformerError: `out` cannot be written, or has files of the same names that do not belong to a page of
            panformer: its index.html is checked before the block, the images after it.
    """
    check_page(out)
    temporary = out / f".{os.getpid()}.tmp"
    existed = out.exists()
    try:
        yield temporary
        with writing(out):
            _move(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not existed:
            with suppress(OSError):  # it is not empty
                out.rmdir()


def check_page(out: Path) -> None:
    """Raise a PanformerError if a page cannot be written to `out`: it is a file, or has a page of another program."""
    if os.path.lexists(out) and not out.is_dir():
        raise PanformerError(f"{out} is a file, and a page needs a folder; choose another folder, or rename the file")
    if os.path.lexists(out / PAGE) and not has_page(out):
        raise PanformerError(
            f"{out / PAGE} is not a page of panformer and would be replaced; choose another folder, or rename it"
        )


def discard_page(out: Path) -> None:
    """Delete the page in `out`, its images and the folders that become empty; all other files are kept."""
    images = _images_of_page(out)
    if not images and not has_page(out):
        return
    with writing(out):
        if has_page(out):
            (out / PAGE).unlink()
        for path in images.values():
            path.unlink(missing_ok=True)
        (out / IMAGES).unlink(missing_ok=True)
        folders = {folder for path in images.values() for folder in path.parents if folder.is_relative_to(out)}
        for folder in sorted({out, *folders}, reverse=True):  # inner folders first
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def has_page(out: Path) -> bool:
    """Return whether `out` has an index.html that panformer wrote."""
    try:
        with (out / PAGE).open(encoding="utf-8", errors="replace") as file:
            return _GENERATOR in file.read(_HEAD)
    except OSError:
        return False


def is_below_page(folder: Path) -> bool:
    """Return whether a folder, or one that contains it, has a page with images."""
    folder = folder.absolute()
    return any((out / IMAGES).is_file() for out in (folder, *folder.parents))


def is_image_of_page(path: Path) -> bool:
    """Return whether a file, an absolute path, belongs to a page in one of the folders that contain it."""
    return any(path in _known_images(out, stamp) for out in path.parents if (stamp := _stamp(out / IMAGES)))


@lru_cache(maxsize=64)
def _known_images(out: Path, _stamp: tuple[int, int]) -> frozenset[Path]:
    """Return the images of the page in `out`; its list is read again when its stamp has changed."""
    return frozenset(_images_of_page(out).values())


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return modification time and size of a file; None if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _move(temporary: Path, out: Path) -> None:
    new = sorted(path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file())
    images = [path.as_posix() for path in new if path != Path(PAGE)]
    earlier = _images_of_page(out)
    for name in images:
        if name not in earlier and os.path.lexists(out / name):
            raise PanformerError(
                f"{out / name} does not belong to the page in this folder and would be replaced; choose another "
                "folder, or delete it"
            )
    _write_list(out, {*earlier, *images})  # if the process is killed, the next call deletes the images of both pages
    (out / PAGE).unlink(missing_ok=True)
    for path in earlier.values():
        path.unlink(missing_ok=True)
    for path in sorted(new, key=lambda path: path == Path(PAGE)):  # the page last: it needs the images
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / path, out / path)
    _write_list(out, images)


def _write_list(out: Path, names: Iterable[str]) -> None:
    """Write the list of images; a page without images has none."""
    if listed := sorted(names):
        write_json(out / IMAGES, {"images": listed})
    else:
        (out / IMAGES).unlink(missing_ok=True)


def _images_of_page(out: Path) -> dict[str, Path]:
    """Return the images of the page in `out` by name; none if their list is missing or not usable."""
    try:
        content = parse_json((out / IMAGES).read_bytes())
    except (OSError, ValueError):
        return {}
    names = content.get("images") if isinstance(content, dict) else None
    images = {}
    for name in names if isinstance(names, list) else ():
        with suppress(DataError):  # a name that leads out of the folder
            if isinstance(name, str):
                images[name] = name_inside(out, name, str(out / IMAGES))
    return images
