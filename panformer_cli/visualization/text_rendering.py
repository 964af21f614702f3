"""Text rendering at any size, independent of installed fonts."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from panformer_cli.data.opencv import cv2

Coverage = npt.NDArray[np.uint8]
"""(H, W) uint8: coverage of each pixel, 0..255."""


def text_coverage(text: str, size: int) -> Coverage:
    """Return one line of text as (height, width); the height depends only on `size`, the font size in pixels.

    ASCII is drawn with Pillow's font, other text with the fonts of OpenCV 5. Older versions of OpenCV have no fonts:
    accents are dropped, and other non-ASCII characters become `?`.
    """
    line = _drawable(text)
    return _by_pillow(line, size) if line.isascii() else _by_opencv(line, size)


@lru_cache(maxsize=8192)
def text_size(text: str, size: int) -> tuple[int, int]:
    """Return the shape of `text_coverage(text, size)`, without drawing it."""
    line = _drawable(text)
    return _line_height(size), _pillow_width(line, size)[1] if line.isascii() else _opencv_width(line, size)


def _drawable(text: str) -> str:
    """Return one line that is ASCII or that OpenCV can draw."""
    line = " ".join(text.split()) or " "
    if line.isascii() or hasattr(cv2, "FontFace"):
        return line
    return unicodedata.normalize("NFKD", line).encode("ascii", "replace").decode()


@lru_cache(maxsize=16)
def _pillow_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _by_pillow(line: str, size: int) -> Coverage:
    left, width = _pillow_width(line, size)
    canvas = Image.new("L", (width, _line_height(size)))
    start = (-left, _line_height(size) // 2)
    ImageDraw.Draw(canvas).text(start, line, fill=255, font=_pillow_font(size), anchor="lm")
    return np.asarray(canvas)


def _pillow_width(line: str, size: int) -> tuple[float, int]:
    """Return where the first letter begins, and the width in pixels."""
    left, _, right, _ = _pillow_font(size).getbbox(line)
    return left, max(1, int(np.ceil(right - left)))


def _by_opencv(line: str, size: int) -> Coverage:
    height = _line_height(size)
    canvas = np.zeros((height, _opencv_width(line, size)), np.uint8)
    cv2.putText(canvas, line, (0, round(0.74 * height)), (255,), cv2.FontFace("sans"), size, weight=550)
    return np.asarray(canvas)


def _opencv_width(line: str, size: int) -> int:
    _, _, width, _ = cv2.getTextSize((0, 0), line, (0, 0), cv2.FontFace("sans"), size, weight=550)
    return max(1, int(width) + size // 4)


def _line_height(size: int) -> int:
    return round(1.25 * size) + 1
