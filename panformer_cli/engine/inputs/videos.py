"""Recognize inputs that are videos."""

from __future__ import annotations

from pathlib import PurePath

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts"})


def is_video(given: str) -> bool:
    """Return whether an input is a video file by its name."""
    return PurePath(given).suffix.lower() in SUFFIXES
