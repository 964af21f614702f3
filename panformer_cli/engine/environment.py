"""The environment that results depend on: versions, devices, threads, data and weights."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from panformer_cli import __version__
from panformer_cli.storage.files import sha256_of

_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "opencv-python", "numba", "safetensors", "triton")
"""Distributions that results depend on."""
_SECONDS = 5.0
"""How long another program may take to answer."""


def environment() -> dict[str, Any]:
    """Return time, versions, hardware and command line of this process, ready for JSON."""
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": platform.node(),
        "command": sys.argv,
        "panformer": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "libraries": dict(filter(None, map(_version, _LIBRARIES))),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": _driver(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())],
    }


def fingerprints(files: Mapping[str, Path]) -> dict[str, Any]:
    """Return path, size and SHA-256 of each file, ready for JSON."""
    return {
        name: {"path": str(path.absolute()), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for name, path in files.items()
    }


def _version(library: str) -> tuple[str, str] | None:
    try:
        return library, metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {"name": properties.name, "memory_mib": properties.total_memory // 2**20}


def _commit() -> str | None:
    """Return the commit of the source code, with `-dirty` after it if files differ; None outside a Git repository."""
    source = Path(__file__).parent
    found = _output("git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    tracked = found and _output("git", "-C", str(source), "ls-files", "--error-unmatch", Path(__file__).name)
    return found if tracked else None  # a package installed inside the repository of another project


def _driver() -> str | None:
    """Return the version of NVIDIA's driver."""
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if torch.version.cuda else None


def _output(*command: str) -> str | None:
    """Return the first line that a program prints; None if it cannot run or fails."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
        return next(iter(done.stdout.splitlines()), None)
    return None
