"""Types of settings with their ranges, and the base class of sections, which checks them.

    @dataclass(frozen=True)
    class TrainSettings(Section):
        epochs: Count = 24
        clip_norm: Annotated[float, Range(0, above=True)] = 0.1

A range is declared with the type of a setting, checked here, and shown in errors and in the settings reference.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, ClassVar, get_type_hints

from panformer_cli.errors import RecipeError
from panformer_cli.wording import truncated

HUGE = 10**9
"""Maximum absolute value of a number that has no narrower range."""
TINY = 1e-12
"""Minimum absolute value of a number other than 0; smaller ones have no effect."""
MOST_VALUES = 1000
"""Maximum number of values in a list."""
LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Maximum length of a text and of a path in UTF-8, in bytes: the limits of Linux for a file name and a path."""


@dataclass(frozen=True)
class Range:
    """The numbers that a setting, or each value of a list, can have. NaN and infinity are never in range.

    Attributes:
        least: Minimum.
        most: Maximum.
        above: Whether values must be more than the minimum.
        below: Whether values must be less than the maximum.
        unit: Unit in the plural, such as `pixels`.
        values: Minimum number of values in a list.
    """

    least: float = -HUGE
    most: float = HUGE
    above: bool = False
    below: bool = False
    unit: str = ""
    values: int = 0

    def __contains__(self, value: float) -> bool:
        return (self.least < value if self.above else self.least <= value) and (
            value < self.most if self.below else value <= self.most
        )

    def __str__(self) -> str:
        """Return the range in words, such as `0 or more and less than 1`, without the limit of all numbers."""
        unit = f" {self.unit}" if self.unit else ""
        most = f"{_text(self.most)}{unit}" if self.most < HUGE else ""
        if self.least == -HUGE:
            return f"at most {most}" if most else "any number"
        if most and not (self.above or self.below):
            return f"{_text(self.least)} to {most}"
        first = f"more than {_text(self.least)}{unit}" if self.above else f"{_text(self.least)}{unit} or more"
        return f"{first} and {'less than' if self.below else 'at most'} {most}" if most else first

    def problem(self, value: float) -> str:
        """Return what was expected instead of a number; empty if it is in range."""
        if 0 < abs(value) < TINY:
            return f"{self} and no number this close to 0"
        if value in self:
            return ""
        return f"{self} and no number beyond {HUGE}" if abs(value) > HUGE == self.most else str(self)


@dataclass(frozen=True)
class PathText:
    """Marks a text as a path, in which `~` and `$VARIABLE` are expanded."""


Count = Annotated[int, Range(1)]
"""A number of things, at least one."""
CountOrZero = Annotated[int, Range(0)]
"""A number of things, possibly none."""
Fraction = Annotated[float, Range(0, 1)]
"""A probability or a share, 0 to 1."""
FractionBelowOne = Annotated[float, Range(0, 1, below=True)]
"""A rate or a slope, 0 to less than 1."""
FilePath = Annotated[str, PathText()]
"""A path, in which `~` and `$VARIABLE` are expanded."""


@dataclass(frozen=True)
class Section:
    """A section of a recipe. When it is created, all of its values are checked, and all problems reported at once."""

    section: ClassVar[str] = ""
    """Name of the section in a recipe; empty for the recipe itself."""

    def __post_init__(self) -> None:
        for name, kinds in _marks(_class_of(self)).items():
            if any(isinstance(kind, PathText) for kind in kinds):
                object.__setattr__(self, name, _expanded(getattr(self, name)))
        problems = [*field_problems(self), *self.problems()]
        if problems:
            raise RecipeError("\n".join(problems))

    def problems(self) -> list[str]:
        """Return one message for each problem that the range of a single setting cannot express."""
        return []


def field_problems(settings: Section) -> Iterator[str]:
    """Yield one message for each number out of its range and each unusable text of a section."""
    prefix, own = f"{settings.section}." if settings.section else "", _class_of(settings)
    for field in fields(settings):
        value, allowed = getattr(settings, field.name), range_of(own, field.name)
        expected = ""
        if isinstance(value, str):
            is_path = any(isinstance(kind, PathText) for kind in _marks(own)[field.name])
            expected = _text_problem(value, field.default == "", LONGEST_PATH if is_path else LONGEST_NAME)
        elif isinstance(value, tuple):
            if not allowed.values <= len(value) <= MOST_VALUES:
                expected = f"{allowed.values} to {MOST_VALUES} values"
            elif problem := next(filter(None, (_item_problem(item, allowed) for item in value)), ""):
                expected = f"values of {problem}"
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            expected = allowed.problem(value)
        if expected:
            shown = truncated(repr(list(value) if isinstance(value, tuple) else value), 60)
            yield f"{prefix}{field.name} is {shown}: expected {expected}"


def _class_of(settings: Section) -> type:
    return type(settings)


def _item_problem(item: str | float, allowed: Range) -> str:
    """Return what was expected instead of a value of a list; empty if it can be used."""
    return _text_problem(item, False, LONGEST_NAME) if isinstance(item, str) else allowed.problem(item)


def range_of(settings: type, name: str) -> Range:
    """Return the range of the numbers of a setting; the range of all numbers if it has none of its own."""
    return next((kind for kind in _marks(settings).get(name, ()) if isinstance(kind, Range)), Range())


@cache
def _marks(settings: type) -> dict[str, tuple[Any, ...]]:
    """Return what is annotated to the types of the fields of a dataclass."""
    hints = get_type_hints(settings, include_extras=True)
    marks: dict[str, tuple[Any, ...]] = {}
    for name, hint in hints.items():
        parts = [hint, *getattr(hint, "__args__", ())]  # `Count | None` has the range in its first argument
        marks[name] = tuple(mark for part in parts for mark in getattr(part, "__metadata__", ()))
    return marks


def _text_problem(value: str, may_be_empty: bool, longest: int) -> str:
    """Return what was expected instead of a text that cannot be used; empty if it can be used."""
    if not value.strip() and not (may_be_empty and not value):
        return "text that is not empty"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        return "text without line breaks and control characters"
    if any(0xD800 <= ord(letter) < 0xE000 for letter in value):  # bytes of the command line that are not UTF-8
        return "text in UTF-8"
    if len(value.encode()) > longest:
        return f"at most {longest} bytes"
    return ""


def _expanded(path: str) -> str:
    # pathlib would change other paths, too ("" to "."), and raises an error for the home of an unknown user.
    return os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111


def _text(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
