"""trackio, a local tracker. https://huggingface.co/docs/trackio/api"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.trackers.tracker import Status, TrackedRun


def open_run(run: TrackedRun) -> _Trackio:
    """Open a run in the project $TRACKIO_PROJECT, or `panformer`."""
    return _Trackio(run)


class _Trackio:
    forgets = False

    def __init__(self, run: TrackedRun) -> None:
        # Imported by name, since type checkers find the package only where the extra is installed.
        self._trackio = importlib.import_module("trackio")
        self.id: str | None = run.id or run.name
        self._run: Any = self._trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "panformer"),
            name=self.id,
            resume="allow" if run.id else "never",
            config=dict(run.settings),
            embed=False,
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._trackio.log(dict(values), step=step)

    def images(self, images: Mapping[str, ImageArray], step: int) -> None:
        self._trackio.log({name: self._trackio.Image(image) for name, image in images.items()}, step=step)

    def finish(self, status: Status) -> None:
        del status  # it has only one
        self._trackio.finish()
