"""The process keeps freed memory; measured by page faults in a separate process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from panformer_cli.engine.distributed.allocator import keep_freed_memory
kept = keep_freed_memory() if {keep} else False
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use(): torch.empty({numbers})[:20_000_000].fill_(1)
for _ in range(10):  # the heap size settles after a few iterations
    use()
before = faults()
for _ in range(5):
    use()
print(kept, faults() - before)
"""


def run(keep: bool, numbers: int = 20_000_000, **environment: str) -> tuple[bool, int]:
    """Return whether memory is kept, and the page faults of five tensors that are freed immediately."""
    program = PROGRAM.format(keep=keep, numbers=numbers)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_freed_memory_is_reused() -> None:
    pages = 5 * 80_000_000 // 4096
    assert run(keep=False)[1] > pages // 600, "with huge pages of 2 MB at least"
    kept, faults = run(keep=True)
    assert kept
    assert faults < pages // 600
    assert run(keep=True, numbers=600_000_000)[1] < pages // 600, "2.4 GB, more than an int counts, are kept too"
    assert run(keep=True, MALLOC_TRIM_THRESHOLD_="1000000")[0] is False, "the environment decides"
