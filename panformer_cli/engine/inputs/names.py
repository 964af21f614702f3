"""The names of the results of images: different images have different ones."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from posixpath import splitext

from panformer_cli.engine.outputs.names import usable_name

_USABLE = re.compile(r"(?:[\w -]{1,50}/)*[\w -]{1,50}\.\w+")
"""Most names, which `usable_name` does not change; it takes longer than everything else for a million names."""


def distinct_names(names: Iterable[str]) -> Iterator[str]:
    """Yield the names for the results, with a number where two would give the same result file."""
    taken: set[str] = set()
    last: Counter[str] = Counter()  # the last number of each repeated name: the numbers below it are taken
    for given in names:
        name = given if _USABLE.fullmatch(given) else usable_name(Path(given)).as_posix()
        candidate, key = name, _result_key(name)
        if key in taken:
            number = max(last[key], 1)
            while _result_key(candidate) in taken:
                number += 1
                candidate = Path(name).with_stem(f"{Path(name).stem}_{number}").as_posix()
            last[key] = number
        taken.add(_result_key(candidate))
        yield candidate


def _result_key(name: str) -> str:
    """Return what two names share if their results would be the same file on some system.

    Capitals do not count on Windows and macOS, nor does the form of accents on macOS.
    """
    return unicodedata.normalize("NFC", splitext(name)[0]).lower()
