"""Write a result to a folder: the files of `panformer predict --save`, all of them or none."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from panformer_cli.engine.outputs.names import JSON, usable_name
from panformer_cli.engine.outputs.registry import OUTPUTS, Saving, SegmentedImage
from panformer_cli.engine.outputs.writing import written_together
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.errors import PanformerError
from panformer_cli.storage.files import locked_folder, writing
from panformer_cli.storage.plain_json import parse as parse_json

if TYPE_CHECKING:
    from panformer_cli.api.result import Result

DEFAULT_OUTPUTS = ("overlay", "panoptic", "segments")

UNNAMED = "image"
"""Name of the files of an image in memory."""


def save(result: Result, folder: Path, outputs: str | Sequence[str], name: str | None) -> list[Path]:
    """Write the outputs of a result and return the paths of the files; see `Result.save`."""
    saving = _saving(outputs)
    check_results_folder(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder):  # another process or thread must not choose the same name
        chosen = _free_name(saving, folder, result) if name is None else _usable(name)
        stale = set(saving.in_the_way(folder, [chosen]))
        segmented = SegmentedImage(
            result.image, result.panoptic, result.categories, chosen, _described(result) or chosen
        )
        files = (file for output in saving.outputs for file in output.files(segmented, chosen))
        staging = folder / f".{os.getpid()}-{threading.get_ident()}"
        with written_together(folder, files, staging) as names:
            paths = [folder / inner for inner in names]
        for path in stale.difference(paths):  # segments that the earlier result of this image had
            path.unlink(missing_ok=True)
    return paths


def _saving(outputs: str | Sequence[str]) -> Saving:
    """Return the outputs with these names. Raises PanformerError if one is unknown or is of a whole run."""
    names = [name.strip() for name in outputs.split(",")] if isinstance(outputs, str) else list(outputs)
    known = [output.name for output in OUTPUTS]
    if unknown := [name for name in names if name not in known]:
        advice = " (`json` is one file for all images of `panformer predict`: use segments)" if JSON in unknown else ""
        raise PanformerError(f"outputs has {', '.join(unknown)}; expected some of {', '.join(known)}{advice}")
    return Saving.of(names)


def _usable(name: str) -> str:
    """Return a name that was passed, with a suffix that the outputs replace by their own."""
    if not name:
        raise PanformerError("name is empty; expected the name of the files without suffix, such as 'street'")
    return f"{usable_name(Path(f'{name}.png')).with_suffix('').as_posix()}.png"


def _described(result: Result) -> str | None:
    """Return what the image is, by which its earlier files are recognized; None for an image in memory."""
    if result.source is None or result.frame is None:
        return result.source
    return f"{result.source}, frame {result.frame}"


def _free_name(saving: Saving, folder: Path, result: Result) -> str:
    """Return the name of the image, with a number if it is that of another image's files in the folder."""
    source, stem = _described(result), _stem(result.source)
    if result.frame is not None:
        stem = f"{stem}-{result.frame:06d}"

    def numbered(number: int) -> str:
        return _usable(stem if number == 1 else f"{stem}_{number}")

    def is_taken(number: int) -> bool:
        taken = next(saving.in_the_way(folder, [numbered(number)]), None) is not None
        return taken and (source is None or _source_of(folder, numbered(number)) != source)

    if source is None:
        return numbered(_first_free(is_taken))
    return numbered(next(number for number in count(1) if not is_taken(number)))  # its own may be among taken ones


def _stem(source: str | None) -> str:
    if source is None:
        return UNNAMED
    return Path(source.partition("?")[0] if "://" in source else source).stem or UNNAMED


def _first_free(is_taken: Callable[[int], bool]) -> int:
    """Return a free number after which none is taken, if they are taken in order; fast for thousands of images."""
    high = 1
    while is_taken(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_taken(middle) else (low, middle)
    return high


def _source_of(folder: Path, name: str) -> str | None:
    """Return the source of the image whose segments were saved with this name; None if they were not saved."""
    path = (folder / "segments" / name).with_suffix(".json")
    try:
        return str(parse_json(path.read_bytes())["image"]["file_name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
