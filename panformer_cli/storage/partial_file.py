"""A partly downloaded file, kept so that a later process can resume the download."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from panformer_cli.storage.files import write_json, writing
from panformer_cli.storage.plain_json import parse as parse_json

KEPT = "free some space or fix the permissions, then try again; the part already downloaded is kept"
"""Advice for a download that cannot be written."""


@dataclass(frozen=True)
class Origin:
    """The remote file that the bytes belong to.

    Attributes:
        url: address of the file.
        size: bytes of the complete file; None if the server does not report it.
        version: its ETag or date of change, as for the header If-Range; None if the server reports neither.
    """

    url: str
    size: int | None
    version: str | None


class PartialFile:
    """The downloaded bytes in `<target>.partial`, and their `Origin` in `<target>.partial.json`."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.partial")
        self._note = target.with_name(f"{target.name}.partial.json")

    @property
    def size(self) -> int:
        """Bytes downloaded so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def origin(self) -> Origin | None:
        """The recorded origin; None if there is none that can be read."""
        try:
            return Origin(**parse_json(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def is_whole(self, url: str) -> bool:
        """Return whether all bytes of `url` are downloaded."""
        origin = self.origin
        return origin is not None and origin.url == url and origin.size == self.size

    def can_resume(self, url: str) -> bool:
        """Return whether the download of `url` can resume from these bytes."""
        return self.is_whole(url) or bool(self.range_headers(url))

    def range_headers(self, url: str) -> dict[str, str]:
        """Return headers that request the missing bytes, or everything if the file has changed; empty to start over."""
        origin = self.origin
        if not self.size or origin is None or origin.url != url or origin.version is None:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": origin.version}

    def start(self, origin: Origin) -> None:
        """Create an empty file; errors as `append`."""
        with writing(self.path, KEPT):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(b"")
        write_json(self._note, asdict(origin))

    def append(self, pieces: Iterable[bytes], advance: Callable[[int], None]) -> None:
        """Append bytes, unbuffered, so that everything received is kept if the process ends.

        Args:
            pieces: the bytes as they arrive.
            advance: called with the size of each piece after it is written.

        Raises:
            PanformerError: no disk space or no permission; the bytes already written are kept.
        """
        with writing(self.path, KEPT), self.path.open("ab", buffering=0) as file:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]
                advance(len(piece))

    def finish(self) -> None:
        """Flush the file to disk and rename it to the target; errors as `append`."""
        with writing(self.target, KEPT):
            with self.path.open("r+b") as file:
                os.fsync(file.fileno())
            os.replace(self.path, self.target)
            self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete the file and its origin."""
        for path in (self.path, self._note):
            path.unlink(missing_ok=True)
