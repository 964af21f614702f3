"""The training batches of each optimizer step; the number of processes does not change the images they contain."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from panformer_cli.data.augmentation import TrainTransform
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_png import expect_reads
from panformer_cli.data.copy_paste import images_with_things, other_image
from panformer_cli.data.epoch_order import Draw, EpochOrder, repeat_factors
from panformer_cli.data.opencv import cv2
from panformer_cli.data.structures import Batch, Sample, Targets
from panformer_cli.data.worker_process import end_if_a_batch_is_lost, leave_stopping_to_parent
from panformer_cli.errors import DataError, PanformerError, RecipeError
from panformer_cli.settings import DataSettings, TrainSettings


class LoadingSettings(Protocol):
    """The part of a recipe that loading needs."""

    @property
    def data(self) -> DataSettings: ...

    @property
    def train(self) -> TrainSettings: ...


class WorkerDiedError(PanformerError):
    """A data loading process died, or could not send its batch."""

    may_pass = True


class TrainItem(NamedTuple):
    """An augmented image (3, H, W) float32 with its targets, and the errors of the bad images it replaces."""

    image: Tensor
    targets: Targets
    image_id: int | str
    skipped: tuple[str, ...] = ()


def collate(items: Sequence[TrainItem]) -> Batch:
    """Return a batch of images of any size, each in the top-left corner of a zero canvas of the largest size."""
    height = max(item.image.shape[1] for item in items)
    width = max(item.image.shape[2] for item in items)
    images = torch.zeros(len(items), 3, height, width)
    padding_mask = torch.ones(len(items), height, width, dtype=torch.bool)
    for number, item in enumerate(items):
        _, h, w = item.image.shape
        images[number, :, :h, :w] = item.image
        padding_mask[number, :h, :w] = False
    return Batch(images, padding_mask, [item.targets for item in items], [item.image_id for item in items])


class TrainDataset(Dataset[TrainItem]):
    """Augmented items by `Draw`: the same draw gives the same item in every process and after a resume.

    With `data.skip_bad_images`, an image that raises `DataError` is replaced by the next good one in the data set.

    Raises:
        RecipeError: `data.copy_paste` is used, but no image has a thing to paste.
    """

    def __init__(self, dataset: CocoPanoptic, recipe: LoadingSettings) -> None:
        self._dataset = dataset
        self._transform = TrainTransform(recipe.data, dataset.categories)
        self._seed = recipe.train.seed
        self._skip = recipe.data.skip_bad_images
        self._paste = recipe.data.copy_paste
        if self._paste:
            self._sources = images_with_things(dataset.listed)
            if not len(self._sources):
                raise RecipeError(
                    f"data.copy_paste is {self._paste}, but {dataset.layout.annotation} has no thing to paste; "
                    "set it to 0"
                )

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, draw: Draw) -> TrainItem:
        # A last number of 0 is used for the order of the epoch.
        rng = np.random.default_rng((self._seed, draw.epoch, draw.position + 1))
        sample, skipped = self._read(draw.image)
        paste_from = None
        if self._paste and rng.random() < self._paste:
            paste_from, more = self._read(other_image(self._sources, draw.image, rng))
            skipped += more
        return TrainItem(*self._transform(sample, rng, paste_from), sample.image_id, tuple(skipped))

    def _read(self, first: int) -> tuple[Sample, list[str]]:
        skipped: list[str] = []
        for offset in range(len(self)):
            try:
                return self._dataset[(first + offset) % len(self)], skipped
            except DataError as error:
                if not self._skip:
                    raise
                skipped.append(str(error))
        raise DataError(f"none of the {len(self)} training images can be used; first error: {skipped[0]}")


def train_loader(dataset: CocoPanoptic, recipe: LoadingSettings, rank: int = 0, world_size: int = 1) -> TrainLoader:
    """Return the training batches of rank `rank` of `world_size`.

    Raises:
        RecipeError: `train.batch_size` cannot be divided evenly.
    """
    train = recipe.train
    together = world_size * train.images_per_forward
    if train.batch_size % together:
        raise RecipeError(
            f"train.batch_size is {train.batch_size}: expected a multiple of {together} ({world_size} processes x "
            f"train.images_per_forward {train.images_per_forward}); set train.batch_size to "
            f"{max(together, train.batch_size // together * together)}, or change the number of processes or images"
        )
    return TrainLoader(dataset, recipe, rank, world_size)


class TrainLoader:
    """The batches of one rank for each optimizer step; created by `train_loader`.

    Attributes:
        steps_per_epoch: optimizer steps in an epoch.
        skipped: the error of each image that this rank skipped, in order of occurrence.
    """

    def __init__(self, dataset: CocoPanoptic, recipe: LoadingSettings, rank: int, world_size: int) -> None:
        train = recipe.train
        threshold = recipe.data.repeat_factor
        factors = repeat_factors(dataset.listed, threshold) if threshold else None
        self._order = EpochOrder(len(dataset), train.batch_size, train.seed, factors)
        self._images_per_forward = train.images_per_forward
        share = train.batch_size // world_size
        self._share = slice(rank * share, (rank + 1) * share)
        self._forwards = _Forwards()
        workers = min(recipe.data.workers, os.cpu_count() or 1)  # more would only compete for the cores
        if not workers or _START_METHOD == "fork":  # forked workers share what this process has loaded
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
            # Otherwise every epoch would draw from torch's global generator, and a resumed run would differ.
            generator=torch.Generator(),
        )
        self.steps_per_epoch = self._order.steps
        self.skipped: list[str] = []

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """Yield the batches of this rank for each optimizer step from `first_step` on.

        Raises:
            DataError: an image cannot be used (with `data.skip_bad_images`: no image can be used).
            WorkerDiedError: a worker process died.
        """
        size = self._images_per_forward
        steps = [step[self._share] for step in self._order.step_draws(epoch, first_step)]
        self._forwards.draws = [step[at : at + size] for step in steps for at in range(0, len(step), size)]
        with _explained_failures(), _same_child_handler():
            loaded = iter(self._loader)
        for step in steps:
            yield [self._unpacked(self._next(loaded)) for _ in range(len(step) // size)]

    def _next(self, loaded: Iterator[_Loaded]) -> _Loaded:
        with _explained_failures():
            return next(loaded)

    def _unpacked(self, loaded: _Loaded) -> Batch:
        if isinstance(loaded, PanformerError):
            # Raising `loaded` itself would create a reference cycle that keeps the workers alive for seconds.
            raise type(loaded)(str(loaded))
        batch, skipped = loaded
        self.skipped += [problem for problem in skipped if problem not in self.skipped]
        return batch


_Loaded = tuple[Batch, list[str]] | PanformerError


_START_METHOD = "fork" if sys.platform == "linux" else None
"""Start method of the worker processes; None is the default of the platform.

