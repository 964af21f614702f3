"""The index of a large panoptic JSON: built once, then mapped into memory and shared by all processes.

The index of `panoptic_train2017.json` is `panoptic_train2017.index` beside it or, where that folder cannot be written,
a file in the user's cache; where that cannot be written either, there is none. It can be deleted at any time. It
belongs to a JSON of one size and time of change, as with make: if either differs, it is built anew, and so is a
damaged index.

The file: a line with version and CRC-32 of all that follows; a line of JSON (`_Header`), filled up with spaces; then
the arrays, one after another, little-endian. No pickle.
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
"""Bytes of a JSON from which on it gets an index: a smaller one is read in half a second."""

_MAGIC = b"panformer annotation index 1 "  # the version: of this form, and of the checks in `panoptic_json`
_ALIGNMENT = 64
_BLOCK = 2**20


class Source(NamedTuple):
    """What tells whether a JSON is still the one that the index was built of."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Source | None:
        """None where the file is not to be seen."""
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class IndexedAnnotation(PanopticAnnotation):
    """An annotation whose arrays are mapped from an index. A process that gets it pickled maps the file itself."""

    source: Source

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self.path, self.source)


def open_annotation(path: Path) -> PanopticAnnotation:
    """As `panoptic_json.read_annotation`, of a large JSON through its index, which is built where it is not there yet.

    Several processes may do so at once; each builds the same file, and puts it in place as a whole.

    Raises:
        DataError: as `read_annotation`.
    """
    source = Source.of(path)
    if source is None or source.size < SMALLEST:
        return read_annotation(path)
    for place in index_places(path):
        found = _read(place, path, source)
        if found is not None:
            return found
    annotation = read_annotation(path)
    if Source.of(path) != source:  # changed while it was read
        return annotation
    return _indexed(annotation, source)


def index_places(path: Path) -> tuple[Path, Path]:
    """Where the index of a panoptic JSON may lie: beside it, or in the cache."""
    key = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
    return path.with_suffix(".index"), cache_folder() / "indexes" / f"{path.stem}-{key}.index"


def _opened_again(path: Path, source: Source) -> PanopticAnnotation:
    if Source.of(path) != source:
        raise DataError(f"{path} has changed since it was opened; expected the same file; start again")
    return open_annotation(path)


def _indexed(annotation: PanopticAnnotation, source: Source) -> PanopticAnnotation:
    """`annotation` from its new index; itself where none can be written."""
    for place in index_places(annotation.path):
        with suppress(PanformerError):
            with atomic_write(place) as temporary, temporary.open("wb") as file:
                _write(file, annotation, source)
            return _read(place, annotation.path, source) or annotation
    return annotation


class _Arrays(NamedTuple):
    """The arrays of the file, in their order: those of 8 bytes an item first, so that they are aligned."""

    starts: npt.NDArray[np.int64]
    image_starts: npt.NDArray[np.int64]
    unannotated_starts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.void]
    image_text: npt.NDArray[np.uint8]
    unannotated_text: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Header:
    """categories: as in a panoptic JSON. row_types: of the fields of a segment's row. lengths: items of each array."""

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
    filler = b" " * (-(len(_first_line(0)) + len(text) + 1) % _ALIGNMENT)
    pieces: list[bytes | memoryview] = [text + filler + b"\n"]
    pieces += [np.ascontiguousarray(array).view(np.uint8).data for array in arrays]
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    for piece in (_first_line(checksum), *pieces):
        file.write(piece)


def _first_line(checksum: int) -> bytes:
    return _MAGIC + f"{checksum:08x}\n".encode()


def _read(place: Path, path: Path, source: Source) -> IndexedAnnotation | None:
    """The annotation of `path` from the index at `place`; None where there is none, or one that cannot be used."""
    try:
        with place.open("rb") as file:
            first_line = file.read(len(_first_line(0)))
            if first_line != _first_line(_checksum(file)):
                return None
            file.seek(len(first_line))
            header = _Header(**json.loads(file.readline()))
            if Source(*header.source) != source:
                return None
            # A map keeps the file open by itself.
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            arrays = _Arrays(*_mapped(content, file.tell(), header))
    except (OSError, ValueError, TypeError):
        return None
    return IndexedAnnotation(
        path,
        CategoryTable.from_coco(header.categories, str(place)),
        JsonRows(ImageInfo, arrays.image_text, arrays.image_starts),
        arrays.rows,
        arrays.starts,
        JsonRows(str, arrays.unannotated_text, arrays.unannotated_starts),
        source,
    )


def _checksum(file: BinaryIO) -> int:
    """CRC-32 of what is left of the file; read, not mapped, so that it does not count as memory of the process."""
    checksum = 0
    while block := file.read(_BLOCK):
        checksum = zlib.crc32(block, checksum)
    return checksum


def _mapped(content: mmap.mmap, offset: int, header: _Header) -> Iterator[npt.NDArray[Any]]:
    """The arrays, read-only; ValueError where one would reach beyond the file."""
    types = [np.dtype("<i8")] * 3 + [row_type(header.row_types)] + [np.dtype("u1")] * 2
    for kind, length in zip(types, header.lengths, strict=True):
        yield np.frombuffer(content, kind, length, offset)
        offset += length * kind.itemsize
