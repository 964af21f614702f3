"""Durations on the command line, such as 3h50m."""

from __future__ import annotations

import re

import click

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A duration in days, hours, minutes and seconds; its value is in seconds.

    >>> Duration().convert("3h50m", None, None)
    13800
    """

    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", value.strip(), re.ASCII)
        seconds = match and sum(
            int(number or 0) * _SECONDS[unit] for number, unit in zip(match.groups(), "dhms", strict=True)
        )
        if not seconds:
            self.fail(f"{value!r}: expected a duration such as 3h50m, 45m or 1d12h", param, ctx)
        return seconds
