"""The Parquet file of a block: one row per image, in the order of the block."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from panformer_cli.engine.inputs.input_image import InputImage
from panformer_cli.engine.outputs.registry import OUTPUTS, ImageOutput, SegmentedImage
from panformer_cli.storage.files import atomic_write

Row = dict[str, Any]
"""`image`, `id` and `name` of an `InputImage`, a column per output, `error`, and the `device` of the prediction."""
_TEXT = (".json", ".geojson")


def columns_of(save: Sequence[str]) -> list[ImageOutput]:
    """Return the outputs with these names, each of which is a column."""
    return [output for output in OUTPUTS if isinstance(output, ImageOutput) and output.name in save]


def row_of(image: InputImage, segmented: SegmentedImage, outputs: Sequence[ImageOutput], device: str) -> Row:
    """Return the row of an image.

    Raises:
        DataError: An output cannot represent the segmentation.
    """
    columns = {output.name: _value(output, output.encode(segmented)) for output in outputs}
    return {**_names(image), **columns, "device": device}


def failed_row(image: InputImage, problem: str, device: str) -> Row:
    """Return the row of an image without results; the columns of outputs are null."""
    return {**_names(image), "error": problem, "device": device}


def write_rows(path: Path, rows: Sequence[Row], outputs: Sequence[ImageOutput]) -> None:
    """Write the file of a block atomically; errors as `files.atomic_write`."""
    table = import_module("pyarrow").Table.from_pylist(list(rows), _schema(outputs))
    with atomic_write(path) as temporary:
        import_module("pyarrow.parquet").write_table(table, temporary)


def finished_rows(path: Path) -> dict[str, Row]:
    """Return the rows without an error by `name`; none if the file is missing or corrupt."""
    rows: list[Row] = [] if (table := _read(path)) is None else table.to_pylist()
    return {row["name"]: row for row in rows if row["error"] is None}


def is_finished(path: Path) -> bool:
    """Return whether the file of a block exists and has no error."""
    table = _read(path, ["error"])
    return table is not None and table.column("error").null_count == len(table)


def _read(path: Path, columns: list[str] | None = None) -> Any:
    """Return a table of the columns, None for all; None if the file is missing or corrupt."""
    try:
        return import_module("pyarrow.parquet").read_table(path, columns=columns)
    except (OSError, import_module("pyarrow").ArrowException):
        return None


def _names(image: InputImage) -> Row:
    return {"image": _text(image.file_name), "id": str(image.id), "name": _text(image.name), "input": _text(str(image))}


def _text(name: str) -> str:
    """Return a file name as valid Unicode, which Parquet requires."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _value(output: ImageOutput, data: bytes) -> bytes | str:
    return data.decode() if output.suffix in _TEXT else data


def _schema(outputs: Sequence[ImageOutput]) -> Any:
    """Return the Arrow schema: text and bytes only."""
    pa = import_module("pyarrow")
    encoded = [(output.name, pa.string() if output.suffix in _TEXT else pa.large_binary()) for output in outputs]
    names = [(name, pa.string()) for name in ("image", "id", "name", "input")]
    return pa.schema([*names, *encoded, ("error", pa.string()), ("device", pa.string())])
