"""The names of the results of images: different images have different ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from panformer_cli.engine.outputs.names import usable_name


def distinct_names(names: Iterable[str]) -> Iterator[str]:
    """Yield the names for the results, with a number where two would give the same result file."""
    taken: set[str] = set()
    last: Counter[str] = Counter()  # the last number of each repeated name: the numbers below it are taken
    for name in map(usable_name, map(Path, names)):
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
