"""Random mistakes in recipes are reported as mistakes, never as tracebacks (see benchmarks/recipe_fuzz.py)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from benchmarks.recipe_fuzz import Mutation, run


def no_bugs(count: int, seed: int) -> Counter[str]:
    """Try mutations, fail at the first traceback, and return how often each outcome occurred."""

    def report(kind: str, mutation: Mutation, result: Any) -> None:
        if kind == "bug":
            pytest.fail(f"{result}\n{mutation}")

    return run(count, seed, report)


def test_random_mistakes_are_refused_without_a_traceback() -> None:
    counts = no_bugs(25, seed=1)
    assert counts["refused"] > counts["accepted"] > 0


@pytest.mark.slow
def test_more_random_mistakes_are_refused_without_a_traceback() -> None:
    assert no_bugs(500, seed=2)["refused"] > 300
