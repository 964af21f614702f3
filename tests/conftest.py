"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded numbers and real images that is kept beside the project."""
    folder = Path(os.environ.get("PANFORMER_SHARED", REPOSITORY / ".." / "shared")).resolve()
    if not folder.is_dir():
        pytest.skip(f"needs the recorded data: {folder} is missing (set PANFORMER_SHARED to its place)")
    return folder
