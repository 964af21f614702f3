"""The process keeps freed memory; measured by page faults in a separate process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from panformer_cli.engine.distributed.allocator import keep_freed_memory
kept = keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use(numbers): torch.empty(numbers)[:20_000_000].fill_(1)
for numbers in (20_000_000, 600_000_000):
    for _ in range(10):  # the heap size settles after a few iterations
        use(numbers)
    before = faults()
    for _ in range(5):
        use(numbers)
    print(faults() - before)
print(kept)
"""


def run(**environment: str) -> tuple[bool, int, int]:
    """Return whether memory is kept, and the page faults of five tensors of 80 MB, and of 2.4 GB, freed immediately."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment)
    small, large, kept = done.stdout.split()
    return kept == "True", int(small), int(large)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_freed_memory_is_reused_unless_the_environment_decides_otherwise() -> None:
    pages = 5 * 80_000_000 // 4096
    kept, small, large = run(MALLOC_TRIM_THRESHOLD_="1000000")
    assert not kept
    assert min(small, large) > pages // 600, "with huge pages of 2 MB at least"
    kept, small, large = run()
    assert kept
    assert max(small, large) < pages // 600, "2.4 GB, more than an int counts, are kept too"
