"""OpenCV, imported in one place so that a system without its libraries gets a clear error, and made silent."""

from __future__ import annotations

import os

from panformer_cli.errors import PanformerError

try:
    import cv2
except ImportError as error:
    if "shared object" not in str(error) and "libGL" not in str(error):
        raise
    raise PanformerError(
        f"OpenCV cannot be imported ({error}): this system has no desktop libraries; "
        "run `pip uninstall opencv-python`, then `pip install opencv-python-headless`"
    ) from error

__all__ = ["cv2"]

if "OPENCV_LOG_LEVEL" not in os.environ:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when a video is opened; -8 is silent
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are reported by the callers
