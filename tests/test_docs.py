"""What the documentation says is whole."""

from __future__ import annotations

import re

import pytest

from tests.conftest import REPOSITORY
from tests.golden.conftest import TABLES


@pytest.mark.parametrize("mark", TABLES)
def test_the_tables_of_the_fidelity_page_are_full_and_within_their_limits(mark: str) -> None:
    text = (REPOSITORY / "docs" / "fidelity.md").read_text(encoding="utf-8")
    (body,) = re.findall(f"<!-- {mark} -->\n(.*?)\n<!-- end {mark} -->", text, flags=re.S)
    header, _, *rows = [line[2:-2].split(" | ") for line in body.splitlines()]
    assert header == ["stage", *TABLES[mark], "limit"]
    assert len(rows) >= 6
    for _, *cells, limits in rows:
        assert len(cells) == len(TABLES[mark])
        numbers = [float(cell) for cell in cells if cell]
        assert numbers
        assert max(numbers) <= max(map(float, limits.split(" to ")))
