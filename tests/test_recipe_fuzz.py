"""Random mistakes in recipes are reported as mistakes, never as tracebacks (see benchmarks/recipe_fuzz.py)."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "recipe_fuzz.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def no_bugs(count: int, seed: int) -> Counter[str]:
    """Try mutations, fail at the first traceback, and return how often each outcome occurred."""

    def report(kind: str, mutation: object, result: Any) -> None:
        if kind == "bug":
            pytest.fail(f"{result}\n{mutation}")

    counts: Counter[str] = load_script().run(count, seed, report)
    return counts


def test_random_mistakes_are_refused_without_a_traceback() -> None:
    counts = no_bugs(25, seed=1)
    assert counts["refused"] > counts["accepted"] > 0


@pytest.mark.slow
def test_more_random_mistakes_are_refused_without_a_traceback() -> None:
    assert no_bugs(500, seed=2)["refused"] > 300
