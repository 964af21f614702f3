"""Which inputs of `predict` are videos: files by their suffix, patterns of such files, and cameras by their number."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from panformer_cli.engine.inputs.names import distinct_names
from panformer_cli.engine.inputs.videos import is_video
from panformer_cli.engine.inputs.web import is_address
from panformer_cli.engine.video.writing import FORMATS
from panformer_cli.errors import DataError
from panformer_cli.storage.files import check_can_exist

_RESULT_SUFFIX = re.compile(rf"\.({'|'.join({form.suffix[1:] for form in FORMATS})}|json)$", re.IGNORECASE)


@dataclass(frozen=True)
class InputVideo:
    """A video to segment.

    Attributes:
        source: Path of a file, or number of a camera.
        name: Name of its results without suffix, different from that of other videos.
    """

    source: Path | int
    name: str


def split_inputs(inputs: Sequence[str]) -> tuple[list[InputVideo], list[str]]:
    """Return the videos among the inputs, and the other inputs.

    Args:
        inputs: As the user gives them. A number is a camera, unless it is a file or folder. Videos in folders, archives
            and lists are not searched.

    Raises:
        DataError: A pattern of videos matches no file.
    """
    sources: dict[str, Path | int] = {}
    others = []
    for given in inputs:
        found = _sources(given)
        sources |= {str(source): source for source in found}
        if not found:
            others.append(given)
    names = distinct_names(map(_name, sources.values()))
    videos = [
        InputVideo(source, str(Path(name).with_suffix("")))
        for source, name in zip(sources.values(), names, strict=True)
    ]
    return videos, others


def _name(source: Path | int) -> str:
    """Return the name of a video, with a suffix, for its results.

    The results of `a.mp4` can be `a.webm`, so that cannot be the folder of the frames of `a.webm.mp4`.
    """
    return f"camera_{source}" if isinstance(source, int) else _RESULT_SUFFIX.sub(r"_\1", source.stem) + source.suffix


def _sources(given: str) -> list[Path | int]:
    """Return the videos that an input stands for; none if it stands for images."""
    if is_address(given):
        return []
    check_can_exist(given)
    path = Path(given)
    if given.isascii() and given.isdecimal() and not path.exists():
        return [int(given)]
    if not is_video(given) or path.is_dir():
        return []
    if path.exists() or glob.escape(given) == given:
        return [path]  # one that is missing is reported when it is opened
    matches = [Path(match) for match in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207 (absolute patterns)
    if not matches:
        raise DataError(f"no video matches {given}; give video files or patterns such as 'clips/*.mp4'")
    return list(matches)
