"""The names of result files: unique, and valid on every system."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path


def distinct_names(names: Iterable[str]) -> Iterator[str]:
    """Yield the names, with a number where two would give the same result file.

    `:` and `\\` become `_`, since they separate drives and folders on some systems.
    """
    taken: set[str] = set()
    last: Counter[str] = Counter()  # the last number of each repeated name: the numbers below it are taken
    for given in names:
        name = Path(*(re.sub(r"[:\\]", "_", part) for part in Path(given).parts))
        candidate, key = name, _result_key(name)
        if key in taken:
            number = max(last[key], 1)
            while _result_key(candidate) in taken:
                number += 1
                candidate = name.with_stem(f"{name.stem}_{number}")
            last[key] = number
        taken.add(_result_key(candidate))
        yield candidate.as_posix()


def _result_key(name: Path) -> str:
    """Return what two names share if their results would be the same file, also where capitals do not count."""
    return name.with_suffix("").as_posix().lower()
