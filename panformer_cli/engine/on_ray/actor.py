"""The actor that predicts blocks: it loads the model once, and keeps it for all blocks that it receives."""

from __future__ import annotations

import json
import os
import platform
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from panformer_cli.data.structures import ImageArray
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.combined.choose import predictor_of
from panformer_cli.engine.distributed.runtime import Process, ProcessOptions, device_of, explained_out_of_memory
from panformer_cli.engine.on_ray.blocks import Block
from panformer_cli.engine.on_ray.table import Row, columns_of, failed_row, finished_rows, row_of, write_rows
from panformer_cli.engine.predict import PredictRequest
from panformer_cli.engine.predict_images import Failure, Loaded, failure_of, load_all, segmented_image
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.models.base import Prediction
from panformer_cli.models.layers.sampling import SamplingName


@dataclass(frozen=True)
class Job:
    """What every actor has to know.

    Attributes:
        request: What is predicted, without the images.
        folder: Working directory of the command, to which names are relative.
        files: Folder of the Parquet files.
        device: `cpu` or `cuda`; Ray shows an actor only its own GPU.
        threads: CPU threads of an actor.
        has_addresses: Whether some images are on the web or in an object store, so that reading is mostly waiting.
        sampling: Implementation of the sampling step of deformable attention.
    """

    request: PredictRequest
    folder: str
    files: Path
    device: str
    threads: int
    has_addresses: bool = False
    sampling: SamplingName = "auto"


class BlockActor:
    """Predicts blocks and writes their files. Ray creates one object per actor.

    It raises no PanformerError, since Ray would repeat the block as after a crash: the error is part of the report.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._name = secrets.token_hex(8)
        self._fatal = ""
        try:
            self._predictor = _BlockPredictor(job)
        except PanformerError as error:
            self._fatal = str(error)

    def __call__(self, batch: dict[str, npt.NDArray[np.object_]]) -> dict[str, list[str]]:
        """Return a report for each block, as JSON text.

        Args:
            batch: `name` and `images` of any number of blocks, see `Block.to_row`.
        """
        rows = zip(batch["name"], batch["images"], strict=True)  # two columns of the same rows
        return {"report": [json.dumps(self._report(Block.from_row(str(name), images))) for name, images in rows]}

    def _report(self, block: Block) -> dict[str, Any]:
        """Predict a block and return what happened."""
        report: dict[str, Any] = {"block": block.name, "images": len(block.images), "actor": self._name}
        if self._fatal:
            return {**report, "fatal": self._fatal}
        try:
            with explained_out_of_memory():
                return {**report, "failures": self._predictor(block)}
        except PanformerError as error:
            return {**report, "fatal": str(error)}


class _BlockPredictor:
    """Predicts the images of a block, decoding them here, and writes their file."""

    def __init__(self, job: Job) -> None:
        request = job.request
        _enter(job.folder)
        torch.set_num_threads(job.threads)
        process = Process(0, 1, device_of(ProcessOptions(device=job.device)), sampling=job.sampling)
        checkpoint = request.changes.applied_to(read_checkpoint(request.checkpoint))
        with explained_out_of_memory():
            self._predictor = predictor_of(checkpoint, process, request.precision, request.inference)
        self._files = job.files
        self._has_addresses = job.has_addresses
        self._batch_size = request.batch_size
        self._selection = request.output.selection(checkpoint.categories)
        self._categories = request.output.colored(checkpoint.categories)
        self._outputs = columns_of(request.output.save)

    def __call__(self, block: Block) -> list[Failure]:
        """Write the file of a block and return its images that failed.

        Rows that an earlier attempt finished are kept; the other images are predicted.
        """
        path = self._files / block.name
        rows: dict[int, Row] = {}
        finished = finished_rows(path)
        for index, source in enumerate(block.images):
            if source.name in finished:
                rows[index] = finished[source.name]
        failures: dict[int, Failure] = {}
        readable = self._read(block, rows, failures)
        for image, result in self._predictor.map(readable, self._finish, self._batch_size):
            self._keep(image, result, rows, failures)
        write_rows(path, [rows[index] for index in sorted(rows)], self._outputs)
        return [failures[index] for index in sorted(failures)]

    def _read(
        self, block: Block, rows: dict[int, Row], failures: dict[int, Failure]
    ) -> Iterator[tuple[Loaded, ImageArray]]:
        """Yield the readable images of a block that have no row yet."""
        waiting = [(index, source) for index, source in enumerate(block.images) if index not in rows]
        for image in load_all(waiting, self._has_addresses):
            if image.pixels is None:
                assert image.problem is not None, "an image without pixels has a problem"
                self._keep(image, image.problem, rows, failures)
            else:
                yield image, image.pixels

    def _finish(self, image: Loaded, prediction: Prediction) -> tuple[Loaded, Row | DataError]:
        """Return an image with its row, or the error if an output cannot represent the segmentation."""
        segmented = segmented_image(image, self._selection(prediction.panoptic), self._predictor, self._categories)
        try:
            return image, row_of(image.source, segmented, self._outputs, str(self._predictor.device))
        except DataError as error:
            return image, error

    def _keep(self, image: Loaded, result: Row | DataError, rows: dict[int, Row], failures: dict[int, Failure]) -> None:
        """Add an image to the rows and, if it failed, to the failures."""
        if isinstance(result, DataError):
            failures[image.index] = failure_of(image.source, result)
            result = failed_row(image.source, str(result), str(self._predictor.device))
        rows[image.index] = result


def _enter(folder: str) -> None:
    """Change to the working directory of the command."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise PanformerError(
            f"the machine {platform.node()} of the cluster cannot use the folder {folder} ({error.strerror}), in which "
            "the command was run; expected a folder that all machines share"
        ) from error
