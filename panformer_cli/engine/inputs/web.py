"""Images at http and https addresses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from panformer_cli.engine.inputs.input_image import MOST_BYTES
from panformer_cli.errors import DataError
from panformer_cli.storage.web import FetchLimits, checked_address, fetch

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://", re.ASCII)
_LONGEST = 100
"""Characters of a name that are kept: file systems allow 255 bytes."""
_LONGEST_PATH = 2000
"""Characters of the path in an address; file systems allow about 4000 bytes."""


@dataclass(frozen=True)
class WebImage:
    """An image at an address."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def path(self) -> Path:
        """A path of the host and the folders and file in the address."""
        parts = urlsplit(self.url)
        return Path(f"/{parts.netloc}{parts.path}")

    @property
    def identity(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the address that is not empty, without a query; a plain file name."""
        parts = urlsplit(self.url)
        last = next(filter(None, reversed(parts.path.split("/"))), parts.netloc)
        plain = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]', "_", unquote(last)).strip(". ") or parts.netloc
        stem, dot, suffix = plain.rpartition(".")
        return f"{stem[:_LONGEST]}{dot}{suffix[:_LONGEST]}" if stem else plain[:_LONGEST]

    def read_bytes(self) -> bytes:
        return fetch(self.url, FetchLimits(MOST_BYTES))


def is_address(given: str) -> bool:
    """Return whether an input is an address, such as `https://host/a.jpg`, and not a path."""
    return _ADDRESS.match(given) is not None


def web_image(given: str) -> WebImage:
    """Return the image at an address.

    Raises:
        DataError: As `storage.web.checked_address`, or its path is too long.
    """
    path = urlsplit(checked_address(given)).path
    if len(path) > _LONGEST_PATH:
        raise DataError(
            f"the address {given[:_LONGEST]}... has a path of {len(path)} characters, expected at most "
            f"{_LONGEST_PATH}; download the file first"
        )
    return WebImage(given)
