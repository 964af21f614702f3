"""Keyword arguments as the engine's options: the same as options of the command line, and `--set`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from panformer_cli.engine.combined.options import DEFAULT, InferenceOptions, parse_views
from panformer_cli.engine.inference_changes import InferenceChanges
from panformer_cli.engine.outputs.options import OutputOptions
from panformer_cli.engine.precision import PrecisionChoice
from panformer_cli.errors import PanformerError, RecipeError
from panformer_cli.visualization.colors import Palette

DEFAULT_PRECISION: PrecisionChoice = "fp32"
"""The precision of the commands if none is chosen."""

SMALLEST_SIZE = 32
"""The least `max_size`, as of the option `--max-size`."""


def overrides_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return settings as overrides for `recipe_io.override_recipe`.

    Args:
        settings: Values by dotted key, such as `{"train.lr": 1e-4}`, or whole sections, such as
            `{"train": {"lr": 1e-4}}`. Values are numbers, text, booleans, None, lists and tuples; paths are text.

    Raises:
        RecipeError: A value is something else.

    Examples:
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


def checkpoint_of(given: str | PathLike[str] | None) -> Path | None:
    """Return an argument `checkpoint` as a path; None for the newest run. Raises PanformerError if it is no path."""
    if given is None:
        return None
    if not isinstance(given, (str, PathLike)):
        raise PanformerError(
            f"checkpoint is an object of type {type(given).__name__}; expected a file, the folder of a run, or the "
            "name of published weights"
        )
    return Path(given)


def precision_of(name: str) -> PrecisionChoice:
    """Return the engine's precision for an argument `precision`. Raises PanformerError if there is none."""
    known: tuple[PrecisionChoice, ...] = get_args(PrecisionChoice)
    choice = DEFAULT_PRECISION if name == "auto" else next((other for other in known if other == name), None)
    if choice is None:
        raise PanformerError(f"precision is {name!r}; expected auto, {', '.join(known)}")
    return choice


def changes_of(
    threshold: float | None, overlap: float | None, max_size: int | None, settings: Mapping[str, Any]
) -> InferenceChanges:
    """Return the settings that differ from those of the checkpoint.

    Raises:
        PanformerError: A value is out of range, or a setting is not of the section `inference`.
    """
    check_range("threshold", threshold, 0, 1)
    check_range("overlap", overlap, 0, 1)
    check_range("max_size", max_size, SMALLEST_SIZE)
    overrides = overrides_of(settings)
    if other := [override.partition("=")[0] for override in overrides if not override.startswith("inference.")]:
        raise RecipeError(
            f"{other[0]} cannot be set when a model is loaded; expected an argument of `load`, or a setting of the "
            "section inference such as inference={'top_k': 50}"
        )
    return InferenceChanges(threshold, overlap, max_size, overrides)


def with_saved_model(
    changes: InferenceChanges,
    short_side: int | None,
    long_side: int | None,
    label_map: str | PathLike[str] | Mapping[str | int, int] | None,
    categories: str | PathLike[str] | None = None,
    hf_post_processing: bool = False,
) -> InferenceChanges:
    """Return the changes with the sides of the input, and what is for models that transformers saved.

    Raises:
        PanformerError: A value is out of range, or a file is missing or invalid.
    """
    check_range("short_side", short_side, SMALLEST_SIZE)
    check_range("long_side", long_side, SMALLEST_SIZE)
    labels: Path | Mapping[str, int] | None = None
    if isinstance(label_map, Mapping):
        labels = {str(label): number for label, number in label_map.items()}
        if wrong := [number for number in labels.values() if type(number) is not int]:
            raise PanformerError(f"label_map has the category id {wrong[0]!r}; expected a number")
    elif label_map is not None:
        labels = Path(label_map)
    table = None if categories is None else Path(categories)
    return changes.with_saved_model(short_side, long_side, labels, table, hf_post_processing)


def inference_of(
    tile: int | None,
    tile_overlap: int | None,
    tile_whole_image: bool,
    tta: str | Sequence[str | float] | None,
    mask_layers: int | None,
) -> InferenceOptions:
    """Return tiles, views and layers. Raises PanformerError if one is out of range, or they contradict each other."""
    check_range("mask_layers", mask_layers, 1)
    views = DEFAULT.views
    if isinstance(tta, bool):
        raise PanformerError(f"tta is {tta}; expected views such as 'flip', 'scales' or 'flip,scales'")
    if tta is not None:
        views = parse_views(tta if isinstance(tta, str) else ",".join(map(str, tta)))
    return InferenceOptions(tile, tile_overlap, tile_whole_image, views, mask_layers)


def output_of(classes: str | int | Sequence[str | int] | None, min_area: int, colors: str) -> OutputOptions:
    """Return which segments are kept, and their colors. Raises PanformerError if a value is invalid."""
    check_range("min_area", min_area, 0)
    palettes: tuple[Palette, ...] = get_args(Palette)
    palette = next((name for name in palettes if name == colors), None)
    if palette is None:
        raise PanformerError(f"colors is {colors!r}; expected {' or '.join(palettes)}")
    if classes is not None and not isinstance(classes, int) and not len(classes):
        raise PanformerError("classes is empty, so no segment would be kept; expected names or ids, or None for all")
    named = [] if classes is None else [classes] if isinstance(classes, (str, int)) else classes
    return OutputOptions(classes=tuple(map(str, named)), min_area=min_area, palette=palette)


def check_range(name: str, value: float | None, least: float, most: float | None = None) -> None:
    """Raise PanformerError if an argument is out of its range; None is allowed."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise PanformerError(f"{name} is {value!r}; expected a number")
    if value is None or (value >= least and (most is None or value <= most)):
        return
    expected = f"{least} or more" if most is None else f"{least} to {most}"
    raise PanformerError(f"{name} is {value}; expected {expected}")
