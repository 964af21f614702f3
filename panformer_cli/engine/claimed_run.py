"""The folder of a run while it is trained: created or found, locked, and without the remains of killed processes."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path

from panformer_cli.engine.claimed_folder import claimed
from panformer_cli.engine.runs import EARLIER_RECIPE, RUNS, RunFolder, run_to_resume
from panformer_cli.errors import PanformerError
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import writing

_REMAINS = re.compile(
    r"\.(last|best|step-\d+|bad-step-\d+(-rank-\d+)?|recipe|recipe-before-step-\d+|environment|metrics)\.\w+\.\d+(\.parts)?\.tmp"
    r"|\.tmp[A-Za-z0-9]{6}"
)
"""Names of temporary files that killed processes leave: our own, and those of safetensors in earlier versions."""
_FOLDERS = ("trackers", "tensorboard", "wandb", "profile")
"""Folders that a run can have before its first checkpoint."""


@contextmanager
def new_run(name: str, out: Path | None, reporter: Reporter) -> Iterator[RunFolder]:
    """Create and lock the folder of a new run: `out`, or runs/<name>/<time>, with a suffix if it exists.

    If a run ended before its first checkpoint, for example because of an invalid setting, its folder can be reused.
    A folder that is still empty at the end is deleted.

    Raises:
        PanformerError: `out` is not empty or a file, another process trains in it, or it cannot be created.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise PanformerError(f"--out {out} is a file; expected a new or empty folder")
    with ExitStack() as stack:
        if out is None:
            path = stack.enter_context(_created(RUNS / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")))
        else:
            path = out if out.is_dir() else stack.enter_context(_created(out, exclusive=False))
        run = RunFolder(path)
        stack.enter_context(_locked(run, reporter))
        _check_is_free(run)
        _remove_remains(run)
        yield run


@contextmanager
def resumed_run(name: str, out: Path | None, reporter: Reporter) -> Iterator[RunFolder]:
    """Find and lock the run in `out`, or the newest one of the recipe `name`; errors as `runs.run_to_resume`."""
    run = run_to_resume(name, out)
    with _locked(run, reporter):
        _remove_remains(run)
        yield run


@contextmanager
def _created(path: Path, exclusive: bool = True) -> Iterator[Path]:
    """Create a folder, with a suffix if `exclusive` and it exists; delete folders that are still empty at the end."""
    missing = [parent for parent in path.parents if not parent.exists()]
    with writing(path):
        if not next(parent for parent in path.parents if parent.exists()).is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))  # mkdir would say "File exists"
        path.parent.mkdir(parents=True, exist_ok=True)
        path = _made(path) if exclusive else path
        path.mkdir(exist_ok=True)
    try:
        yield path
    finally:
        with suppress(OSError):  # not empty
            for folder in (path, *missing):
                folder.rmdir()


def _made(path: Path) -> Path:
    """Create the folder `path`, or the first one with a suffix that does not exist, and return its path."""
    for number in count(1):
        folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def _locked(run: RunFolder, reporter: Reporter) -> AbstractContextManager[None]:
    return claimed(run.path, "trained", "a second training", reporter)


def _check_is_free(run: RunFolder) -> None:
    """Raise PanformerError if the folder has a run with a checkpoint, or files of something else."""
    if run.is_resumable:
        raise PanformerError(
            f"--out {run.path} has another run; add --resume to continue that run, or choose a new folder"
        )
    own = {run.recipe, run.metrics, run.environment, run.lock, *(run.path / name for name in _FOLDERS), *_remains(run)}
    own |= {*run.bad_steps, *run.path.glob(EARLIER_RECIPE.format("*"))}
    if set(run.path.iterdir()) - own:
        raise PanformerError(f"--out {run.path} is not empty; expected a new or empty folder; choose another folder")


def _remove_remains(run: RunFolder) -> None:
    """Delete temporary files of killed processes. Only the owner of the lock writes such files."""
    for path in _remains(run):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def _remains(run: RunFolder) -> list[Path]:
    return [path for path in run.path.iterdir() if _REMAINS.fullmatch(path.name)]
