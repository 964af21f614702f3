"""How much memory a training process can use at most: that of its GPU, or its share of the computer's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import torch

from panformer_cli.engine.distributed.runtime import Process

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def device_memory(process: Process) -> float | None:
    """Return the bytes of memory of a process; None if they are unknown.

    On a CPU the processes of a machine share its memory, its swap space included, or that of their cgroup if it has
    less. What other programs use at the moment is not subtracted.
    """
    if process.device.type == "cuda":
        return float(torch.cuda.get_device_properties(process.device).total_memory)
    if process.device.type != "cpu":
        return None
    total = computer_memory()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if process.world_size > 1 else 1
    return None if total is None else total / processes


def computer_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> float | None:
    """Return the bytes of memory and swap space of this computer or of this process's cgroup; None if unknown."""
    limits = [*_cgroup_limits(proc, cgroups)]
    try:
        lines = (line.split() for line in (proc / "meminfo").read_text(encoding="ascii").splitlines())
        kilobytes = {words[0]: int(words[1]) for words in lines}
        limits.append(1024 * kilobytes["MemTotal:"])
        return float(min(limits) + 1024 * kilobytes.get("SwapTotal:", 0))
    except (OSError, KeyError, ValueError, IndexError):  # not Linux
        with suppress(ValueError, OSError, AttributeError):
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float(min(limits)) if limits else None


def _cgroup_limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield the limits of this process's cgroup and those above it, in bytes; of version 1 and 2 of cgroups."""
    with suppress(OSError, ValueError):
        for line in (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                folder, name = cgroups, "memory.max"
            elif "memory" in controllers.split(","):
                folder, name = cgroups / "memory", "memory.limit_in_bytes"
            else:
                continue
            inside = PurePosixPath(path.lstrip("/"))
            for group in (inside, *inside.parents):
                with suppress(OSError, ValueError):  # "max" is no limit
                    yield int((folder / group / name).read_text(encoding="ascii"))
