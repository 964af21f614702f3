"""Durations on the command line."""

from __future__ import annotations

import click
import pytest

from panformer_cli.cli.duration import Duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3h50m", 3 * 3600 + 50 * 60), ("45m", 2700), ("90s", 90), ("1d12h", 129600), ("1d1h1m1s", 90061), (" 2h ", 7200)],
)
def test_durations_in_seconds(text: str, seconds: int) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "3", "0m", "-1h", "50m3h", "1.5h", "h", "3 h", "٣h", "3H"])
def test_other_texts_are_rejected(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected a duration such as 3h50m, 45m or 1d12h"):
        Duration().convert(text, None, None)
