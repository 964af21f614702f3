"""Check the class names that a user passes."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import DataError
from panformer_cli.wording import truncated


def check_class_names(names: Iterable[str], categories: CategoryTable, option: str, where: str = "") -> None:
    """Raise a DataError if one of the names is no class.

    Args:
        names: The values of `option`.
        categories: The classes.
        option: The option, such as `--stuff`.
        where: The data set; empty if it is clear.
    """
    known = [category.name for category in categories.categories]
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            guess = (
                f"did you mean {close[0]}?" if close else f"expected one of the classes {truncated(', '.join(known))}"
            )
            raise DataError(f"{option} {name}: unknown class{f' in {where}' if where else ''}; {guess}")
