"""MLflow. https://mlflow.org/docs/latest/api_reference/python_api/mlflow.client.html"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping
from typing import Any

from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.trackers.tracker import Status, TrackedRun

_BATCH = 100
"""Most parameters that a server accepts in one request."""
_LENGTH = 500
"""Longest value of a parameter that every version of the server accepts."""
_STATUSES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


def open_run(run: TrackedRun) -> _MLflow:
    """Open a run in the experiment $MLFLOW_EXPERIMENT_NAME, or `panformer`, of the server $MLFLOW_TRACKING_URI."""
    return _MLflow(run)


class _MLflow:
    forgets = False

    def __init__(self, run: TrackedRun) -> None:
        # Imported by name, since type checkers find the package only where the extra is installed.
        self._entities = importlib.import_module("mlflow.entities")
        self._client: Any = importlib.import_module("mlflow").MlflowClient()
        if run.id is not None:
            self.id = run.id
            self._client.update_run(run.id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "panformer")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        self.id = str(self._client.create_run(experiment, run_name=run.name).info.run_id)
        settings = [self._entities.Param(key, str(value)[:_LENGTH]) for key, value in run.settings.items()]
        for first in range(0, len(settings), _BATCH):
            self._client.log_batch(self.id, params=settings[first : first + _BATCH])

    def log(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(
            self.id, metrics=[self._entities.Metric(name, value, now, step) for name, value in values.items()]
        )

    def images(self, images: Mapping[str, ImageArray], step: int) -> None:
        for name, image in images.items():
            self._client.log_image(self.id, image, artifact_file=f"{name}/{step:07d}.png")

    def finish(self, status: Status) -> None:
        self._client.set_terminated(self.id, _STATUSES[status])
