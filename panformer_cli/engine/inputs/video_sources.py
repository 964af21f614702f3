"""Videos to segment: where their frames are read from, and the names of their results."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Protocol

from panformer_cli.engine.inputs.archives import ZipImage
from panformer_cli.engine.inputs.input_image import MOST_VIDEO_BYTES
from panformer_cli.engine.inputs.names import distinct_names
from panformer_cli.engine.inputs.web import WebImage
from panformer_cli.engine.video.writing import FORMATS
from panformer_cli.storage.files import writing
from panformer_cli.storage.web import FetchLimits, fetch_into

_RESULT_SUFFIX = re.compile(rf"\.({'|'.join({form.suffix[1:] for form in FORMATS})}|json)$", re.IGNORECASE)
_LIMITS = FetchLimits(MOST_VIDEO_BYTES, total=3600.0)


class VideoSource(Protocol):
    """Where a video comes from. `str` returns its name in messages."""

    @property
    def identity(self) -> str:
        """A text that is equal for two sources if and only if they are the same video."""
        ...

    def opened(self, folder: Path) -> AbstractContextManager[Path | int]:
        """Return a context with the file that has the frames, or with the number of a camera.

        Args:
            folder: Where a copy can be written, which is deleted at the end.

        Raises:
            DataError: It cannot be copied; the message names the video.
        """
        ...


@dataclass(frozen=True)
class LocalVideo:
    """A video file on this computer."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def identity(self) -> str:
        return os.path.abspath(self.path)  # noqa: PTH100 (removes `..`, follows no links)

    def opened(self, folder: Path) -> AbstractContextManager[Path | int]:
        del folder
        return nullcontext(self.path)


@dataclass(frozen=True)
class CameraInput:
    """A camera by its number."""

    number: int

    def __str__(self) -> str:
        return f"camera {self.number}"

    @property
    def identity(self) -> str:
        return str(self)

    def opened(self, folder: Path) -> AbstractContextManager[Path | int]:
        del folder
        return nullcontext(self.number)


@dataclass(frozen=True)
class CopiedVideo:
    """A video in an archive or at an address, which is copied while it is read: decoders need a file.

    Attributes:
        source: Where it is.
        suffix: Suffix of the copy.
    """

    source: ZipImage | WebImage
    suffix: str

    def __str__(self) -> str:
        return str(self.source)

    @property
    def identity(self) -> str:
        return self.source.identity

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Path | int]:
        copy = folder / f"copy{self.suffix}"
        try:
            with writing(copy):
                file = copy.open("wb")
            with file:
                self._copy(file)
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def _copy(self, file: BufferedWriter) -> None:
        def write(piece: bytes) -> None:
            with writing(Path(file.name)):
                file.write(piece)

        if isinstance(self.source, WebImage):
            fetch_into(self.source.url, _LIMITS, write)
            return
        for piece in self.source.pieces():
            write(piece)


@dataclass(frozen=True)
class InputVideo:
    """A video to segment.

    Attributes:
        source: Where it is.
        name: Name of its results without suffix, a relative path that is different from those of other videos.
    """

    source: VideoSource
    name: str


def named_videos(found: Iterable[tuple[VideoSource, str]]) -> list[InputVideo]:
    """Return videos, given with their names relative to their inputs, with the names of their results."""
    sources = list(found)
    names = distinct_names(_result_name(name) for _, name in sources)
    return [
        InputVideo(source, Path(name).with_suffix("").as_posix())
        for (source, _), name in zip(sources, names, strict=True)
    ]


def _result_name(given: str) -> str:
    """Return the name of a video, with a suffix, for its results.

    The results of `a.mp4` can be `a.webm`, so that cannot be the folder of the frames of `a.webm.mp4`.
    """
    name = Path(given)
    return name.with_name(_RESULT_SUFFIX.sub(r"_\1", name.stem) + name.suffix).as_posix()
