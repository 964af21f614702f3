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
    line = " ".join(text.split()) or " "
    if not line.isascii():
        if hasattr(cv2, "FontFace"):
            return _by_opencv(line, size)
        line = unicodedata.normalize("NFKD", line).encode("ascii", "replace").decode()
    return _by_pillow(line, size)


@lru_cache(maxsize=16)
def _pillow_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _by_pillow(line: str, size: int) -> Coverage:
    font = _pillow_font(size)
    left, _, right, _ = font.getbbox(line)
    canvas = Image.new("L", (max(1, int(np.ceil(right - left))), _line_height(size)))
    ImageDraw.Draw(canvas).text((-left, _line_height(size) // 2), line, fill=255, font=font, anchor="lm")
    return np.asarray(canvas)


def _by_opencv(line: str, size: int) -> Coverage:
    font, height = cv2.FontFace("sans"), _line_height(size)
    _, _, width, _ = cv2.getTextSize((0, 0), line, (0, 0), font, size, weight=550)
    canvas = np.zeros((height, max(1, width + size // 4)), np.uint8)
    cv2.putText(canvas, line, (0, round(0.74 * height)), (255,), font, size, weight=550)
    return np.asarray(canvas)


def _line_height(size: int) -> int:
    return round(1.25 * size) + 1
