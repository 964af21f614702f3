"""Replaces a page and its images as a whole, so that a folder never has images of two pages."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote_to_bytes

from panformer_cli.errors import DataError
from panformer_cli.storage.files import name_inside, writing

PAGE = "index.html"
_GENERATOR = '<meta name="generator" content="panformer">'
_IMAGE = re.compile(r'"((?:overlays|images)/[^"]+)"')


@contextmanager
def replaced_page(out: Path) -> Iterator[Path]:
    """Yield a temporary folder for index.html and its images; at the end, they replace the earlier ones in `out`.

    Files that the earlier page does not show are kept. If the block fails, `out` is unchanged.

    Raises:
        PanformerError: `out` cannot be written.
    """
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


def _move(temporary: Path, out: Path) -> None:
    new = sorted(path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file())
    earlier = list(_images_of_page(out))
    (out / PAGE).unlink(missing_ok=True)
    for path in earlier:
        path.unlink(missing_ok=True)
    for path in sorted(new, key=lambda path: path == Path(PAGE)):  # the page last: it needs the images
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / path, out / path)


def _images_of_page(out: Path) -> Iterator[Path]:
    """Yield the images that an earlier page in `out` shows; none if panformer did not write it."""
    try:
        text = (out / PAGE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for name in dict.fromkeys(_IMAGE.findall(text)) if _GENERATOR in text else ():
        with suppress(DataError):
            yield name_inside(out, os.fsdecode(unquote_to_bytes(name)), str(out / PAGE))
