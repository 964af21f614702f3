"""Small video files, written with OpenCV and then changed byte by byte."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np

from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.video.writing import FORMATS, VideoWriter

BY_SUFFIX = {form.suffix: form for form in FORMATS}
BY_SUFFIX[".mp4"] = next(form for form in FORMATS if form.fourcc == "mp4v")


def numbered_frame(number: int, size: tuple[int, int] = (48, 64)) -> ImageArray:
    """Return a gray frame with a red corner at the top left and a white bar whose position is the number."""
    image = np.full((*size, 3), 60, np.uint8)
    image[:16, :16] = (230, 20, 20)
    image[24:, 4 * number % size[1] : 4 * number % size[1] + 4] = 255
    return image


def clip(path: Path, count: int = 10, size: tuple[int, int] = (48, 64), noise: bool = False, rate: float = 25) -> Path:
    """Write a video in the format of the suffix; with `noise`, no frame can be predicted from the one before."""
    random = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, BY_SUFFIX[path.suffix], size, rate) as writer:
        for number in range(count):
            writer.write(random.integers(0, 256, (*size, 3), np.uint8) if noise else numbered_frame(number, size))
    return path


def turn(path: Path) -> None:
    """Set the matrix of an MP4's track to a rotation by 90 degrees clockwise, as phones do."""
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd") + 4
    assert content[header] == 0, "version 0"
    matrix = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    content[header + 40 : header + 76] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


def set_times(path: Path, milliseconds: list[int]) -> None:
    """Set the time stamps of the frames of a small WebM."""
    content = bytearray(path.read_bytes())
    # A block is 0xA3, its size in one or two bytes, track 1 as 0x81, the time in two bytes, and flags.
    blocks = re.finditer(rb"\xa3[\x40-\xff].?\x81(..)[\x80\x00]", bytes(content), re.DOTALL)
    for block, time in zip(list(blocks), milliseconds, strict=True):
        content[block.start(1) : block.end(1)] = struct.pack(">h", time)
    path.write_bytes(content)


def damage(path: Path, start: float, length: float) -> None:
    """Overwrite a part of a file with random bytes; start and length are shares of the file."""
    content = bytearray(path.read_bytes())
    first, last = int(start * len(content)), int((start + length) * len(content))
    content[first:last] = np.random.default_rng(1).integers(0, 256, last - first, np.uint8).tobytes()
    path.write_bytes(content)


def truncate(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
