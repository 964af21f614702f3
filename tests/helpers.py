"""Helpers shared by tests of several folders."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from panformer_cli.cli.main import main
from tests.conftest import REPOSITORY


def run(*arguments: str) -> int:
    """Run `panformer ARGUMENTS` in this process and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def made_once(request: pytest.FixtureRequest, name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder `name`, which `make` writes; the workers of pytest-xdist share it, and must not change it."""
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    base = factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # a worker, whose own folder is in that of the run
        base = base.parent
    with FileLock(base / f"{name}.lock"):
        if not (made := base / f"{name}.made").exists():
            make(base / name)
            made.touch()
    return base / name


def in_new_process(code: str) -> str:
    """Run Python code in a new interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return done.stdout


def set_worker(
    monkeypatch: pytest.MonkeyPatch, rank: int | str, world_size: int | str, local_rank: int | str = 0
) -> None:
    """Set the environment variables that torchrun sets for a worker, with two workers per machine."""
    values = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": 2}
    for name, value in {**values, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder and its subfolders, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limit files to `size` bytes, to simulate a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
