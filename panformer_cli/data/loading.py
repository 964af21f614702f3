"""From a data set to the batches of every optimiser step, the same ones however many processes share the work."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_png import expect_reads
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import Batch, Sample, Targets
from panformer_cli.data.transforms import TrainTransform
from panformer_cli.errors import DataError, PanformerError, RecipeError
from panformer_cli.settings import DataSettings, TrainSettings


class LoadingSettings(Protocol):
    """The part of a recipe that loading needs."""

    @property
    def data(self) -> DataSettings: ...

    @property
    def train(self) -> TrainSettings: ...


class Draw(NamedTuple):
    """Which image comes where in training: everything that its random augmentation depends on, but the seed."""

    epoch: int
    position: int
    """Place in the epoch's order of images, from 0."""
    image: int
    """Place in the data set."""


class TrainItem(NamedTuple):
    """An augmented image (3, H, W) float32 with its targets, and the errors of the bad images it stands in for."""

    image: Tensor
    targets: Targets
    image_id: int | str
    skipped: tuple[str, ...] = ()


def collate(items: Sequence[TrainItem]) -> Batch:
    """Put images of any sizes top-left on a zero canvas of the largest height and width."""
    height = max(item.image.shape[1] for item in items)
    width = max(item.image.shape[2] for item in items)
    images = torch.zeros(len(items), 3, height, width)
    padding_mask = torch.ones(len(items), height, width, dtype=torch.bool)
    for number, item in enumerate(items):
        _, h, w = item.image.shape
        images[number, :, :h, :w] = item.image
        padding_mask[number, :h, :w] = False
    return Batch(images, padding_mask, [item.targets for item in items], [item.image_id for item in items])


class EpochOrder:
    """The shuffled images of an epoch, cut into optimiser steps.

    The order depends on seed and epoch alone. Images that do not fill a last step are left out; of fewer images than
    one step takes, some are used more than once.
    """

    def __init__(self, images: int, batch_size: int, seed: int) -> None:
        self._images = images
        self._batch_size = batch_size
        self._seed = seed
        self.steps = max(1, images // batch_size)

    def step_draws(self, epoch: int, first_step: int = 0) -> list[list[Draw]]:
        """The `batch_size` images of each step from `first_step` on."""
        order = np.random.default_rng((self._seed, epoch, 0)).permutation(self._images)
        order = np.resize(order, self.steps * self._batch_size)  # cuts, or repeats from the start
        draws = [Draw(epoch, position, image) for position, image in enumerate(order.tolist())]
        starts = range(first_step * self._batch_size, len(draws), self._batch_size)
        return [draws[start : start + self._batch_size] for start in starts]


class TrainDataset(Dataset[TrainItem]):
    """Augmented items by `Draw`: the same draw gives the same item in every process and after every resume.

    With `data.skip_bad_images`, the next good image of the data set takes the place of one that raises `DataError`.
    """

    def __init__(self, dataset: CocoPanoptic, recipe: LoadingSettings) -> None:
        self._dataset = dataset
        self._transform = TrainTransform(recipe.data, dataset.categories)
        self._seed = recipe.train.seed
        self._skip = recipe.data.skip_bad_images

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, draw: Draw) -> TrainItem:
        # 0 in the last place is the epoch's order.
        rng = np.random.default_rng((self._seed, draw.epoch, draw.position + 1))
        sample, skipped = self._read(draw.image)
        return TrainItem(*self._transform(sample, rng), sample.image_id, tuple(skipped))

    def _read(self, first: int) -> tuple[Sample, list[str]]:
        skipped: list[str] = []
        for offset in range(len(self)):
            try:
                return self._dataset[(first + offset) % len(self)], skipped
            except DataError as error:
                if not self._skip:
                    raise
                skipped.append(str(error))
        raise DataError(f"none of the {len(self)} training images can be used; the first problem: {skipped[0]}")


def train_loader(dataset: CocoPanoptic, recipe: LoadingSettings, rank: int = 0, world_size: int = 1) -> TrainLoader:
    """The training batches of process `rank` of `world_size`.

    Raises:
        RecipeError: `train.batch_size` cannot be shared evenly.
    """
    train = recipe.train
    together = world_size * train.images_per_forward
    if train.batch_size % together:
        raise RecipeError(
            f"train.batch_size is {train.batch_size}: expected a multiple of {together} ({world_size} processes x "
            f"train.images_per_forward {train.images_per_forward}); set train.batch_size to "
            f"{max(together, train.batch_size // together * together)}, or use other numbers of processes or images"
        )
    return TrainLoader(dataset, recipe, rank, world_size)


