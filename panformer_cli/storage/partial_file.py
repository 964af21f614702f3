"""What has arrived of a file that is on its way, kept so that a later process can go on with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from panformer_cli.storage.files import write_json, writing
from panformer_cli.storage.plain_json import parse as parse_json

KEPT = "free some space or fix the permissions, and try again: what has arrived is kept"
"""What to do when a download cannot be written."""


@dataclass(frozen=True)
class Origin:
    """Which file the bytes are of.

    size: bytes of the whole file; None where the server does not say.
    version: its ETag or date of change, as the header If-Range wants it; None where the server gives neither.
    """

    url: str
    size: int | None
    version: str | None


class PartialFile:
    """`<target>.partial` with the bytes that have arrived, and `<target>.partial.json` with their `Origin`."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.partial")
        self._note = target.with_name(f"{target.name}.partial.json")

    @property
    def size(self) -> int:
        """Bytes that are here."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def origin(self) -> Origin | None:
        """None where nothing is noted that can be read."""
        try:
            return Origin(**parse_json(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def is_whole(self, url: str) -> bool:
        """Whether all bytes of `url` are here."""
        origin = self.origin
        return origin is not None and origin.url == url and origin.size == self.size

    def can_go_on(self, url: str) -> bool:
        """Whether what is here spares a part of `url`."""
        return self.is_whole(url) or bool(self.range_headers(url))

    def range_headers(self, url: str) -> dict[str, str]:
        """Ask for the rest, or, if the server has another version by now, for all; empty where all is to be asked."""
        origin = self.origin
        if not self.size or origin is None or origin.url != url or origin.version is None:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": origin.version}

    def begin(self, origin: Origin) -> None:
        """Make it empty; errors as `append`."""
        with writing(self.path, KEPT):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(b"")
        write_json(self._note, asdict(origin))

    def append(self, pieces: Iterable[bytes], advance: Callable[[int], None]) -> None:
        """Add what comes, unbuffered, so that nothing is lost whatever happens next.

        advance: is told the bytes of each piece once they are written.

        Raises:
            PanformerError: no room or no permission; what was written is kept.
        """
        with writing(self.path, KEPT), self.path.open("ab", buffering=0) as file:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]
                advance(len(piece))

    def finish(self) -> None:
        """Flush it to the disk and rename it to the target; errors as `append`."""
        with writing(self.target, KEPT):
            with self.path.open("r+b") as file:
                os.fsync(file.fileno())
            os.replace(self.path, self.target)
            self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete it."""
        for path in (self.path, self._note):
            path.unlink(missing_ok=True)
