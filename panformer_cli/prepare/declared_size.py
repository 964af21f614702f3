"""Compare the height and width that an annotation declares with those of its image."""

from __future__ import annotations

from typing import Any

from panformer_cli.errors import DataError
from panformer_cli.wording import short

Size = tuple[int, int]
"""Height and width of an image in pixels."""


def check_size(declared: tuple[Any, Any], size: Size, where: str) -> None:
    """Raise a DataError unless the annotation is for an image of this height and width.

    Args:
        declared: Height and width as in the file; None if missing. Whole numbers with a fraction, such as 40.0, are
            accepted.
        size: Height and width of the image as displayed.
        where: The annotation, for errors.
    """
    check_numbers(declared, where)
    height, width = (actual if value is None else value for value, actual in zip(declared, size, strict=True))
    if (height, width) == size:
        return
    is_swapped = size[::-1] == (height, width)
    reasons = "the file has them in another order, or the image was labeled without applying its EXIF orientation"
    rotated = f"; height and width are swapped: {reasons}" if is_swapped else ""
    raise DataError(
        f"{where} is for an image of {short(width)}x{short(height)} but the image is displayed as {size[1]}x{size[0]} "
        f"(width x height){rotated}; expected equal sizes; use the image that was labeled"
    )


def check_numbers(declared: tuple[Any, Any], where: str) -> None:
    """Raise a DataError if the height or the width is neither a number nor missing. Arguments as `check_size`."""
    for name, value in zip(("height", "width"), declared, strict=True):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            kind = "the text " if isinstance(value, str) else ""
            raise DataError(f"{where}: the {name} is {kind}{short(value)}; expected a number")
