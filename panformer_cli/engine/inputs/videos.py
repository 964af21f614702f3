"""Recognize videos by their names."""

from __future__ import annotations

from pathlib import PurePath

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts"})
_AMBIGUOUS = frozenset({".ts", ".mts"})
"""Suffixes of TypeScript, too: such a file is a video only if it is named."""


def is_video(given: str) -> bool:
    """Return whether an input is a video file by its name."""
    return PurePath(given).suffix.lower() in SUFFIXES


def is_searched_video(name: str) -> bool:
    """Return whether a file that is found in a folder, pattern or archive is a video by its name."""
    return PurePath(name).suffix.lower() in SUFFIXES - _AMBIGUOUS
