"""Loops compiled by numba."""

from __future__ import annotations

from typing import Any

import pytest
from numba import njit

from panformer_cli import compiled


def test_without_a_writable_folder_compiled_code_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_folder(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(compiled, "njit", without_folder)
    assert compiled.compiled()(lambda x: x + 1)(2) == 3
