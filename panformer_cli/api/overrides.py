"""Settings as keyword arguments: the same as `--set` on the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from panformer_cli.errors import RecipeError


def overrides_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return settings as overrides for `recipe_io.override_recipe`.

    Args:
        settings: Values by dotted key, such as `{"train.lr": 1e-4}`, or whole sections, such as
            `{"train": {"lr": 1e-4}}`. Values are numbers, text, booleans, None, lists and tuples; paths are text.

    Raises:
        RecipeError: A value is something else.

    >>> overrides_of({"train": {"lr": 1e-4, "drop_epochs": [8]}, "data.root": "data/scenes"})
    ('train.lr=0.0001', 'train.drop_epochs=[8]', 'data.root=data/scenes')
    """
    overrides: list[str] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            overrides += overrides_of({f"{key}.{inner}": item for inner, item in value.items()})
        else:
            overrides.append(f"{key}={_text(key, value)}")
    return tuple(overrides)


def _text(key: str, value: Any) -> str:
    """Return a value as YAML, of which JSON is a part; text as it is, since text settings are used verbatim."""
    if hasattr(value, "__fspath__"):
        return str(value)
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"{key} is a {type(value).__name__}: expected a number, text, True, False, None or a list of them"
        ) from error
