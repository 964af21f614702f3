"""TensorBoard: event files in the run folder. https://docs.pytorch.org/docs/stable/tensorboard.html"""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.trackers.tracker import Status, TrackedRun


def open_run(run: TrackedRun) -> _TensorBoard:
    """Open `FOLDER/tensorboard`; values after `run.step` disappear from the curves."""
    return _TensorBoard(run)


class _TensorBoard:
    id = None
    forgets = True

    def __init__(self, run: TrackedRun) -> None:
        folder = run.folder / "tensorboard"
        # Everything from this step on is dropped when the files are read.
        self._writer = SummaryWriter(str(folder), purge_step=run.step + 1 if folder.exists() else None)
        settings = "\n".join(f"    {name}: {json.dumps(value)}" for name, value in run.settings.items())
        self._writer.add_text("recipe", settings, run.step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a killed run loses nothing

    def images(self, images: Mapping[str, ImageArray], step: int) -> None:
        for name, image in images.items():
            self._writer.add_image(name, image, step, dataformats="HWC")
        self._writer.flush()

    def finish(self, status: Status) -> None:
        del status
        self._writer.close()
