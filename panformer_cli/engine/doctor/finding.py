"""One line of `panformer doctor`, and how an examination that fails becomes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "missing", "warning", "failed"]
"""missing: something optional is not installed. warning: panformer works, but something will be slow or may fail.
failed: something that panformer needs does not work."""


@dataclass(frozen=True)
class Finding:
    """One thing that was examined.

    Attributes:
        section: Heading, such as `Packages`.
        name: What was examined.
        status: The outcome.
        found: What was found, in one line.
        fix: The command, or else the advice, that fixes it; empty if there is nothing to fix.
    """

    section: str
    name: str
    status: Status
    found: str
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)


def examined(section: str, name: str, examine: Callable[[], Iterable[Finding]], fix: str = "") -> Iterator[Finding]:
    """Yield the findings of `examine`; if it raises, one more finding, `failed`, with the first line of the error.

    Args:
        section: Section of that finding.
        name: Name of that finding.
        examine: The examination.
        fix: Advice of that finding.
    """
    try:
        yield from examine()
    except Exception as error:  # any type: a broken package can raise anything when it is imported
        yield Finding(section, name, "failed", first_line(error), fix)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none.

    >>> first_line(ImportError("libGL.so.1: not found\\nsome details")), first_line(KeyError())
    ('libGL.so.1: not found', 'KeyError')
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__
