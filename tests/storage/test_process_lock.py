"""A lock is held until its context ends, whatever else this process tries with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from panformer_cli.storage.process_lock import LockHeldError, process_lock
from tests.conftest import REPOSITORY

TRY = """
import sys
from pathlib import Path
from panformer_cli.storage.process_lock import LockHeldError, process_lock
try:
    with process_lock(Path(sys.argv[1])):
        print("free")
except LockHeldError as error:
    print(error)
"""


def as_another_process(path: Path) -> str:
    """Return what another process finds: the text of the lock, or `free`."""
    command = [sys.executable, "-c", TRY, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege")
def test_a_second_attempt_of_the_same_process_does_not_release_the_lock(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    path = tmp_path / "folder" / "lock"
    with process_lock(path) as locked:
        if not locked:
            pytest.skip("this file system has no locks")
        for other in (path, tmp_path / "link" / "lock", tmp_path / "folder" / ".." / "folder" / "lock"):
            with pytest.raises(LockHeldError, match=f"^process {os.getpid()} on .*, since 20"), process_lock(other):
                pass
        assert as_another_process(path).startswith(f"process {os.getpid()} on ")
    assert not path.exists()
    assert as_another_process(path) == "free"


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), process_lock(tmp_path / "lock"):
        raise ZeroDivisionError
    with process_lock(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