Since Python 3.14 the default on Linux is forkserver. A SIGTERM to the whole process group ends the server, and with it
the workers, before the run is saved.
"""


class _Forwards(Sampler[list[Draw]]):
    """The images that the workers read in this epoch, one forward pass at a time."""

    def __init__(self) -> None:
        self.draws: list[list[Draw]] = []

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self.draws)


class _ForwardDataset(Dataset[_Loaded]):
    """Batches with their skipped images. Errors are returned, since torch would put a traceback in the message."""

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


@contextlib.contextmanager
def _explained_failures() -> Iterator[None]:
    """Turn the failures of worker processes into one sentence."""
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, (ConnectionError, EOFError)):  # it died while it sent a batch
            reason = f"DataLoader worker: {reason or type(error).__name__}"
        if isinstance(error, OSError) and error.errno == errno.EMFILE or reason.startswith(_OPEN_FILES):
            raise WorkerDiedError(
                f"data loading ran out of open files ({reason}); raise the limit with `ulimit -n`, or set data.workers "
                "lower (0 loads images in the training process), and continue with --resume"
            ) from error
        if not reason.startswith("DataLoader worker"):
            raise
        raise WorkerDiedError(
            f"a data loading worker died ({reason}), possibly because memory, shared memory (/dev/shm) or open files "
            "(ulimit -n) ran out; set data.workers lower (0 loads images in the training process) and continue with "
            "--resume"
        ) from error


_OPEN_FILES = ("received 0 items of ancdata", "Too many open files")


@contextlib.contextmanager
def _same_child_handler() -> Iterator[None]:
    """Keep the handler of SIGCHLD. That of torch raises an error in the middle of a step or while a run is saved.

    A worker that died is noticed when its batch is missing.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _start_worker(images: int, worker: int) -> None:
    del worker
    expect_reads(images)
    # Images are read in parallel by processes, not threads.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    leave_stopping_to_parent()
    end_if_a_batch_is_lost()
