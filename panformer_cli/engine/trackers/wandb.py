"""Weights & Biases. https://docs.wandb.ai/ref/python"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.trackers.tracker import Status, TrackedRun


def open_run(run: TrackedRun) -> _WeightsAndBiases:
    """Open a run in the project $WANDB_PROJECT, or `panformer`."""
    return _WeightsAndBiases(run)


class _WeightsAndBiases:
    forgets = False

    def __init__(self, run: TrackedRun) -> None:
        # Imported by name, since type checkers find the package only where the extra is installed.
        self._wandb = importlib.import_module("wandb")
        self._run: Any = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "panformer"),
            name=run.name,
            id=run.id,
            resume="allow" if run.id else None,
            dir=str(run.folder),
            config=dict(run.settings),
        )
        self.id: str | None = self._run.id
        # Its own step counter only moves forward, and drops what comes later: values are drawn over this one instead.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def images(self, images: Mapping[str, ImageArray], step: int) -> None:
        self._run.log({**{name: self._wandb.Image(image) for name, image in images.items()}, "step": step})

    def finish(self, status: Status) -> None:
        if status == "stopped":
            self._run.mark_preempting()  # shown as preempted, not as crashed
        self._run.finish(exit_code={"finished": 0, "stopped": 130, "failed": 1}[status])
