"""The memory of the computer and of a cgroup, from copies of the kernel's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from panformer_cli.engine.training.memory.device_memory import computer_memory

MIB = 2**20


def files(root: Path, contents: dict[str, str]) -> Path:
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="ascii")
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("", {}, 8192),
        ("0::/job/task\n", {"job/memory.max": "max\n", "job/task/memory.max": f"{3000 * MIB}\n"}, 3000),
        ("0::/job/task\n", {"job/memory.max": f"{2000 * MIB}\n", "job/task/memory.max": f"{3000 * MIB}\n"}, 2000),
        ("0::/\n", {"memory.max": f"{9000 * MIB}\n"}, 8192),  # more than there is
        ("5:cpu:/\n4:memory:/job\n0::/\n", {"memory/job/memory.limit_in_bytes": f"{4000 * MIB}\n"}, 4000),
        ("4:memory:/outside/of/the/container\n", {"memory/memory.limit_in_bytes": f"{4000 * MIB}\n"}, 4000),
        ("4:memory:/job\n", {"memory/job/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, 8192),  # no limit in version 1
        ("nonsense", {}, 8192),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, groups: str, limits: dict[str, str], expected: int) -> None:
    memory = f"MemTotal: {8192 * 1024} kB\nMemAvailable: 1024 kB\nSwapTotal: 0 kB\n"
    proc = files(tmp_path / "proc", {"meminfo": memory, "self/cgroup": groups})
    assert computer_memory(proc, files(tmp_path / "cgroup", limits)) == expected * MIB


def test_swap_space_is_added_and_no_linux_is_needed(tmp_path: Path) -> None:
    proc = files(tmp_path, {"meminfo": f"MemTotal: {8192 * 1024} kB\nSwapTotal: {1024 * 1024} kB\n"})
    assert computer_memory(proc, tmp_path) == 9216 * MIB
    elsewhere = computer_memory(tmp_path / "missing", tmp_path)
    assert elsewhere is None or elsewhere > 0
