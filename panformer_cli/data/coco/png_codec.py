"""A fast codec for plain PNGs of segment ids, several times as fast as libpng.

Reading needs numba, which a process must `load` first; that takes as long as OpenCV takes for about 400 PNGs.

OpenCV spends most of the time in zlib; zlib-ng computes the same in a fraction of the time. Unusual and corrupt files
are left to OpenCV, so both ways give the same pixels and errors. (PNG specification, third edition, W3C 2025.)
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from zlib import crc32

import numpy as np
import numpy.typing as npt

from panformer_cli.data.structures import IdMap, ImageArray

try:
    from zlib_ng import zlib_ng as _zlib
except ImportError:  # no wheels for this CPU architecture
    _zlib = None  # type: ignore[assignment]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB = bytes((8, 2, 0, 0, 0))
"""The end of the header: 8 bits, RGB, the only compression and filter methods, not interlaced."""
_END = b"\0\0\0\0IEND\xaeB`\x82"
_ZLIB_START = 0x78
"""Deflate with the maximum window, which all decoders handle alike."""
_MAX_SIDE = 2**15
"""In pixels; OpenCV rejects images of more than 2^30 pixels."""
_MAX_INFLATION = 1032
"""Maximum ratio of deflate (RFC 1951: 258 bytes from two bits). No memory is allocated for headers that claim more."""
_BLOCK = 2**18
"""Approximate bytes inflated at a time: they fit in the cache and limit the memory for large images."""
_UP = 2
_LEVEL = 2
"""Level of zlib-ng; half the size of level 1 for 25 % more time."""

_unfilter: Callable[[npt.NDArray[np.uint8], IdMap, int], bool] | None = None
"""The compiled loop, if loaded."""


def decode_plain(data: bytes) -> IdMap | None:
    """Return the segment ids (H, W) int32 of a PNG, or None if OpenCV must read or reject it.

    Args:
        data: a complete 8-bit RGB PNG, not interlaced, with no optional chunks. Anything else gives None, as does a
            missing zlib-ng or a process without `load`.
    """
    content = None if _zlib is None or _unfilter is None else _content(data)
    if content is None or _unfilter is None:
        return None
    try:
        return _inflated(*content, _unfilter)
    except (_zlib.error, MemoryError):  # type: ignore[misc]
        return None


def encode_plain(rgb: ImageArray) -> bytes | None:
    """Return colors (H, W, 3) uint8 as a PNG with the filter Up, or None if zlib-ng is missing."""
    height, width, _ = rgb.shape
    if _zlib is None or not rgb.size:
        return None
    pixels = rgb.reshape(height, 3 * width)
    lines = np.empty((height, 1 + 3 * width), np.uint8)
    lines[:, 0] = _UP
    lines[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=lines[1:, 1:])
    header = _chunk(b"IHDR", struct.pack(">II", width, height) + _RGB)
    return _SIGNATURE + header + _chunk(b"IDAT", _zlib.compress(lines, _LEVEL)) + _END


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc32(body, crc32(kind)))


def _content(data: bytes) -> tuple[int, int, bytes] | None:
    """Return height, width and the compressed rows of a plain PNG; None for other files."""
    if not (data.startswith(_SIGNATURE) and data.endswith(_END)):
        return None
    parts: list[bytes] = []
    position, end = len(_SIGNATURE), len(data) - len(_END)
    while position < end:
        length, kind = struct.unpack_from(">I4s", data, position)
        stop = position + 8 + length
        if stop + 4 > end or kind != (b"IDAT" if parts else b"IHDR"):
            return None
        if crc32(data[position + 4 : stop]) != int.from_bytes(data[stop : stop + 4], "big"):
            return None
        parts.append(data[position + 8 : stop])
        position = stop + 4
    if not parts or len(parts[0]) != 13 or not parts[0].endswith(_RGB):
        return None
    width, height = struct.unpack_from(">II", parts[0])
    lines = b"".join(parts[1:])
    sane = 0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE and lines[:1] == bytes((_ZLIB_START,))
    return (height, width, lines) if sane and height * (1 + 3 * width) <= _MAX_INFLATION * len(lines) else None


def _inflated(height: int, width: int, compressed: bytes, unfilter: Callable[..., bool]) -> IdMap | None:
    """Return the ids, decoded block by block; None if the rows are not as expected."""
    stream, stride = _zlib.decompressobj(), 1 + 3 * width
    rows = max(1, _BLOCK // stride)
    ids = np.empty((height, width), np.int32)
    for first in range(0, height, rows):
        size = min(rows, height - first) * stride
        block = stream.decompress(compressed, size)
        if len(block) != size or not unfilter(np.frombuffer(block, np.uint8), ids, first):
            return None
        compressed = stream.unconsumed_tail
    ended = stream.eof or (not stream.decompress(compressed, 1) and stream.eof)
    return ids if ended and not stream.unused_data else None


def load() -> None:
    """Load what `decode_plain` needs into this process, and into processes forked from it later."""
    global _unfilter
    if is_loaded() or _zlib is None or sys.byteorder != "little":
        return
    try:
        from panformer_cli.data.coco.png_filters import unfilter
    except ImportError:
        return
    unfilter(np.frombuffer(bytes(4), np.uint8), np.zeros((1, 1), np.int32), 0)  # compiles it, or loads its cache
    _unfilter = unfilter


def is_loaded() -> bool:
    """Return whether this process has loaded what `decode_plain` needs."""
    return _unfilter is not None
