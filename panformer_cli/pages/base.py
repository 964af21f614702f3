"""Shared parts of all HTML pages: the template environment, tables and bars.

`templates/base.html` is the base of every page: head, content security policy, style and script; `gallery.html`,
`report.html` and `summary.html` extend it. Style and script are inlined, so a page opens from disk and needs no
network. Every value is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import quote

from panformer_cli.storage.files import atomic_write

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Bar:
    """A number drawn as a bar, followed by its value.

    Attributes:
        value: 0 or more.
        full: Value of a bar of full length.
        style: Color of the bar: `things`, `stuff` or `lost`.
        decimals: Decimals of the value.
    """

    value: float
    full: float
    style: str = "lost"
    decimals: int = 1

    @property
    def length(self) -> float:
        """Length in percent of the full length, 0..100."""
        return round(100 * min(max(self.value / self.full, 0.0), 1.0), 2) if self.full else 0.0


@dataclass(frozen=True)
class Label:
    """A name in a table, optionally with a color or a thumbnail in front of it.

    Attributes:
        text: The name.
        color: RGB, 0..255; None for none.
        thumbnail: Path relative to the page, with `/`; "" for none.
        close_up: Index of the image that a click on the name opens in the viewer; None if it has no close-up.
    """

    text: str
    color: Sequence[int] | None = None
    thumbnail: str = ""
    close_up: int | None = None


Cell = str | int | float | Bar | Label | None


@dataclass(frozen=True)
class Table:
    """A table that can be sorted and, if it is long, filtered.

    Attributes:
        caption: Title of the table.
        headers: Name of each column.
        rows: Floats get one decimal, or three if none exceeds 1; None and NaN become a dash and are sorted last.
        note: Sentence below the caption; "" for none.
    """

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.headers) for row in self.rows):
            raise ValueError(f"the table {self.caption!r} has a row without {len(self.headers)} cells, one per header")

    @property
    def is_number(self) -> list[bool]:
        """Whether each column has only numbers, which are aligned to the right."""
        columns = range(len(self.headers))
        return [not any(isinstance(row[i], (str, Label)) for row in self.rows) for i in columns]

    @property
    def decimals(self) -> int:
        """Decimals of the floats: 3 if all are fractions of 1, otherwise 1."""
        largest = max((abs(cell) for row in self.rows for cell in row if _is_finite(cell)), default=0.0)
        return 3 if 0 < largest <= 1 else 1


def render(template: str, **content: Any) -> str:
    """Return the text of a template."""
    return _environment().get_template(template).render(content)


def write_page(path: Path, template: str, title: str, facts: Sequence[tuple[str, str]] = (), **content: Any) -> None:
    """Render a template that extends `base.html` to a file, atomically.

    Args:
        path: Path of the page.
        template: Name of a file in `templates/`.
        title: Heading of the page.
        facts: Name and value pairs, shown below the title.
        **content: Variables of the template. Characters that UTF-8 cannot encode become question marks.

    Raises:
        PanformerError: The file cannot be written.
    """
    stream = _environment().get_template(template).stream(title=title, facts=facts, **content)
    stream.enable_buffering(1000)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        stream.dump(file, "utf-8", "replace")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # imported only by the commands that write a page

    environment = Environment(
        loader=PackageLoader("panformer_cli.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"digest": _digest, "number": format_number, "short": short_number, "url": url_of}
    environment.tests |= {
        "bar": lambda cell: isinstance(cell, Bar),
        "label": lambda cell: isinstance(cell, Label),
        "finite": lambda cell: isinstance(cell, (int, float)) and math.isfinite(cell),
    }
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment


def format_number(value: float | None, decimals: int = 1) -> str:
    """Return a number as text: integers with thousands separators, a dash for None, NaN and infinity.

    >>> format_number(12345), format_number(43.21), format_number(None)
    ('12,345', '43.2', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{decimals}f}"


def short_number(value: float) -> str:
    """Return the text of an axis tick, such as 12k for 12000 and 2.5M for 2500000."""
    for size, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{value:g}"


def end_of_path(path: str | os.PathLike[str]) -> str:
    """Return the last two parts of a path: pages are shared, and the folders above mean nothing on other machines.

    >>> end_of_path("/home/me/runs/mine/best.safetensors"), end_of_path("r50")
    ('mine/best.safetensors', 'r50')
    """
    return "/".join(PurePath(path).parts[-2:]).removeprefix("//")


def _is_finite(cell: Cell) -> TypeGuard[float]:
    return isinstance(cell, float) and math.isfinite(cell)


def url_of(path: str) -> str:
    """Return a relative path as a URL; names may contain bytes that are not UTF-8."""
    return quote(os.fsencode(path))


def _digest(text: str) -> str:
    """Return the hash that allows an inline style or script in the content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
