"""OpenCV, imported in one place so that a system without its libraries gets a clear error."""

from __future__ import annotations

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
