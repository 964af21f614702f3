"""Recognize folders in which `predict` or `evaluate` wrote results, whose images are never used as inputs."""

from __future__ import annotations

from pathlib import Path

PANOPTIC = "panoptic.json"
"""The file that is written at the end, from all images."""
LINES = ".parts"
"""Name of the result log's folder, inside the folder of results."""
IMAGE_FOLDERS = ("panoptic", "overlays")
"""The folders of panoptic PNGs and of overlays."""


def has_result_images(folder: Path) -> bool:
    """Return whether a folder is that of panoptic PNGs or overlays in a folder of results."""
    return folder.name in IMAGE_FOLDERS and ((folder.parent / PANOPTIC).is_file() or (folder.parent / LINES).is_dir())


def is_result(path: Path) -> bool:
    """Return whether a path is a folder of results as a whole, one of its folders of images, or its panoptic JSON."""
    if path.name == PANOPTIC:
        return (path.parent / IMAGE_FOLDERS[0]).is_dir()
    return has_result_images(path) or ((path / PANOPTIC).is_file() and (path / IMAGE_FOLDERS[0]).is_dir())


def is_result_folder(folder: Path) -> bool:
    """Return whether a folder is, or is in, the folder of panoptic PNGs or overlays of a folder of results."""
    folder = folder.absolute()
    return any(map(has_result_images, (folder, *folder.parents)))
