"""The index of a large panoptic JSON: built once, then memory-mapped and shared by all processes.

The index of `panoptic_train2017.json` is `panoptic_train2017.index` beside it. If that folder is not writable, it is in
the user's cache folder; if that is not writable either, no index is used. It can be deleted at any time. It is rebuilt
if it is corrupt, or if size or modification time of the JSON have changed.

File format: a line with version and CRC-32 of the rest; a line of JSON (`_Header`), padded with spaces; then the
arrays, little-endian. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_annotation import ImageInfo, JsonRows, PanopticAnnotation, row_type
from panformer_cli.data.coco.panoptic_json import read_annotation
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.storage.files import atomic_write, cache_folder

SMALLEST = 2**24
"""Minimum bytes of a JSON that gets an index; smaller files are read in half a second."""

_MAGIC = b"panformer annotation index 1 "  # the version of this format and of the checks in `panoptic_json`
_ALIGNMENT = 64
_BLOCK = 2**20


class Source(NamedTuple):
    """Size and modification time of a JSON, to detect that it has changed since its index was built."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Source | None:
        """Return the values of a file; None if it cannot be accessed."""
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, kw_only=True)
class IndexedAnnotation(PanopticAnnotation):
    """An annotation whose arrays are memory-mapped from an index; unpickling maps the file again."""

    source: Source

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.path, self.source)


def open_annotation(path: Path) -> PanopticAnnotation:
    """Return `panoptic_json.read_annotation`, for large JSONs from their index, which is built if missing.

    Several processes may call this at once: each builds the same file and puts it in place atomically.

    Raises:
        DataError: as `read_annotation`.
    """
    source = Source.of(path)
    if source is None or source.size < SMALLEST:
        return read_annotation(path)
    if (found := _from_index(path, source)) is not None:
        return found
    annotation = read_annotation(path)
    if Source.of(path) != source:  # it changed during reading
        return annotation
    return _indexed(annotation, source)


def from_index(path: Path) -> PanopticAnnotation | None:
    """Return the annotation from its index; None if there is none, which `open_annotation` would build."""
    source = Source.of(path)
    return _from_index(path, source) if source is not None else None


def _from_index(path: Path, source: Source) -> PanopticAnnotation | None:
    found = (_read(index_path, path, source) for index_path in index_paths(path))
    return next((annotation for annotation in found if annotation is not None), None)


def index_paths(path: Path) -> tuple[Path, Path]:
    """Return the possible paths of the index of a panoptic JSON: beside it, and in the cache folder."""
    key = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
    return path.with_suffix(".index"), cache_folder() / "indexes" / f"{path.stem}-{key}.index"


def _reopened(path: Path, source: Source) -> PanopticAnnotation:
    if Source.of(path) != source:
        raise DataError(f"{path} has changed since it was opened; expected the same file; rerun the command")
    return open_annotation(path)


def _indexed(annotation: PanopticAnnotation, source: Source) -> PanopticAnnotation:
    """Write an index of `annotation` and return it from there; if none can be written, return `annotation`."""
    for index_path in index_paths(annotation.path):
        with suppress(PanformerError):
            with atomic_write(index_path) as temporary, temporary.open("wb") as file:
                _write(file, annotation, source)
            return _read(index_path, annotation.path, source) or annotation
    return annotation


class _Arrays(NamedTuple):
    """The arrays of the file in their order; those with 8 bytes per item come first, so that they are aligned."""

    starts: npt.NDArray[np.int64]
    image_starts: npt.NDArray[np.int64]
    unannotated_starts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.void]
    image_text: npt.NDArray[np.uint8]
    unannotated_text: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Header:
    """The header of an index.

    Attributes:
        source: size and modification time of the JSON.
        categories: as in a panoptic JSON.
        row_types: dtypes of the fields of a segment's row.
        lengths: items of each array.
    """

    source: tuple[int, int]
    categories: list[dict[str, Any]]
    row_types: dict[str, str]
    lengths: list[int]


def _write(file: BinaryIO, annotation: PanopticAnnotation, source: Source) -> None:
    images, without, rows = annotation.images, annotation.unannotated, annotation.rows
    arrays = _Arrays(annotation.starts, images.starts, without.starts, rows, images.text, without.text)
    types = {name: rows.dtype[name].base.str for name in rows.dtype.names or ()}
    header = _Header(source, annotation.categories.to_coco(), types, [len(array) for array in arrays])
    text = json.dumps(asdict(header)).encode()
    padding = b" " * (-(len(_first_line(0)) + len(text) + 1) % _ALIGNMENT)
    pieces: list[bytes | memoryview] = [text + padding + b"\n"]
    pieces += [np.ascontiguousarray(array).view(np.uint8).data for array in arrays]
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    for piece in (_first_line(checksum), *pieces):
        file.write(piece)


def _first_line(checksum: int) -> bytes:
    return _MAGIC + f"{checksum:08x}\n".encode()


def _read(index_path: Path, path: Path, source: Source) -> IndexedAnnotation | None:
    """Return the annotation of `path` from its index; None if the index is missing or cannot be used."""
    try:
        with index_path.open("rb") as file:
            first_line = file.read(len(_first_line(0)))
            if first_line != _first_line(_checksum(file)):
                return None
            file.seek(len(first_line))
            header = _Header(**json.loads(file.readline()))
            if Source(*header.source) != source:
                return None
            # The map keeps the file open.
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            arrays = _Arrays(*_mapped(content, file.tell(), header))
    except (OSError, ValueError, TypeError):
        return None
    return IndexedAnnotation(
        path,
        CategoryTable.from_coco(header.categories, str(index_path)),
        JsonRows(ImageInfo, arrays.image_text, arrays.image_starts),
        arrays.rows,
        arrays.starts,
        JsonRows(str, arrays.unannotated_text, arrays.unannotated_starts),
        source=source,
    )


def _checksum(file: BinaryIO) -> int:
    """Return the CRC-32 of the rest of the file. It is read, not mapped, to keep the memory use of the process low."""
    checksum = 0
    while block := file.read(_BLOCK):
        checksum = zlib.crc32(block, checksum)
    return checksum


def _mapped(content: mmap.mmap, offset: int, header: _Header) -> Iterator[npt.NDArray[Any]]:
    """Yield the arrays, read-only; ValueError if one would extend beyond the file."""
    types = [np.dtype("<i8")] * 3 + [row_type(header.row_types)] + [np.dtype("u1")] * 2
    for kind, length in zip(types, header.lengths, strict=True):
        yield np.frombuffer(content, kind, length, offset)
        offset += length * kind.itemsize
