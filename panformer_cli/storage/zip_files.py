"""Open zip files that nobody has checked."""

from __future__ import annotations

import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from panformer_cli.errors import DataError

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
"""The methods that every Python version supports. 3.14 adds Zstandard, which raises other errors."""

DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
)
"""What Python raises for a corrupt archive or entry."""


@contextmanager
def opened_zip(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Yield the opened archive; all errors of corrupt archives become a DataError, also while entries are read."""
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except DAMAGE as error:
        raise DataError(f"{archive} is corrupt or not a zip ({error}); download it again") from error
    except OSError as error:
        raise DataError(f"cannot read {archive}: {error.strerror or error}; expected a readable zip") from error


def is_link_or_device(entry: zipfile.ZipInfo) -> bool:
    """Return whether an entry is neither a file nor a folder."""
    return stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR)


def is_encrypted(entry: zipfile.ZipInfo) -> bool:
    """Return whether an entry needs a password."""
    return bool(entry.flag_bits & 1)
