"""PNGs of segment ids without libpng: several times as fast, for files of the plainest kind.

Reading takes numba, which a process must `load` first: this takes as long as OpenCV takes for some 400 PNGs.

zlib takes most of the time in which OpenCV reads or writes such a file. zlib-ng computes the same in a fraction of it.
What is unusual or damaged is left to OpenCV, so both ways give the same pixels and the same errors. (PNG specification,
third edition, W3C 2025.)
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
except ImportError:  # no wheels for this kind of processor
    _zlib = None  # type: ignore[assignment]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB = bytes((8, 2, 0, 0, 0))
"""The end of a header: 8 bits, RGB, the only compression, the only set of filters, not interlaced."""
_END = b"\0\0\0\0IEND\xaeB`\x82"
_ZLIB_START = 0x78
"""Deflate with the full window: nothing can point back farther than that, so every decoder takes it the same."""
_MAX_SIDE = 2**15
"""Pixels; OpenCV refuses images of more than 2^30."""
_MAX_INFLATION = 1032
"""Deflate makes at most so many bytes of one (RFC 1951: 258 of two bits); a header that claims more takes no memory."""
_BLOCK = 2**18
"""Bytes inflated at a time, about: they stay in the cache, and the largest image takes no more memory for it."""
_UP = 2
_LEVEL = 2
"""Of zlib-ng: half the bytes of 1, in a quarter more time."""

_unfilter: Callable[[npt.NDArray[np.uint8], IdMap, int], bool] | None = None
"""The compiled loop, once it is loaded."""


def decode_plain(data: bytes) -> IdMap | None:
    """Segment ids (H, W) int32 of a PNG; None where OpenCV has to read or refuse it.

    data: 8-bit RGB, not interlaced, whole, without a chunk that is not necessary; all else gives None, as does a
    process without zlib-ng or before `load`.
    """
    content = None if _zlib is None or _unfilter is None else _content(data)
    if content is None or _unfilter is None:
        return None
    try:
        return _inflated(*content, _unfilter)
    except (_zlib.error, MemoryError):  # type: ignore[misc]
        return None


def encode_plain(rgb: ImageArray) -> bytes | None:
    """The PNG of colours (H, W, 3) uint8, each line stored as its change to the last; None where zlib-ng is missing."""
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
    """Height, width and the compressed lines of a PNG that holds nothing else; None of any other."""
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
    """The pixels, block by block; None where there are more, fewer or other lines than expected."""
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
    """Load what `decode_plain` needs into this process, and into those that are forked from it later."""
    global _unfilter
    if is_loaded() or _zlib is None or sys.byteorder != "little":
        return
    try:
        from panformer_cli.data.coco.png_filters import unfilter
    except ImportError:
        return
    unfilter(np.frombuffer(bytes(4), np.uint8), np.zeros((1, 1), np.int32), 0)  # compiles it, or reads it from disk
    _unfilter = unfilter


def is_loaded() -> bool:
    """Return whether this process has what `decode_plain` needs."""
    return _unfilter is not None