class TrainLoader:
    """Batches of one process, optimiser step by optimiser step; made by `train_loader`.

    steps_per_epoch: optimiser steps in an epoch.
    skipped: what was wrong with each image that this process left out, in the order of meeting it.
    """

    def __init__(self, dataset: CocoPanoptic, recipe: LoadingSettings, rank: int, world_size: int) -> None:
        train = recipe.train
        self._order = EpochOrder(len(dataset), train.batch_size, train.seed)
        self._images_per_forward = train.images_per_forward
        share = train.batch_size // world_size
        self._share = slice(rank * share, (rank + 1) * share)
        self._forwards = _Forwards()
        workers = min(recipe.data.workers, os.cpu_count() or 1)  # more only wait for each other
        if not workers:
            expect_reads(len(dataset))
        self._loader: DataLoader[_Loaded] = DataLoader(
            _ForwardDataset(TrainDataset(dataset, recipe)),
            batch_size=None,
            sampler=self._forwards,
            num_workers=workers,
            multiprocessing_context=_START_METHOD if workers else None,
            persistent_workers=workers > 0,
            collate_fn=_unchanged,
            worker_init_fn=partial(_start_worker, len(dataset)),
            # Otherwise every epoch would take a number from torch's own generator, and a resumed run another one.
            generator=torch.Generator(),
        )
        self.steps_per_epoch = self._order.steps
        self.skipped: list[str] = []

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """For each optimiser step from `first_step` on, the batches that this process sends through the model.

        Raises:
            DataError: an image cannot be used (with `data.skip_bad_images`: none can).
            PanformerError: a worker process died.
        """
        size = self._images_per_forward
        steps = [step[self._share] for step in self._order.step_draws(epoch, first_step)]
        self._forwards.draws = [step[at : at + size] for step in steps for at in range(0, len(step), size)]
        loaded = iter(self._loader)
        for step in steps:
            yield [self._unpacked(_next(loaded)) for _ in range(len(step) // size)]

    def _unpacked(self, loaded: _Loaded) -> Batch:
        if isinstance(loaded, PanformerError):
            # Raising `loaded` itself would tie it and this frame in a circle, and keep the workers alive for seconds.
            raise type(loaded)(str(loaded))
        batch, skipped = loaded
        self.skipped += [problem for problem in skipped if problem not in self.skipped]
        return batch


_Loaded = tuple[Batch, list[str]] | PanformerError


_START_METHOD = "fork" if sys.platform == "linux" else None
"""Of worker processes; None is the system's default.

From Python 3.14 on the default on Linux is a server that starts them. A SIGTERM to the whole process group ends the
server, and the workers with it, before the run is saved.
"""


class _Forwards(Sampler[list[Draw]]):
    """What the worker processes are to read in this epoch: the images of one forward pass at a time."""

    def __init__(self) -> None:
        self.draws: list[list[Draw]] = []

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self.draws)


class _ForwardDataset(Dataset[_Loaded]):
    """Batches with what was skipped. Our errors are returned, since torch would put a traceback into their message."""

    def __init__(self, items: TrainDataset) -> None:
        self._items = items

    def __getitem__(self, draws: list[Draw]) -> _Loaded:
        try:
            items = [self._items[draw] for draw in draws]
        except PanformerError as error:
            return error.with_traceback(None)
        return collate(items), [problem for item in items for problem in item.skipped]


def _unchanged(loaded: Any) -> Any:
    return loaded


def _next(loaded: Iterator[_Loaded]) -> _Loaded:
    try:
        return next(loaded)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if not reason.startswith("DataLoader worker"):
            raise
        raise PanformerError(
            f"a process that reads images ended ({reason}), probably because the system ran out of memory or shared "
            "memory (/dev/shm); set data.workers lower (0 reads in the training process) and resume with --resume"
        ) from error


def _start_worker(images: int, worker: int) -> None:
    del worker
    expect_reads(images)
    # One process an image is enough; and an interrupt is for the training process, which still wants its batch.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # so is the SIGTERM that torchrun and batch systems send to a whole group of processes
