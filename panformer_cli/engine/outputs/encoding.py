"""Files in memory: PNG and JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from panformer_cli.data.opencv import cv2


def png_bytes(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bytes:
    """Return a PNG of (H, W) uint8 or uint16 gray values, or of (H, W, 4) uint8 RGBA."""
    if pixels.ndim == 3:
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def json_bytes(content: Any) -> bytes:
    """Return a JSON text in UTF-8."""
    return json.dumps(content).encode("utf-8")
