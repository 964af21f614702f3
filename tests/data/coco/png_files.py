"""PNGs built from the specification, valid and with faults."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

from tests.data.coco.coco_files import colors

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(height: int, width: int, kind: Sequence[int] = (8, 2, 0, 0, 0)) -> bytes:
    """Return the header; `kind` is bit depth, color type, compression, filter method, interlacing."""
    return chunk(b"IHDR", struct.pack(">II5B", width, height, *kind))


def image_data(compressed: bytes, pieces: int = 1) -> bytes:
    bounds = np.linspace(0, len(compressed), pieces + 1).astype(int)
    return b"".join(chunk(b"IDAT", compressed[a:b]) for a, b in zip(bounds, bounds[1:], strict=False))


END = chunk(b"IEND", b"")


def filtered(ids: np.ndarray, filters: Sequence[int]) -> bytes:
    """Return the rows of a map, each after the number of its filter: the pixels minus the prediction of the filter."""
    height, width = ids.shape
    padded = np.zeros((height + 1, width + 1, 3), np.int32)
    padded[1:, 1:] = colors(ids)
    here, left, above, corner = padded[1:, 1:], padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    estimate = left + above - corner
    candidates = np.stack([left, above, corner])
    paeth = np.take_along_axis(candidates, np.abs(estimate - candidates).argmin(0)[None], 0)[0]
    predictions = np.stack([np.zeros_like(here), left, above, (left + above) // 2, paeth])
    lines = (here - predictions[np.asarray(filters), np.arange(height)]).astype(np.uint8).reshape(height, -1)
    return np.column_stack((np.asarray(filters, np.uint8), lines)).tobytes()


def png(ids: np.ndarray, filters: Sequence[int], pieces: int = 1, level: int = 6) -> bytes:
    """Return a complete file; `pieces` is the number of IDAT chunks."""
    lines = zlib.compress(filtered(ids, filters), level)
    return SIGNATURE + header(*ids.shape) + image_data(lines, pieces) + END


def with_true_checksums(data: bytes) -> bytes:
    """Return `data` with corrected checksums, as far as it consists of chunks."""
    position, parts = len(SIGNATURE), [data[: len(SIGNATURE)]]
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if position + 12 + length > len(data):
            break
        parts.append(chunk(data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    return b"".join(parts) + data[position:]
