"""Recognize what `predict` or `evaluate` wrote: images and videos that are never used as inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PANOPTIC = "panoptic.json"
"""The file that is written at the end, from all images."""
LINES = ".parts"
"""Name of the result log's folder, inside the folder of results."""
IMAGE_FOLDERS = ("panoptic", "overlays")
"""The folders of panoptic PNGs and of overlays."""
VIDEO_FOLDER = "videos"
VIDEO_START = '{"video": '
"""How the JSON of a video begins; the first line has the whole object."""
_HEAD = 10_000
"""Maximum number of characters of it that are read."""
FILES = ".panformer_outputs.jsonl"
"""The list of all files of a prediction with other outputs than these two and the JSON (`engine.outputs.file_list`)."""


def described_video(path: Path) -> dict[str, Any] | None:
    """Return the object `video` in the JSON of a predicted video; None for other JSONs."""
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline(_HEAD)
        video, _ = json.JSONDecoder().raw_decode(first.removeprefix(VIDEO_START))
    except (OSError, ValueError):
        return None
    return video if first.startswith(VIDEO_START) and isinstance(video, dict) and "tracks" in video else None


def is_result_video(path: Path) -> bool:
    """Return whether a video is a result: it is beside the JSON that describes it."""
    video = described_video(path.with_suffix(".json"))
    return video is not None and video.get("overlay") == path.name


def output_folders(out: Path) -> list[str] | None:
    """Return the names of the folders in the header of `FILES`; None if there is no such list."""
    try:
        with (out / FILES).open("rb") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    folders = header.get("folders") if isinstance(header, dict) else None
    return folders if isinstance(folders, list) and all(isinstance(name, str) for name in folders) else None


def has_result_images(folder: Path) -> bool:
    """Return whether a folder is one of the folders of images in a folder of results."""
    out = folder.parent
    if folder.name in IMAGE_FOLDERS and ((out / PANOPTIC).is_file() or (out / LINES).is_dir()):
        return True
    return folder.name in (output_folders(out) or ())


def is_result(path: Path) -> bool:
    """Return whether a path is a folder of results as a whole, one of its folders of images, or its panoptic JSON."""
    if path.name == PANOPTIC:
        return (path.parent / IMAGE_FOLDERS[0]).is_dir()
    is_whole = ((path / PANOPTIC).is_file() and (path / IMAGE_FOLDERS[0]).is_dir()) or output_folders(path) is not None
    return is_whole or has_result_images(path)


def is_result_folder(folder: Path) -> bool:
    """Return whether a folder is, or is in, one of the folders of images in a folder of results."""
    folder = folder.absolute()
    return any(map(has_result_images, (folder, *folder.parents)))
