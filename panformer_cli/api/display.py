"""Show an image in a notebook or on the desktop."""

from __future__ import annotations

import os
import sys
from typing import Any

from PIL import Image, ImageShow

from panformer_cli.data.structures import ImageArray
from panformer_cli.errors import PanformerError


def show(image: ImageArray, title: str) -> None:
    """Show (H, W, 3) uint8 RGB below the cell of a notebook, else in the program for images of the desktop.

    Raises:
        PanformerError: No program shows images.
    """
    if (shell := _notebook()) is not None:
        shell.display(Image.fromarray(image))
    elif not _has_desktop() or not ImageShow.show(Image.fromarray(image), title):
        raise PanformerError(
            "no program was found that shows images; write the result to a folder with `result.save(folder)`, or use "
            "the array that `result.plot()` returns"
        )


def _has_desktop() -> bool:
    """Return whether there can be a window. On Linux, `xdg-open` would print a page of errors otherwise."""
    return sys.platform in ("win32", "darwin") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def _notebook() -> Any:
    """Return IPython's module `display` in a notebook; None in a terminal and in other programs.

    IPython is not imported here: without it, this is no notebook.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return sys.modules.get("IPython.display") if hasattr(shell, "kernel") else None
