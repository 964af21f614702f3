"""OpenCV, imported in one place so that a system without its libraries gets one sentence."""

from __future__ import annotations

from panformer_cli.errors import PanformerError

try:
    import cv2
except ImportError as error:
    if "shared object" not in str(error) and "libGL" not in str(error):
        raise
    raise PanformerError(
        f"OpenCV cannot start ({error}): this system lacks the libraries of a desktop; "
        "run `pip uninstall opencv-python` and `pip install opencv-python-headless` in its place"
    ) from error

__all__ = ["cv2"]
