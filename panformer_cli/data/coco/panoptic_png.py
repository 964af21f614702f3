"""COCO's panoptic PNGs: segment ids as colors, id = R + 256 G + 65536 B."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from panformer_cli.data.coco.png_codec import decode_plain, encode_plain, load
from panformer_cli.data.images import decode, read_bytes
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import IdMap, ImageArray
from panformer_cli.errors import DataError
from panformer_cli.storage.files import atomic_write

MAX_ID = 256**3 - 1
"""The largest segment id that a color can represent."""
MANY_READS = 400
"""From this number of PNGs on, the faster decoder saves more time than it takes to load: 0.85 s on a CPU that reads a
PNG of COCO in 2.5 ms with OpenCV and in 0.6 ms with the faster decoder (docs/log/2026-11-28-structure.md)."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {0: "grayscale", 2: "RGB", 3: "palette", 4: "grayscale with alpha", 6: "RGB with alpha"}
_NO_EXIF = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def encode_ids(ids: IdMap) -> ImageArray:
    """Return segment ids (H, W), each 0 .. MAX_ID, as colors (H, W, 3) uint8 RGB.

    >>> encode_ids(np.array([[0, 1 + 256 * 2 + 65536 * 3]], np.int32)).tolist()
    [[[0, 0, 0], [1, 2, 3]]]
    """
    if ids.size and not (ids.min() >= 0 and ids.max() <= MAX_ID):
        raise DataError(f"segment ids range from {ids.min()} to {ids.max()}; a panoptic PNG can store 0 to {MAX_ID}")
    if not ids.size:
        return np.zeros((*ids.shape, 3), np.uint8)
    rgba = np.ascontiguousarray(ids, "<i4")[..., None].view(np.uint8)
    return np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), np.uint8)


def write_panoptic_png(path: Path, ids: IdMap, waits_for_disk: bool = True) -> None:
    """Write segment ids (H, W) atomically; `waits_for_disk` and errors as `files.atomic_write` and `encode_ids`."""
    data = encode_panoptic_png(ids)
    with atomic_write(path, waits_for_disk) as temporary:
        temporary.write_bytes(data)


def encode_panoptic_png(ids: IdMap) -> bytes:
    """Return the content of a panoptic PNG of segment ids (H, W); errors as `encode_ids`."""
    rgb = encode_ids(ids)
    data = encode_plain(rgb)
    return cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes() if data is None else data


def expect_reads(number: int) -> None:
    """Load the faster decoder if it pays off for `number` PNGs. Without it, OpenCV reads PNGs."""
    if number >= MANY_READS:
        load()


def read_panoptic_png(path: Path, data: bytes | None = None) -> IdMap:
    """Return the segment ids (H, W) int32 of a panoptic PNG.

    Args:
        path: the PNG.
        data: its content, if already read.

    Raises:
        DataError: the file is missing, corrupt or not an 8-bit RGB PNG.
    """
    if data is None:
        data = read_bytes(path, "panoptic PNG")
    header = read_png_header(data)
    if header is None:
        raise DataError(f"{path} is not a PNG; expected an 8-bit RGB PNG with id = R + 256 G + 65536 B")
    if not header.is_rgb8:
        article = "an" if header.depth == 8 else "a"
        found = f"{article} {header.depth}-bit {_COLOR_TYPES.get(header.color_type, 'unknown')}"
        raise DataError(f"{path} is {found} PNG; expected an 8-bit RGB PNG with id = R + 256 G + 65536 B")
    ids = decode_panoptic_png(data)
    if ids is None:
        raise DataError(f"{path} is corrupt or truncated: it cannot be decoded; restore the file")
    return ids


class PngHeader(NamedTuple):
    """The header of a PNG.

    Attributes:
        width: In pixels.
        height: In pixels.
        depth: Bits per channel.
        color_type: As the PNG specification numbers them; 2 is RGB.
    """

    width: int
    height: int
    depth: int
    color_type: int

    @property
    def is_rgb8(self) -> bool:
        """Whether the PNG is 8-bit RGB, as panoptic PNGs are."""
        return (self.depth, self.color_type) == (8, 2)


def read_png_header(data: bytes) -> PngHeader | None:
    """Return the header of a PNG; None if `data` is not a PNG."""
    if not data.startswith(_SIGNATURE) or len(data) < 33:
        return None
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    return PngHeader(width, height, data[24], data[25])


def decode_panoptic_png(data: bytes) -> IdMap | None:
    """Return the segment ids (H, W) int32 of an 8-bit RGB PNG; None if it is corrupt."""
    ids = decode_plain(data)
    if ids is not None:
        return ids
    bgr = decode(data, _NO_EXIF) if b"IEND" in data[-64:] else None
    return None if bgr is None else _ids_of(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA), np.uint8))


def _ids_of(rgba: npt.NDArray[np.uint8]) -> IdMap:
    """Return (H, W) int32 of (H, W, 4), in place, because allocating memory takes longer than the arithmetic."""
    ids = rgba.view("<i4")[..., 0]
    ids &= MAX_ID  # without alpha
    return ids.astype(np.int32, copy=False)


def id_runs(ids: IdMap) -> tuple[IdMap, npt.NDArray[np.intp]]:
    """Return values and lengths of the runs of equal ids in row order: thousands of runs instead of a million pixels.

    >>> id_runs(np.array([[5, 5], [5, 0]], np.int32))
    (array([5, 0], dtype=int32), array([3, 1]))
    """
    flat = ids.reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1)) if flat.size else np.zeros(0, np.intp)
    return flat[starts], np.diff(starts, append=flat.size)


def segment_ids(ids: IdMap) -> set[int]:
    """Return the ids in a map, without void (0)."""
    return set(np.unique(id_runs(ids)[0]).tolist()) - {0}
