"""Parquet files whose rows are images, or names of images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from panformer_cli.engine.inputs import cloud
from panformer_cli.errors import DataError
from panformer_cli.wording import listing

SUFFIX = ".parquet"
_CONTENT = ("image", "bytes", "image_bytes", "content", "data")
_NAMES = ("file_name", "path", "uri", "url", "name", "image")


@dataclass(frozen=True)
class TableImage:
    """An image in a Parquet file, as bytes of an encoded image file.

    Attributes:
        table: Path or address of the file.
        group: Row group.
        row: Row in the group.
        column: Name of the column: of bytes, or of a struct with `bytes`, as in the data sets of Hugging Face.
        name: Name of the image.
    """

    table: str
    group: int
    row: int
    column: str
    name: str

    def __str__(self) -> str:
        return f"{self.table}/{self.name}"

    @property
    def path(self) -> Path:
        return Path(self.table, self.name)

    @property
    def identity(self) -> str:
        table = self.table if cloud.is_cloud(self.table) else os.path.abspath(self.table)  # noqa: PTH100 (no links)
        return f"{table}/{self.group}/{self.row}/{self.name}"

    def read_bytes(self) -> bytes:
        value = _group(self.table, self.group, self.column)[self.row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise DataError(f"the image {self} is empty; restore the row {self.row} of row group {self.group}")
        return bytes(data)


def read_table(table: str) -> list[TableImage] | list[str]:
    """Return the images in a Parquet file, or the names if it has no column with the content of images.

    Raises:
        DataError: It cannot be read, or has neither of these columns.
    """
    with _opened(table) as file:
        schema = file.schema_arrow
        content = next(
            (name for name in _CONTENT if name in schema.names and _has_bytes(schema.field(name).type)), None
        )
        names = next((name for name in _NAMES if name in schema.names and _is_text(schema.field(name).type)), None)
        if content is None and names is None:
            raise DataError(
                f"{table} has the columns {listing(schema.names, 6)}; expected the content of images as bytes in one "
                f"of {', '.join(_CONTENT)}, or names as text in one of {', '.join(_NAMES)}; rename the column"
            )
        found = [_names_of(file, group, names) for group in range(file.num_row_groups)]
    if not any(found):
        raise DataError(f"{table} has no rows; expected at least one image")
    if content is None:
        return [name for group in found for name in group if name]
    return [
        TableImage(table, group, row, content, name or f"{group:05d}_{row:07d}")
        for group, part in enumerate(found)
        for row, name in enumerate(part)
    ]


def _names_of(file: Any, group: int, column: str | None) -> Sequence[str]:
    """Return the name in each row of a group; "" for rows without one."""
    if column is None:
        return [""] * file.metadata.row_group(group).num_rows
    return [name or "" for name in file.read_row_group(group, columns=[column]).column(0).to_pylist()]


@lru_cache(maxsize=2)
def _group(table: str, group: int, column: str) -> Any:
    """Return a column of a row group. The rows of a group are read one after the other."""
    with _opened(table) as file:
        return file.read_row_group(group, columns=[column]).column(0)


@contextmanager
def _opened(table: str) -> Iterator[Any]:
    """Open a file as `pyarrow.parquet.ParquetFile`; errors as `read_table`."""
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            f"{table} needs the package pyarrow, which is not installed; install it with: pip install 'panformer[ray]'"
        ) from error
    if cloud.is_cloud(table):
        with cloud.opened(table) as stream, parquet.ParquetFile(stream) as file:
            yield file
        return
    try:
        with parquet.ParquetFile(table) as file:
            yield file
    except DataError:
        raise
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{table} cannot be read: {reason}; expected a Parquet file; restore it") from error


def _has_bytes(kind: Any) -> bool:
    types = import_module("pyarrow").types
    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _has_bytes(kind.field(index).type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    types = import_module("pyarrow").types
    return bool(types.is_string(kind) or types.is_large_string(kind))
