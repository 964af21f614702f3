"""The files of a predicted video: the JSON, one row at a time, and how all of them appear together."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_png import write_panoptic_png
from panformer_cli.data.coco.panoptic_writer import annotation_row
from panformer_cli.data.result_folders import VIDEO_FOLDER, VIDEO_START, described_video
from panformer_cli.data.structures import PanopticMap
from panformer_cli.engine.video.reading import Frame
from panformer_cli.engine.video.writing import FORMATS
from panformer_cli.errors import PanformerError
from panformer_cli.storage.files import name_inside, temporary_path, temporary_paths, writing

FOLDER = VIDEO_FOLDER
"""The folder in `OUT`."""
_ROWS = ("images", "annotations")
_TEMPORARY = re.compile(r"\.[0-9]+\.tmp$")
_PNG = re.compile(r"[0-9]{6,}\.png")


@dataclass(frozen=True)
class VideoPaths:
    """The results of one video, `OUT/videos/<name>.*`.

    Attributes:
        base: Their path without suffix.
    """

    base: Path

    @property
    def json(self) -> Path:
        return self._with(".json")

    @property
    def pngs(self) -> Path:
        return self.base

    def overlay(self, suffix: str) -> Path:
        return self._with(suffix)

    @property
    def files(self) -> list[Path]:
        """The files that this or another call may write, besides the PNGs."""
        return [self.json, *(self._with(suffix) for suffix in sorted({form.suffix for form in FORMATS}))]

    def _with(self, suffix: str) -> Path:
        return self.base.with_name(self.base.name + suffix)


class VideoJson:
    """Writes the rows of a video's JSON to temporary files, so that a long video needs no memory.

    Args:
        folder: An existing folder for the temporary files.
        categories: Category table of the segments.
        pngs: Folder for a panoptic PNG per frame; None to write none.
    """

    def __init__(self, folder: Path, categories: CategoryTable, pngs: Path | None) -> None:
        self._folder = folder
        self._categories = categories
        self._pngs = pngs
        self._files: dict[str, TextIO] = {}
        self.frames = 0

    def __enter__(self) -> VideoJson:
        self._files = {key: (self._folder / f"{key}.jsonl").open("w", encoding="utf-8") for key in _ROWS}
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, frame: Frame, panoptic: PanopticMap) -> None:
        """Add a frame, whose segment ids are track ids."""
        stem = f"{frame.number:06d}"
        height, width = panoptic.ids.shape
        seconds = round(frame.seconds, 6)
        image = {"id": frame.number, "file_name": f"{stem}.jpg", "height": height, "width": width, "seconds": seconds}
        annotation = annotation_row(frame.number, f"{stem}.png", panoptic, self._categories)
        for row in annotation["segments_info"]:
            row["track_id"] = row["id"]
        if self._pngs is None:
            del annotation["file_name"]
        else:
            write_panoptic_png(self._pngs / f"{stem}.png", panoptic.ids)
        with writing(self._folder):
            for key, row in zip(_ROWS, (image, annotation), strict=True):
                self._files[key].write(json.dumps(row) + "\n")
        self.frames += 1

    def finish(self, path: Path, video: dict[str, Any]) -> None:
        """Write the JSON with all rows, and delete the temporary files.

        Args:
            path: The JSON.
            video: Describes the video as a whole.

        Raises:
            WriteError: The disk is full.
        """
        parts = {key: self._folder / f"{key}.jsonl" for key in _ROWS}
        with writing(path), path.open("w", encoding="utf-8") as file:
            file.write(VIDEO_START + json.dumps(video))
            for key, part in parts.items():
                file.write(f', "{key}": [')
                with part.open(encoding="utf-8") as rows:
                    file.writelines(f"{',' if number else ''}\n{row.rstrip()}" for number, row in enumerate(rows))
                file.write("]")
            file.write(f', "categories": {json.dumps(self._categories.to_coco())}}}\n')
            file.flush()
            os.fsync(file.fileno())
        for part in parts.values():
            part.unlink()


def check_is_free(out: Path, paths: VideoPaths) -> None:
    """Raise a PanformerError if results would lead out of `out`, or replace what is no result of an earlier call."""
    for path in (paths.json, paths.pngs / "000000.png"):
        name_inside(out, path.relative_to(out).as_posix(), "the list of videos")
    earlier = _earlier(paths)
    for path in [*paths.files, *([] if earlier else _pngs_in_the_way(paths))]:
        if path not in earlier and os.path.lexists(path):
            raise PanformerError(
                f"{path} is not a result of panformer and would be replaced; choose another folder with --out, or "
                "move it"
            )


def _pngs_in_the_way(paths: VideoPaths) -> list[Path]:
    """Return the folder of PNGs if it has some, or is no folder. It can have the results of other videos."""
    if not paths.pngs.is_dir() or paths.pngs.is_symlink() or any(map(_is_png, paths.pngs.iterdir())):
        return [paths.pngs]
    return []


def _is_png(path: Path) -> bool:
    return _PNG.fullmatch(path.name) is not None


def remove_abandoned(paths: VideoPaths) -> None:
    """Delete what killed processes left behind; no process may be writing these results.

    A process that was killed while it moved the files, the JSON last, has moved some of them.
    """
    if not os.path.lexists(paths.json) and _earlier(paths):
        _remove(paths)
    for folder in temporary_paths(paths.base):
        if _TEMPORARY.search(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replaced_together(paths: VideoPaths) -> Iterator[Path]:
    """Yield a temporary folder for the results of a video; at the end, they replace those of an earlier call.

    Its files are moved beside each other, the JSON last. If the block fails, nothing changes.

    Raises:
        WriteError: The folder cannot be written.
    """
    temporary = temporary_path(paths.base)
    try:
        with writing(paths.base):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        yield temporary
        with writing(paths.base):
            _remove(paths)
            for path in sorted(temporary.rglob("*"), key=lambda path: path.name == paths.json.name):
                if path.is_file():
                    target = paths.base.parent / path.relative_to(temporary)
                    target.parent.mkdir(exist_ok=True)
                    os.replace(path, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # it has results
            paths.base.parent.rmdir()


def _remove(paths: VideoPaths) -> None:
    """Delete the results of an earlier call; other files in the folder of PNGs are kept."""
    for path in _earlier(paths):
        path.unlink(missing_ok=True)
    if paths.pngs.is_dir():
        for png in paths.pngs.iterdir():
            if _is_png(png):
                png.unlink()
        with suppress(OSError):  # it has other files
            paths.pngs.rmdir()


def _earlier(paths: VideoPaths) -> list[Path]:
    """Return the files of an earlier call besides the PNGs: the JSON, by its first key, and the video that it names.

    The JSON of a process that was killed can still be in its temporary folder.
    """
    own = (
        [paths.json]
        if os.path.lexists(paths.json)
        else [folder / paths.json.name for folder in temporary_paths(paths.base)]
    )
    names = {video.get("overlay") for path in own if (video := described_video(path)) is not None}
    return [path for path in paths.files if path.name in {paths.json.name, *names}] if names else []
